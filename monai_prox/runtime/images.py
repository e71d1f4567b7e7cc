"""What readers give of a case, whatever files it is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.runtime.resampling import Array

MOST_TIMES = 1_100  # as many bytes as a file has are in an image: what is all 0 shrinks so, by gzip
SAME_SPACING, SAME_DIRECTION, SAME_ORIGIN = 1e-3, 1e-2, 0.5  # between channels: mm, cosines, voxels


@dataclass(frozen=True)
class Image:
    """A case, its axes as its reader has them.

    voxels: (C, z, y, x), of images of two axes one slice; spacing: (z, y, x) in mm. save: writes labels, (z, y, x), as a file
    on the grid of the case's files.
    """

    voxels: Array
    spacing: tuple[float, ...]
    save: Callable[[NDArray[np.integer], Path], None]


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file are. size: voxels per axis, x first; direction: of cosines, row by row."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def __str__(self) -> str:
        direction = [round(cosine, 2) for cosine in self.direction]
        return f"{self.size} voxels of {self.spacing} mm from {self.origin}, turned by {direction}"


def check_file(file: Path) -> None:
    """Raises ProXError unless ``file`` is one, not a pipe that nobody writes to, of a name that libraries can take."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise ProXError(f"{file} has a name that is not UTF-8; rename it") from None
    if not file.is_file():
        raise ProXError(f"there is no file {file}")


def check_size(file: Path, size: Sequence[int], bytes_each: int = 1) -> None:
    """Raises ProXError if ``file`` cannot hold as many voxels as its header says, for which memory would be taken."""
    found = file.stat().st_size
    if prod(size) * bytes_each > MOST_TIMES * found:
        raise ProXError(f"{file} cannot be read: its header says {size} voxels, and it has {found:,} bytes")


def check_one_grid(grids: Sequence[Grid]) -> None:
    """Raises ProXError unless all channels lie on one grid."""
    first = grids[0]
    for grid in grids[1:]:
        if (
            grid.size != first.size
            or not np.allclose(grid.spacing, first.spacing, atol=SAME_SPACING)
            or not np.allclose(grid.direction, first.direction, atol=SAME_DIRECTION)
            or np.max(np.abs(np.subtract(grid.origin, first.origin)) / np.abs(first.spacing)) > SAME_ORIGIN
        ):
            raise ProXError(f"the channels lie on different grids: {first}; and {grid}")


def stacked(channels: Sequence[NDArray[np.generic]]) -> Array:
    """Arrays (z, y, x) -> (C, z, y, x) of float32, which nothing else refers to."""
    voxels = np.empty((len(channels), *channels[0].shape), np.float32)
    for place, channel in zip(voxels, channels, strict=True):
        place[...] = channel
    return voxels
