"""What readers give of a case, whatever files it is in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.runtime.memory import FLOAT, check_fits
from monai_prox.runtime.resampling import Array

MOST_TIMES = 1_100  # as many bytes as a file has are in an image: what is all 0 shrinks so, by gzip
SAME_SPACING = 1e-3  # mm, between channels
SAME_PLACE = 0.5  # voxels, between an image and its labels


@dataclass(frozen=True)
class Image:
    """A case, its axes as its reader has them.

    voxels: (C, z, y, x), of images of two axes one slice; spacing: (z, y, x) in mm. save: writes labels, (z, y, x), as a file
    on the grid of the case's files. properties: what nnU-Net's reader says of it beside the voxels; MONAI's has none.
    """

    voxels: Array
    spacing: tuple[float, ...]
    save: Callable[[NDArray[np.integer], Path], None]
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file are. size: voxels per axis, x first; direction: of cosines, row by row."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def corners(self) -> NDArray[np.float64]:
        """(axes, 2 ** axes) in mm."""
        last = np.array(list(product(*((0, side - 1) for side in self.size)))).T
        turned = np.reshape(self.direction, (len(self.size), -1)) * np.asarray(self.spacing)
        return np.asarray(np.asarray(self.origin)[:, None] + turned @ last)

    def __str__(self) -> str:
        spacing, origin, direction = (
            [round(number, digits) for number in of]
            for of, digits in ((self.spacing, 4), (self.origin, 3), (self.direction, 3))
        )
        return f"{self.size} voxels of {spacing} mm from {origin}, turned by {direction}"


def check_file(file: Path) -> None:
    """Raises ProXError unless ``file`` is one, not a pipe that nobody writes to, of a name that libraries can take."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise ProXError(f"{file} has a name that is not UTF-8; rename it") from None
    if not file.is_file():
        raise ProXError(f"there is no file {file}")


def check_size(file: Path, size: Sequence[int], bytes_each: int = 1) -> None:
    """Raises ProXError if ``file`` cannot hold as many voxels as its header says, or the memory cannot."""
    found = file.stat().st_size
    if prod(size) * bytes_each > MOST_TIMES * found:
        raise ProXError(f"{file} cannot be read: its header says {size} voxels, and it has {found:,} bytes")
    check_fits(prod(size) * (bytes_each + FLOAT))  # as they are in the file, and as numbers


def check_one_grid(files: Sequence[Path], grids: Sequence[Grid]) -> None:
    """Raises ProXError unless all channels have voxels of one number and size.

    Where they lie elsewhere or are turned, it warns: nnU-Net takes them for one image, with the first one's place.
    """
    first = grids[0]
    for file, grid in zip(files[1:], grids[1:], strict=True):
        if grid.size != first.size or not np.allclose(grid.spacing, first.spacing, atol=SAME_SPACING):
            raise ProXError(f"the channels lie on different grids: {first}; and {grid}")
        if not (np.allclose(grid.origin, first.origin) and np.allclose(grid.direction, first.direction)):
            warnings.warn(
                f"{file} lies elsewhere than the first channel, {files[0].name}, and is taken to be in its place: "
                f"{first}; and {grid}",
                stacklevel=2,
            )


def check_place(labels: Path, of_labels: Grid, image: Path, of_image: Grid) -> None:
    """Warns where labels lie elsewhere than their image, or are turned: their voxels are compared one by one."""
    if of_labels.size == of_image.size:
        apart = float(np.linalg.norm(of_labels.corners() - of_image.corners(), axis=0).max())
        if not apart <= SAME_PLACE * min(of_image.spacing):
            warnings.warn(
                f"{labels} lies up to {apart:.4g} mm from its image, {image.name}, and is taken to be in its place: "
                f"{of_labels}; and {of_image}",
                stacklevel=2,
            )


def stacked(channels: Sequence[NDArray[np.generic]]) -> Array:
    """Arrays (z, y, x) -> (C, z, y, x) of float32, which nothing else refers to."""
    voxels = np.empty((len(channels), *channels[0].shape), np.float32)
    for place, channel in zip(voxels, channels, strict=True):
        place[...] = channel
    return voxels
