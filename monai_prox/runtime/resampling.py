"""Resampling, axis by axis: a spline resampler is a matrix along each, and nothing larger than the image is made.

Values as by nnU-Net's resample_data_or_seg_to_shape, which calls scikit-image's resize and for thick slices scipy's
map_coordinates: sample i of n lies at (i + 1/2) / n of the extent, and beyond the outermost voxels their values go on. Or as by
MONAI's Spacing: sample i lies at i times the spacing from the first voxel's centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_prox.runtime.description import Resampling

THICK = 3  # times the finest spacing: above it nnU-Net resamples an axis separately
BLOCK = 2**22  # voxels that are resampled at a time, where they are copied

Array = NDArray[np.float32]


@lru_cache(maxsize=16)
def matrix(old: int, new: int, order: int) -> Array:
    """(new, old): what resamples ``old`` voxels of an axis to ``new`` ones by splines of ``order``."""
    if old == new:
        return np.eye(old, dtype=np.float32)
    if order == 0:
        nearest = np.floor(old / new * (np.arange(new) + 0.5)).astype(int).clip(0, old - 1)
        return np.eye(old, dtype=np.float32)[nearest, :]
    columns = [ndimage.zoom(unit, new / old, order=order, mode="nearest", grid_mode=True) for unit in np.eye(old)]
    return np.asarray(np.stack(columns, axis=1), np.float32)


@lru_cache(maxsize=16)
def linear(old: int, new: int, step: float, first: float) -> Array:
    """(new, old): samples an axis of ``old`` voxels linearly at ``new`` points, ``step`` voxels apart from ``first`` on."""
    at = (first + np.arange(new) * step).clip(0, old - 1)
    below = np.floor(at).astype(int)
    share = (at - below)[:, None]
    unit = np.eye(old)
    return np.asarray((1 - share) * unit[below] + share * unit[np.minimum(below + 1, old - 1)], np.float32)


def resampled_shape(rule: Resampling, old: Sequence[int], mm: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis at the spacing ``target`` of an image of ``old`` voxels of ``mm``."""
    if rule.keeps == "faces":
        return tuple(round(a / b * n) for a, b, n in zip(mm, target, old, strict=True))
    return tuple(round((n - 1) * a / b) + 1 for a, b, n in zip(mm, target, old, strict=True))


def thick_axis(rule: Resampling, old_spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """The axis that is resampled separately, if there is one."""
    if rule.separate_z is False:
        return None
    for spacing in (old_spacing, new_spacing):
        if rule.separate_z or max(spacing) / min(spacing) > THICK:
            thickest = [axis for axis, mm in enumerate(spacing) if mm == max(spacing)]
            return thickest[0] if len(thickest) == 1 else None
    return None


def matrices(
    rule: Resampling, old: Sequence[int], new: Sequence[int], old_spacing: Sequence[float], new_spacing: Sequence[float]
) -> list[Array]:
    """For each axis what resamples ``old`` voxels to ``new`` ones."""
    if rule.keeps == "centre":
        return [linear(a, b, to / mm, 0) for a, b, mm, to in zip(old, new, old_spacing, new_spacing, strict=True)]
    thick = thick_axis(rule, old_spacing, new_spacing)
    orders = [rule.order_z if axis == thick else rule.order for axis in range(3)]
    return [matrix(a, b, order) for a, b, order in zip(old, new, orders, strict=True)]


def along(array: Array, weights: Array, axis: int) -> Array:
    """``array`` with ``weights``, a matrix, applied to one axis."""
    if weights.shape[0] == weights.shape[1] and np.array_equal(weights, np.eye(len(weights))):
        return array
    new, old = weights.shape
    if axis == 0:
        return np.asarray(weights @ array.reshape(old, -1)).reshape(new, *array.shape[1:])
    if axis == array.ndim - 1:
        return np.asarray(array.reshape(-1, old) @ weights.T).reshape(*array.shape[:-1], new)
    result = np.empty((*array.shape[:axis], new, *array.shape[axis + 1 :]), np.float32)
    step = max(1, BLOCK * len(array) // array.size)
    for start in range(0, len(array), step):  # for a product along another axis than the ends copies what it is given
        block = array[start : start + step]
        result[start : start + step] = np.moveaxis(np.tensordot(weights, block, axes=(1, axis)), 0, axis)
    return result


def resample(
    channel: Array, new: Sequence[int], old_spacing: Sequence[float], new_spacing: Sequence[float], rule: Resampling
) -> Array:
    """channel: (z, y, x), one image. Its range is kept, in images with thick slices that of each slice."""
    old = channel.shape
    if tuple(old) == tuple(new):
        return channel
    thick = thick_axis(rule, old_spacing, new_spacing)
    steps = matrices(rule, old, new, old_spacing, new_spacing)
    kept = tuple(axis for axis in range(3) if axis != thick)
    lower, upper = channel.min(kept, keepdims=True), channel.max(kept, keepdims=True)
    result = channel
    for axis in sorted(kept, key=lambda axis: steps[axis].shape[0] / steps[axis].shape[1]):  # what shrinks comes first
        result = along(result, steps[axis], axis)
    result = np.clip(result, lower, upper, out=None if result is channel else result)
    return result if thick is None else along(result, steps[thick], thick)
