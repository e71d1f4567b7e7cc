"""A model file in 8-bit integers by ONNX Runtime's static quantisation, calibrated on real patches."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

from monai_prox.errors import ProXError
from monai_prox.export.onnx_file import describe_again
from monai_prox.runtime.evaluation import HeldOut
from monai_prox.runtime.model import Model
from monai_prox.runtime.resampling import Array

QUANTISED = ["Conv", "ConvTranspose"]  # the norms stay as they are: they decide what integers mean
PATCHES = 4  # of a case, for calibration
FEWEST = 2  # cases: one to calibrate on and another to measure


@dataclass(frozen=True)
class Loss:
    """Mean score of the same cases before and after; calibrated: cases that the ranges come from, others.

    left_out: what is wrong with cases that could not be used, by name.
    """

    measure: str
    before: float
    after: float
    calibrated: int
    measured: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        change = f"{self.measure.capitalize()} {self.before:.4f} in float32, {self.after:.4f} in int8"
        without = "".join(f"; left out: {name}: {problem}" for name, problem in self.left_out.items())
        return f"{change}, {self.measured} cases; calibrated on {self.calibrated} others{without}"


def halves(cases: HeldOut) -> tuple[range, range]:
    """Every other case calibrates, the others measure. Raises ProXError where there are too few."""
    count = len(cases.names)
    if count < FEWEST:
        raise ProXError(f"{count} cases were held out in training, with labels; at least {FEWEST} are needed to calibrate")
    return range(0, count, 2), range(1, count, 2)


def quantise(source: Path, output: Path, cases: HeldOut) -> None:
    """Writes ``source``, an ONNX file of ours, in integers as ``output``, calibrated on half of ``cases``."""
    model = Model(source)
    calibrating = cases.usable(halves(cases)[0], model.description)
    logger = logging.getLogger()
    level = logger.level
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        logger.setLevel(logging.ERROR)  # of its advice, which has been taken
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                output,
                _Patches(cases.inputs(calibrating, model.description, PATCHES)),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logger.setLevel(level)
    describe_again(output, model.described)


def compare(before: Path, after: Path, cases: HeldOut, measure: str, *, most_loss: float) -> Loss:
    """Of two files of the same member, on the half of ``cases`` that did not calibrate.

    Raises ProXError where ``after`` loses more than ``most_loss``.
    """
    models = Model(before), Model(after)
    calibrating, measuring = (cases.usable(half, models[0].description) for half in halves(cases))
    scores = np.array([cases.scores(measuring, model.description, model) for model in models])
    known = ~np.isnan(scores)  # of a case without any class, whoever predicts none
    if not known.any(1).all():
        raise ProXError(f"no class occurs in, or is predicted for, the {len(measuring)} cases to measure on")
    first, second = (float(np.mean(of[there])) for of, there in zip(scores, known, strict=True))
    loss = Loss(measure, first, second, len(calibrating), int(known.any(0).sum()), dict(cases.left_out))
    if loss.before - loss.after > most_loss:
        raise ProXError(f"{loss}: that is more than the {most_loss} that may be lost; no file was written")
    return loss


class _Patches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, patches: Iterator[Array]) -> None:
        self.patches = patches

    def get_next(self) -> dict[str, Any] | None:
        patch = next(self.patches, None)
        return None if patch is None else {"image": patch}
