"""Normalized surface Dice as MONAI computes it: the share of both surfaces that lies within a tolerance of the other one.

Surfaces are measured in mm², in 2D in mm, and distances in mm, as the Medical Segmentation Decathlon does. Predictions are
compared at the images' own resolution. torch and MONAI are imported when the first case is scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import isfinite, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_prox.errors import ProXError
from monai_prox.runtime.dice import foreground, mean_score

MOST_MM = 1e3  # of a tolerance


def default_tolerance(spacing: Sequence[float]) -> float:
    """The longest edge of a voxel, for no label says more exactly where a surface is.

    Args:
        spacing: mm per axis.

    >>> default_tolerance((3.0, 0.8, 0.8))
    3.0
    """
    return float(max(spacing))


def check_tolerance(tolerance: Any, what: str = "the surface tolerance") -> float:
    """Returns a tolerance.

    Args:
        tolerance: mm.
        what: beginning of the error message.

    Raises:
        ProXError: it is not a positive number of at most MOST_MM.

    >>> check_tolerance(2)
    2.0
    """
    number = type(tolerance) in (int, float) and isfinite(tolerance)
    if not number or not 0 < tolerance <= MOST_MM:
        raise ProXError(f"{what} is in mm, above 0 and at most {MOST_MM:g}; got {tolerance!r:.80}")
    return float(tolerance)


def surface_dice_by_class(
    predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, Any], *, spacing: Sequence[float], tolerance: float
) -> dict[str, float]:
    """The surface Dice of each class or region of a case: 0 for one that only occurs or only is predicted, NaN for neither.

    Voxels whose ``truth`` is to be ignored belong to no class, neither in ``truth`` nor in the prediction. A 3D image of one
    slice is a 2D image.

    Args:
        predicted: labels, whole numbers of 2 or 3 axes.
        truth: labels of the same shape.
        labels: names and values, or lists of values, as in nnU-Net's dataset.json.
        spacing: mm per axis.
        tolerance: distance in mm up to which a surface is right.

    Raises:
        ProXError: no label is a class.

    >>> truth = np.zeros((8, 8), int)
    >>> truth[2:6, 2:6] = 1
    >>> moved, labels = np.roll(truth, 1, axis=0), {"background": 0, "a": 1, "b": 2}
    >>> surface_dice_by_class(moved, truth, labels, spacing=(2.0, 1.0), tolerance=2.0)
    {'a': 1.0, 'b': nan}
    >>> surface_dice_by_class(moved, truth, labels, spacing=(2.0, 1.0), tolerance=1.9)["a"] < 1
    True
    """
    values_of = foreground(labels)
    if "ignore" in labels:
        seen = truth != labels["ignore"]
        predicted, truth = np.where(seen, predicted, 0), np.where(seen, truth, 0)
    if predicted.ndim == 3 and 1 in predicted.shape:
        (axis, *_) = (axis for axis, size in enumerate(predicted.shape) if size == 1)
        predicted, truth = predicted.squeeze(axis), truth.squeeze(axis)
        spacing = [mm for other, mm in enumerate(spacing) if other != axis]
    boxes = _Boxes(predicted, truth, max(int(values.max()) for values in values_of.values()))
    scores = {}
    for name, values in values_of.items():
        box = boxes.of(values)
        scores[name] = _score(np.isin(predicted[box], values), np.isin(truth[box], values), spacing, tolerance)
    return scores


def surface_dice_of(
    predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, Any], *, spacing: Sequence[float], tolerance: float
) -> float:
    """The mean of ``surface_dice_by_class`` over the classes that occur or are predicted, NaN if there are none."""
    by_class = surface_dice_by_class(predicted, truth, labels, spacing=spacing, tolerance=tolerance)
    return mean_score({name: score for name, score in by_class.items() if not isnan(score)})


def mean_over_cases(cases: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """The mean by class over the cases, and the mean over the classes, as in nnU-Net's summary.json.

    None for a class without a score, and for the mean over classes of which one has none.

    Args:
        cases: scores by class of each case, NaN where there is nothing to score.
    """
    by_class = {name: [case[name] for case in cases if not isnan(case[name])] for name in cases[0]}
    means = {name: float(np.mean(scores)) if scores else None for name, scores in by_class.items()}
    known = [mean for mean in means.values() if mean is not None]
    return {"mean": float(np.mean(known)) if len(known) == len(means) else None, **means}


class _Boxes:
    """The smallest boxes that hold the labels of two images. MONAI looks for each class in the whole images."""

    def __init__(self, predicted: NDArray[Any], truth: NDArray[Any], highest: int) -> None:
        self._whole = tuple(slice(0, size) for size in truth.shape)
        of_both = (ndimage.find_objects(labels.astype(int, copy=False), highest) for labels in (predicted, truth))
        self._boxes = [[box for box in boxes if box is not None] for boxes in zip(*of_both, strict=True)]

    def of(self, values: NDArray[Any]) -> tuple[slice, ...]:
        """The box of some labels, an empty one if they are nowhere."""
        if 0 in values:
            return self._whole
        boxes = [box for value in values for box in self._boxes[value - 1]]
        if not boxes:
            return tuple(slice(0, 0) for _ in self._whole)
        return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*boxes, strict=True))


def _score(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: Sequence[float], tolerance: float) -> float:
    """The surface Dice of two masks of 2 or 3 axes; what is beyond them is background."""
    if not predicted.any() or not truth.any():
        return 0.0 if predicted.any() or truth.any() else float("nan")
    import torch
    from monai.metrics import compute_surface_dice

    masks = [torch.from_numpy(mask)[None, None] for mask in (predicted, truth)]
    mm = [float(edge) for edge in spacing]  # of headers, which have them in float32, too
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)  # MONAI's own call
        found = compute_surface_dice(*masks, [tolerance], include_background=True, spacing=mm, use_subvoxels=True)
    return float(found)
