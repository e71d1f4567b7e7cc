"""From logits on the network's grid to labels on the image's, without the logits there.

Linear interpolation is a mean of the corners of a cell, with weights of 0 or more. A class whose logit is the largest at all
corners has the largest one everywhere in the cell, and a region whose logit is above 0 at all corners, or at none, is there
everywhere or nowhere. So voxels take the label of a corner, and only those in cells whose corners differ are interpolated, of
all classes: another class than those of the corners may be the largest between them. The labels are those of all logits
interpolated, but for voxels where two logits are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from monai_prox.runtime.description import Description
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.resampling import Array, along, matrices

BAND = 2**18  # voxels of a slice that are worked on at a time
SLAB = 16  # slices of labels made at a time, by splines

Labels = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Samples:
    """Points of an axis: each lies between the voxels ``below`` and ``above``, at ``share`` of the way, below 1."""

    below: NDArray[np.intp]
    above: NDArray[np.intp]
    share: Array

    @classmethod
    def of(cls, weights: Array) -> Samples | None:
        """weights: a matrix of ``resampling.matrices``; None for splines of a higher order than 1."""
        used = weights != 0
        below, above = used.argmax(1), weights.shape[1] - 1 - used[:, ::-1].argmax(1)
        if weights.min() < 0 or (above - below).max() > 1:
            return None
        return cls(below, above, np.where(above > below, weights[np.arange(len(weights)), above], np.float32(0)))

    def __getitem__(self, part: slice) -> Samples:
        return Samples(self.below[part], self.above[part], self.share[part])

    def beside(self) -> tuple[slice, Samples]:
        """The voxels that are used, and the same points among them alone."""
        first = self.below[0]
        return slice(first, self.above.max() + 1), Samples(self.below - first, self.above - first, self.share)


def labels(logits: NDArray[np.floating], grid: Grid, description: Description) -> NDArray[np.integer]:
    """logits: (outputs, *grid) -> labels of the image, (z, y, x), 0 in what was cropped away."""
    steps = matrices(description.logits, grid.shape, grid.cropped, grid.spacing, grid.image_spacing)
    regions = description.regions
    values = np.asarray(range(description.outputs) if regions is None else (0, *regions))
    values = values.astype(np.uint8 if values.max() < 255 else np.uint16)
    result = np.zeros(grid.whole, values.dtype)
    cropped = result[grid.box]
    samples = [found for weights in steps if (found := Samples.of(weights)) is not None]
    if len(samples) == len(steps):
        first, rows, columns = samples
        height = _rows_of_a_band(grid.shape[1:], grid.cropped[1:])
        for start in range(0, grid.cropped[1], height):
            near, band = rows[start : start + height].beside()
            for part, winners in _by_corners(logits[:, :, near], first, band, columns, regions is None):
                cropped[part, start : start + height] = values[winners]
    else:
        for part, slab in slabs(logits, steps):  # for splines, which may exceed a cell's corners
            cropped[part] = values[_winners(slab, regions is None)]
    turned: NDArray[np.integer] = result.transpose(np.argsort(description.transpose))
    return turned


def _rows_of_a_band(old: Sequence[int], new: Sequence[int]) -> int:
    """Of a slice of ``new`` voxels per axis: as many as have ``BAND`` voxels there, and on the grid of ``old`` ones."""
    return max(1, int(BAND / max(new[1], old[0] * old[1] / new[0])))


def _by_corners(
    logits: NDArray[np.floating], first: Samples, rows: Samples, columns: Samples, exclusive: bool
) -> Iterator[tuple[slice, Labels]]:
    """-> slices along the first axis, each with the winners that all of them have, see ``_winners``."""
    cached: dict[int, Labels] = {}
    places = list(zip(first.below.tolist(), first.above.tolist(), first.share.tolist(), strict=True))
    start = 0
    for (low, high), layer in groupby(places, key=lambda place: place[:2]):
        # Layers go up, so that of earlier ones only the last can be needed again
        cached = {z: cached[z] if z in cached else _winners(_slice(logits, z), exclusive) for z in {low, high}}
        mixed = _differ(cached[low], cached[high], rows, columns)
        inside = cached[low].take(rows.below, 0).take(columns.below, 1)
        at = np.flatnonzero(mixed.take(rows.below, 0).take(columns.below, 1))
        cells = _Cells(at, rows, columns, logits.shape[3]) if at.size else None
        for (*_, share), same in groupby(layer):
            if cells is not None:
                between = _between(_slice(logits, low), _slice(logits, high), share) if share else _slice(logits, low)
                inside.reshape(-1)[at] = _winners(map(cells.interpolate, between), exclusive)
            count = len(list(same))
            yield slice(start, start + count), inside
            start += count


def _slice(logits: NDArray[np.floating], z: int) -> Iterator[Array]:
    """By output."""
    return (output[z].astype(np.float32) for output in logits)


def _between(low: Iterable[Array], high: Iterable[Array], share: float) -> Iterator[Array]:
    for a, b in zip(low, high, strict=True):
        b -= a
        b *= np.float32(share)
        b += a
        yield b


def _differ(low: Labels, high: Labels, rows: Samples, columns: Samples) -> NDArray[np.bool_]:
    """Of two neighbouring slices, (y, x): whether the corners of the cell that begins there differ.

    An axis along which nothing is interpolated has no cells, but voxels.
    """
    least, most = np.minimum(low, high), np.maximum(low, high)
    if rows.share.any():
        least[:-1], most[:-1] = np.minimum(least[:-1], least[1:]), np.maximum(most[:-1], most[1:])
    if columns.share.any():
        least[:, :-1], most[:, :-1] = np.minimum(least[:, :-1], least[:, 1:]), np.maximum(most[:, :-1], most[:, 1:])
    differ: NDArray[np.bool_] = least != most
    return differ


class _Cells:
    """Interpolates a slice at some points of the new grid. at: their indices there; width: of the slice."""

    def __init__(self, at: NDArray[np.intp], rows: Samples, columns: Samples, width: int) -> None:
        y, x = np.divmod(at, len(columns.share))
        upper, lower = rows.below[y] * width, rows.above[y] * width
        left, right = columns.below[x], columns.above[x]
        self._corners = upper + left, upper + right, lower + left, lower + right
        self._down, self._along = rows.share[y], columns.share[x]
        self._values = [np.empty(len(at), np.float32) for _ in self._corners]

    def interpolate(self, plane: Array) -> Array:
        """plane: (y, x). What is returned is overwritten by the next call."""
        for corner, values in zip(self._corners, self._values, strict=True):
            plane.reshape(-1).take(corner, out=values, mode="clip")  # nothing is clipped, but "raise" makes a copy
        a, b, c, d = self._values
        for begin, end, share in ((a, b, self._along), (c, d, self._along), (a, c, self._down)):
            end -= begin
            end *= share
            begin += end
        return a


def _winners(values: Iterable[Array], exclusive: bool) -> Labels:
    """values: of each output, arrays of one shape.

    -> the index of the largest, the first where several are; of regions 1 + the index of the last above 0, 0 where none is.
    """
    values = iter(values)
    best = next(values)
    found: Labels = np.zeros(best.shape, np.uint16)
    if not exclusive:
        found[best > 0] = 1
        for number, value in enumerate(values, start=2):
            np.copyto(found, number, where=value > 0)
        return found
    best = best.copy()
    for number, value in enumerate(values, start=1):
        np.copyto(found, number, where=value > best)
        np.maximum(best, value, out=best)
    return found


def slabs(logits: NDArray[np.floating], steps: Sequence[Array]) -> Iterator[tuple[slice, Array]]:
    """-> slices along the first axis, each with all logits there, resampled by the matrices ``steps``."""
    for start in range(0, len(steps[0]), SLAB):
        rows = steps[0][start : start + SLAB]
        used = np.flatnonzero(rows.any(0))
        near = slice(used[0], used[-1] + 1)
        slab = logits[:, near].astype(np.float32)
        for axis, weights in enumerate((rows[:, near], *steps[1:]), start=1):
            slab = along(slab, weights, axis)
        yield slice(start, start + len(rows)), slab
