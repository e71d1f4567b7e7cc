"""What a certificate holds, measured: case by case, as ``monai-prox predict`` does it, without writing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import monai_prox
from monai_prox.certificate.peak_memory import peak_memory, reset_peak
from monai_prox.certificate.record import CaseFigures, Machine, Segment
from monai_prox.errors import ProXError
from monai_prox.latency.measure import device
from monai_prox.runtime.cases import Case, find_cases, read_case, read_truth
from monai_prox.runtime.description import Description
from monai_prox.runtime.dice import class_counts, foreground, mean_dice
from monai_prox.runtime.model import Network
from monai_prox.runtime.options import Options
from monai_prox.runtime.prediction import for_series, label, problem
from monai_prox.runtime.preprocessing import prepare

REPEATS = 3
WARMING = 2  # runs that are not timed; TorchScript compiles in its first two
SPACING_DIGITS = 6  # of mm, in a digest
LIBRARIES = {".onnx": "onnxruntime", ".xml": "openvino", ".ts": "torch"}  # by the ending of the model file


def this_machine(model: Path, threads: int, provider: str | None) -> Machine:
    """The machine that a model file is run on here.

    Args:
        model: path of the file, which has been opened.
        threads: number of threads that it is run with.
        provider: what ONNX Runtime runs it on, or None for the processor.
    """
    from importlib import import_module

    library = LIBRARIES[model.suffix]
    versions = {"monai-prox": monai_prox.__version__, "numpy": np.__version__}
    runtime = f"{library} {import_module(library).__version__}"
    return Machine(**device(threads), runtime=runtime, provider=provider or "cpu", versions=versions)


def available_threads() -> int:
    """The number of logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cases_in(images: Path, description: Description) -> tuple[list[Case], Description]:
    """The cases of a folder, or the one that is a file, and how they are predicted: of DICOM series, as they are stored.

    Raises ProXError if there is none.
    """
    cases = find_cases(images, description)
    if any(case.series for case in cases):
        _, description = for_series(description, Options(format="nifti"))
    return cases, description


def measure_cases(
    cases: Sequence[Case],
    description: Description,
    network: Network,
    options: Options,
    *,
    labels: Path | None,
    repeats: int = REPEATS,
    done: Callable[[str, int], object] | None = None,
) -> Iterator[tuple[Case, CaseFigures | str]]:
    """Measures all cases, and then all of them again, so that what else the machine does affects every case.

    Args:
        cases: the cases.
        description: of the network.
        network: the network.
        options: of the prediction.
        labels: folder with the labels of each case, under its name, or None for no Dice.
        repeats: how often each case is predicted.
        done: called with the case's name and the number of its tiles at every one.

    Returns:
        After each prediction the case and its figures so far, or what was wrong with it. A case that fails stops none of the
        others.

    Raises:
        ProXError: the network has not what the options ask for, the labels are those of DICOM series, or the network cannot be
            run.
    """
    options.check(description)
    if labels is not None:
        if any(case.series for case in cases):
            raise ProXError("--labels is for cases that are image files; leave it out for DICOM series")
        if not labels.is_dir():
            raise ProXError(f"there is no folder {labels}; --labels has a file of labels for each case, such as case.nii.gz")
    try:
        for _ in range(WARMING):
            network(np.zeros((1, *description.input_shape), np.float32))
    except Exception as error:  # the runtimes' own have no common class
        raise ProXError(f"the network {description.member} cannot be run: {problem(error)}") from error
    return _measured(list(cases) * repeats, _Prediction(description, network, options), labels, done)


def _measured(
    cases: Iterable[Case], prediction: _Prediction, labels: Path | None, done: Callable[[str, int], object] | None
) -> Iterator[tuple[Case, CaseFigures | str]]:
    found: dict[Case, CaseFigures | str] = {}
    for case in cases:
        known = found.get(case)
        if not isinstance(known, str):
            truth = None if labels is None else labels / f"{case.name}{prediction.description.file_ending}"
            try:
                found[case] = prediction.figures(case, truth, known, partial(done, case.name) if done else None)
            except ModuleNotFoundError:  # the command says which library is missing
                raise
            except Exception as error:  # as above, and a device may run out of memory
                found[case] = problem(error)
        yield case, found[case]


@dataclass(frozen=True)
class _Prediction:
    description: Description
    network: Network
    options: Options

    def figures(
        self, case: Case, truth: Path | None, known: CaseFigures | None, done: Callable[[int], object] | None
    ) -> CaseFigures:
        """Of one prediction and of those before, which are ``known``."""
        if truth is not None and not truth.is_file():  # before it is predicted
            raise ProXError(f"there are no labels {truth}")
        reset_peak()
        start = perf_counter()
        image = read_case(case, self.description)
        seconds = perf_counter() - start
        digest = "" if known else digest_of(image.voxels, [round(float(mm), SPACING_DIGITS) for mm in image.spacing])
        start = perf_counter()
        prepared, grid = prepare(image, self.description, self.options)
        del image
        segmented = label(prepared, grid, self.description, self.network, self.options, done=done, name=case.name)
        seconds += perf_counter() - start
        del prepared
        memory = peak_memory()
        if known is not None:
            most = None if memory is None or known.memory is None else max(memory, known.memory)
            return replace(known, seconds=(*known.seconds, seconds), memory=most)
        true = None if truth is None else read_truth(truth, case, self.description, segmented.shape)
        return CaseFigures(
            image=digest,
            truth=None if true is None else digest_of(true.astype(np.int32)),
            segmentation=digest_of(segmented),
            segments=_segments(segmented, true, self.description),
            seconds=(seconds,),
            memory=memory,
        )


def _segments(segmented: NDArray[Any], true: NDArray[Any] | None, description: Description) -> dict[str, Segment]:
    voxels = {name: int(np.isin(segmented, values).sum()) for name, values in foreground(description.labels).items()}
    if true is None:
        return {name: Segment(voxels=count) for name, count in voxels.items()}
    segments = {}
    for name, counts in class_counts(segmented, true, description.labels).items():
        (hits,), _, (missed,) = counts.tolist()
        dice = mean_dice(counts)
        segments[name] = Segment(voxels=voxels[name], true_voxels=hits + missed, dice=None if np.isnan(dice) else dice)
    return segments


def digest_of(array: NDArray[Any], about: object = "") -> str:
    """A digest of the values, the shape and the type of an array, and of what is to be told apart beside it."""
    digest = sha256(f"{array.shape} {array.dtype.str} {about} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]
