"""What predicting a case takes beside the network, part by part: measured for some sizes, predicted for others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from monai_prox.errors import ProXError
from monai_prox.latency.fit import Numbers, fit, left_out
from monai_prox.runtime.description import Description, Resampling
from monai_prox.runtime.grid import Grid, ImageSize
from monai_prox.runtime.preprocessing import grid_of
from monai_prox.runtime.resampling import thick_axis
from monai_prox.runtime.sliding_window import check_tiles
from monai_prox.typed import check_types, typed

PARTS = ("read", "prepare", "tiles", "labels", "write")  # in the order in which prediction does them
ENTRIES = {"cases": tuple[Mapping[str, Any], ...]}
CASE = {"size": int, "work": Mapping[str, Any], "seconds": dict.fromkeys(PARTS, float)}
MOST = 2**60  # of each number in a file, so that products of some are numbers, too
SHORTEST, LONGEST = 1e-9, 1e9  # seconds of a part
FEWEST = 2  # sizes, one of which is predicted by the others


@dataclass(frozen=True, kw_only=True)
class Work:
    """The numbers that the seconds of a case's parts depend on.

    Args:
        image: voxels of the image.
        grid: voxels of the network's grid.
        channels: number of channels.
        outputs: number of the network's outputs.
        tiles: number of tiles.
        patch: voxels of a tile.
        resampled: multiply-adds of resampling one channel to the network's grid.
        between: voxels of the image that labels are interpolated for; 0 if the image has the network's grid.
        lengths: voxels of the axes that are resampled, summed over these axes.
    """

    image: int
    grid: int
    channels: int
    outputs: int
    tiles: int
    patch: int
    resampled: int
    between: int
    lengths: int

    def __post_init__(self) -> None:
        least = min(self.image, self.grid, self.channels, self.outputs, self.tiles, self.patch)
        if least < 1 or min(self.resampled, self.between, self.lengths) < 0 or max(asdict(self).values()) > MOST:
            raise ProXError(f"a case's sizes must be above 0, and {MOST:,} at most, got {self}")

    @classmethod
    def of(cls, size: ImageSize, description: Description) -> Work:
        """The work of predicting an image that is nowhere 0, so that nothing of it is cropped away.

        Args:
            size: of the image.
            description: of the network.

        Raises:
            ProXError: see ``grid_of``, or the network would run more often than prediction allows.
        """
        grid = whole_grid(size, description)
        old, new = grid.whole, grid.shape
        changed = [axis for axis in range(3) if old[axis] != new[axis]]
        return cls(
            image=prod(old),
            grid=prod(new),
            channels=len(description.channels),
            outputs=description.outputs,
            tiles=check_tiles(new, description.patch),
            patch=prod(description.patch),
            resampled=multiply_adds(description.images, grid),
            between=prod(old) if changed else 0,
            lengths=sum(old[axis] + new[axis] for axis in changed),
        )


def whole_grid(size: ImageSize, description: Description) -> Grid:
    """The network's grid in an image that is nowhere 0.

    Args:
        size: of the image.
        description: of the network.

    Raises:
        ProXError: see ``grid_of``.
    """
    whole, at = (tuple(of[axis] for axis in description.transpose) for of in (size.shape, size.spacing))
    shape = tuple(int(side) for side in whole)
    return grid_of(shape, tuple(slice(0, side) for side in shape), at, description)


def multiply_adds(rule: Resampling, grid: Grid) -> int:
    """The multiply-adds of resampling one channel of an image to the network's grid, axis by axis as ``resample`` does it.

    Args:
        rule: of the resampling.
        grid: of the network in the image.
    """
    thick = thick_axis(rule, grid.image_spacing, grid.spacing)
    sides, total = list(grid.cropped), 0
    ratios = {axis: grid.shape[axis] / grid.cropped[axis] for axis in range(3)}
    for axis in sorted(ratios, key=lambda axis: (axis == thick, ratios[axis])):
        if grid.shape[axis] != sides[axis]:
            length, sides[axis] = sides[axis], grid.shape[axis]
            total += prod(sides) * length
    return total


def features(part: str, work: Work) -> list[float]:
    """The numbers that the seconds of a part are a weighted sum of.

    Args:
        part: one of PARTS.
        work: of the case.
    """
    channels, outputs = work.channels, work.outputs
    return {
        "read": [1.0, channels * work.image],
        "prepare": [1.0, channels * work.image, channels * work.grid, channels * work.resampled, work.lengths],
        "tiles": [1.0, work.tiles, work.tiles * work.patch * (channels + outputs), work.grid * outputs],
        "labels": [1.0, work.image, work.grid * outputs, work.between * outputs, work.lengths],
        "write": [1.0, work.image],
    }[part]


@dataclass(frozen=True)
class Parts:
    """The measured seconds of some cases' parts, and the prediction of others.

    Args:
        works: of the measured cases.
        seconds: of each part, one number a case.
        sizes: number of the size of each case. Cases of one size differ in spacing.
    """

    works: tuple[Work, ...]
    seconds: Mapping[str, tuple[float, ...]]
    sizes: tuple[int, ...]

    @classmethod
    def from_json(cls, data: Any, source: str) -> Parts:
        """The cases that ``to_json`` wrote.

        Args:
            data: the part ``pipeline`` of a device's file.
            source: the file, which the error names.

        Raises:
            ProXError: the data is something else, or has cases of one size alone.
        """
        check_types(data, ENTRIES, f"{source}, 'pipeline'")
        cases = data["cases"]
        for case in cases:
            check_types(case, CASE, f"{source}, a case")
        if len({case["size"] for case in cases}) < FEWEST:
            raise ProXError(f"{source}: 'pipeline' has cases of fewer than {FEWEST} sizes")
        if not all(SHORTEST <= case["seconds"][part] <= LONGEST for case in cases for part in PARTS):
            raise ProXError(f"{source}: 'pipeline' has seconds below {SHORTEST:g} or above {LONGEST:g}")
        works = tuple(typed(Work, case["work"], f"{source}, a case's 'work'") for case in cases)
        seconds = {part: tuple(float(case["seconds"][part]) for case in cases) for part in PARTS}
        return cls(works, seconds, tuple(case["size"] for case in cases))

    def to_json(self) -> dict[str, Any]:
        """The cases as plain data, with the held-out error."""
        cases = [
            {"size": size, "work": asdict(work), "seconds": {part: self.seconds[part][index] for part in PARTS}}
            for index, (size, work) in enumerate(zip(self.sizes, self.works, strict=True))
        ]
        return {"held_out_error": self.held_out_error, "cases": cases}

    def predicted(self, work: Work) -> dict[str, float]:
        """The seconds of each part of another case.

        Args:
            work: of the case.
        """
        return {part: float(np.asarray(features(part, work)) @ self._weights[part]) for part in PARTS}

    @cached_property
    def held_out_error(self) -> float:
        """The median relative error of a case's seconds, each size being predicted from the others."""
        found = [left_out(self._rows(part), np.asarray(self.seconds[part]), self.sizes) for part in PARTS]
        measured = np.sum([self.seconds[part] for part in PARTS], axis=0)
        return float(np.median(abs(np.sum(found, axis=0) / measured - 1)))

    @cached_property
    def _weights(self) -> dict[str, Numbers]:
        return {part: fit(self._rows(part), np.asarray(self.seconds[part])) for part in PARTS}

    def _rows(self, part: str) -> Numbers:
        return np.array([features(part, work) for work in self.works], float)


def in_words(parts: Parts, size: ImageSize, description: Description) -> list[str]:
    """What is predicted of images of one size, in lines.

    Args:
        parts: what was measured.
        size: of the images.
        description: of a member.
    """
    found = parts.predicted(Work.of(size, description))
    return [
        f"beside the network, an image of {size}: {sum(found.values()):.3g} s, predicted within {parts.held_out_error:.1%} "
        "(median, of sizes left out)",
        "  " + ", ".join(f"{part} {seconds:.2g} s" for part, seconds in found.items()),
    ]
