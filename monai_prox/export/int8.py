"""A model file in 8-bit integers by ONNX Runtime's static quantisation: calibrated on real patches, its Dice compared."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

from monai_prox.errors import ProXError
from monai_prox.files import replacing
from monai_prox.runtime.cases import Case, find_cases, read_case, read_image
from monai_prox.runtime.description import KEY
from monai_prox.runtime.prediction import Model
from monai_prox.runtime.resampling import Array

QUANTISED = ["Conv", "ConvTranspose"]  # the norms stay as they are: they decide what integers mean
MOST_LOSS = 0.01  # of Dice
PATCHES = 4  # of a case, for calibration
FEWEST = 2  # cases: one to calibrate on and another to measure


@dataclass(frozen=True)
class Labelled:
    case: Case
    labels: Path


@dataclass(frozen=True)
class Loss:
    """Mean Dice of the classes, of the same cases, before and after; calibrated: cases that the ranges come from, others."""

    before: float
    after: float
    calibrated: int
    measured: int

    def __str__(self) -> str:
        change = f"Dice {self.before:.4f} in float32, {self.after:.4f} in int8"
        return f"{change}, {self.measured} cases; calibrated on {self.calibrated} others"


def find_labelled(folder: Path, ending: str, names: Sequence[str]) -> list[Labelled]:
    """The cases ``names`` of a folder with imagesTr and labelsTr, as nnU-Net's raw datasets are.

    Raises ProXError where there are too few.
    """
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise ProXError(f"{folder} has no {part}; give a dataset as in nnUNet_raw, with images and labels to calibrate on")
    cases = [case for case in find_cases(folder / "imagesTr", ending) if case.name in names]
    found = [Labelled(case, folder / "labelsTr" / f"{case.name}{ending}") for case in cases]
    found = [labelled for labelled in found if labelled.labels.is_file()]
    if len(found) < FEWEST:
        raise ProXError(
            f"{folder} has {len(found)} of the {len(names)} cases that were held out in training, with labels; "
            f"at least {FEWEST} are needed"
        )
    return found


def quantise(source: Path, output: Path, cases: Sequence[Labelled], *, most_loss: float = MOST_LOSS) -> Loss:
    """Writes ``source``, a file of ``export_onnx``, in integers as ``output``. Every other case calibrates, the others measure.

    Raises ProXError where it loses more than ``most_loss`` of Dice; then nothing is written.
    """
    calibrating, measuring = cases[::2], cases[1::2]
    model = Model(source)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as temporary, tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # of its advice, which has been taken
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                temporary,
                _Patches(_patches(model, [labelled.case for labelled in calibrating])),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logger.setLevel(level)
        written = onnx.load(temporary)
        onnx.helper.set_model_props(written, {KEY: model.described})
        onnx.save(written, temporary)
        before, after = (dice(one, measuring) for one in (model, Model(temporary)))
        loss = Loss(before, after, len(calibrating), len(measuring))
        if before - after > most_loss:
            raise ProXError(f"{loss}: that is more than the {most_loss} that may be lost; {output} was not written")
    return loss


def dice(model: Model, cases: Sequence[Labelled]) -> float:
    """Mean over the cases of ``dice_of``. Raises ProXError for files that cannot be read, and labels of another size."""
    scores = []
    for labelled in cases:
        predicted = model.segment(read_case(labelled.case, model.description))
        truth = read_image(labelled.labels)
        if truth.GetSize() != predicted.GetSize():
            raise ProXError(f"{labelled.labels} has {truth.GetSize()} voxels, its image {predicted.GetSize()}")
        arrays = sitk.GetArrayFromImage(predicted), sitk.GetArrayFromImage(truth)
        scores.append(dice_of(*arrays, model.description.labels))
    return float(np.mean(scores))


def dice_of(predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, Any]) -> float:
    """Mean over the classes or regions that occur or are predicted, 1 where none is; labelled as to be ignored counts not.

    labels: names and values, or lists of values, as in nnU-Net's dataset.json.
    """
    seen = truth != labels.get("ignore", -1)
    predicted, truth = predicted[seen], truth[seen]
    foreground = [np.atleast_1d(value) for name, value in labels.items() if name not in ("background", "ignore")]
    pairs = [(np.isin(predicted, values), np.isin(truth, values)) for values in foreground]
    scores = [2 * np.sum(p & t) / (np.sum(p) + np.sum(t)) for p, t in pairs if p.any() or t.any()]
    return float(np.mean(scores)) if scores else 1.0


def _patches(model: Model, cases: Sequence[Case]) -> Iterator[Array]:
    """Patches of the cases, spread over each, as the network sees them."""
    for case in cases:
        seen: list[Array] = []
        model.segment(read_case(case, model.description), network=_watching(model, seen))
        step = max(1, len(seen) // PATCHES)
        yield from seen[step // 2 :: step][:PATCHES]


def _watching(model: Model, seen: list[Array]) -> Callable[[Array], Array]:
    def run(x: Array) -> Array:
        seen.append(x)
        return np.zeros((len(x), model.description.outputs, *x.shape[2:]), np.float32)

    return run


class _Patches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, patches: Iterator[Array]) -> None:
        self.patches = patches

    def get_next(self) -> dict[str, Any] | None:
        patch = next(self.patches, None)
        return None if patch is None else {"image": patch}
