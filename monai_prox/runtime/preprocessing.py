"""From an image to the network's grid.

As nnU-Net's DefaultPreprocessor does, or the transforms of the bundles, which normalise what they have resampled. What is
cropped away holds 0 in all channels.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_prox.errors import ProXError
from monai_prox.runtime.description import Description, Normalisation
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.images import Image
from monai_prox.runtime.memory import check_fits, needed_for
from monai_prox.runtime.options import PLAIN, Options
from monai_prox.runtime.resampling import Array, resample, resampled_shape

SMALLEST_STD = 1e-8
MOST_VOXELS = 2**31  # on the network's grid, of all channels
LONGEST = 2**15  # voxels of an axis there


def prepare(image: Image, description: Description, options: Options = PLAIN) -> tuple[Array, Grid]:
    """-> (C, *grid), and the grid; the image's voxels are changed. Raises ProXError for images that the network is not for."""
    if len(image.voxels) != len(description.channels):
        names = ", ".join(description.channels)
        raise ProXError(f"the network needs {len(description.channels)} channels ({names}), got {len(image.voxels)}")
    return preprocess(image.voxels, image.spacing, description, options)


def preprocess(
    image: Array, spacing: tuple[float, ...], description: Description, options: Options = PLAIN
) -> tuple[Array, Grid]:
    """image: (C, z, y, x), which is changed; spacing: (z, y, x) in mm -> (C, *grid), and the grid.

    An image that is 0 everywhere is not cropped, as nnU-Net has it. Raises ProXError for one that has voxels that are no
    numbers, or is no RGB image where one is needed, and for one whose prediction would not fit into memory.
    """
    image = image.transpose(0, *(1 + axis for axis in description.transpose))
    at = tuple(float(spacing[axis]) for axis in description.transpose)
    whole = image.shape[1:]
    inside = np.zeros(whole, bool)
    for channel in image:
        inside |= channel != 0
    boxes = ndimage.find_objects(inside.view(np.uint8))
    box = boxes[0] if boxes and description.cropped else tuple(slice(0, size) for size in whole)
    inner = slice(None), *box
    image = image[inner]
    grid = grid_of(whole, box, at, description)
    shape, target = grid.shape, grid.spacing
    check_fits(needed_for(grid, description, options))
    mask = None
    if any(normalisation.masked for normalisation in description.normalisation):
        mask = ndimage.binary_fill_holes(inside)[box]
    result = np.empty((len(image), *shape), np.float32)
    for index, normalisation in enumerate(description.normalisation):
        channel = np.ascontiguousarray(image[index])
        if description.normalised_first:
            channel = normalise(channel, normalisation, mask)
        if not np.isfinite(channel).all():
            raise ProXError(f"the channel {description.channels[index]} has voxels that are no numbers, or infinite")
        result[index] = resample(channel, shape, at, target, description.images)
        if not description.normalised_first:
            result[index] = normalise(result[index], normalisation, None)
    return result, grid


def grid_of(whole: tuple[int, ...], box: tuple[slice, ...], at: tuple[float, ...], description: Description) -> Grid:
    """whole, at: voxels and mm of an image, in the network's order; box: what is not cropped away.

    Raises ProXError for an image that has no voxel on the network's grid, or more than is allowed.
    """
    target = description.spacing if len(description.spacing) == 3 else (at[0], *description.spacing)
    cropped = tuple(part.stop - part.start for part in box)
    shape = resampled_shape(description.images, cropped, at, target)
    if min(shape) < 1:
        raise ProXError(f"the image, {cropped} voxels of {at} mm, vanishes at the network's spacing of {target} mm")
    if prod(shape) * len(description.channels) > MOST_VOXELS or max(shape) > LONGEST:
        raise ProXError(
            f"the image, {cropped} voxels of {at} mm, would have {shape} at the network's spacing of {target} mm; "
            f"allowed are {MOST_VOXELS:,}, {LONGEST:,} an axis"
        )
    return Grid(whole, box, shape, at, target)


def normalise(channel: Array, rule: Normalisation, mask: NDArray[np.bool_] | None) -> Array:
    """channel: (z, y, x), which is changed. mask: where nnU-Net normalises, if only there."""
    if rule.scheme == "ZScoreNormalization":
        within: Any = mask if rule.masked else ...
        values = channel[within]
        if values.size:
            channel[within] = _scaled(values, max(values.std(), SMALLEST_STD))
    elif rule.scheme == "NormalizeIntensity":
        seen = channel != 0 if rule.masked else np.ones(channel.shape, bool)
        values = channel[seen]
        if values.size:
            channel[seen] = _scaled(values, values.std() or 1)
    elif rule.scheme == "CTNormalization":
        np.clip(channel, rule.lower, rule.upper, out=channel)
        channel -= rule.mean
        channel /= max(rule.std, SMALLEST_STD)
    elif rule.scheme == "RescaleTo01Normalization":
        channel -= channel.min()
        channel /= max(channel.max(), SMALLEST_STD)
    elif rule.scheme == "RGBTo01Normalization":
        if channel.min() < 0 or channel.max() > 255:
            raise ProXError(f"a channel of an RGB image has values from {channel.min()} to {channel.max()}; allowed: 0 to 255")
        channel /= 255
    return channel


def _scaled(values: Array, std: np.floating | float) -> Array:
    """Of mean 0, for this standard deviation."""
    scaled: Array = values - values.mean()
    scaled /= std
    return scaled
