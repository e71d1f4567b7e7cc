"""Where the network's grid lies in an image, and how large images are."""

from __future__ import annotations

from dataclasses import dataclass

from monai_prox.errors import ProXError

MOST, SMALLEST, LARGEST = 2**15, 1e-9, 1e9  # voxels of an axis; mm


@dataclass(frozen=True)
class Grid:
    """Axes are in the network's order.

    whole: voxels of the image; box: what of it is left after cropping; shape: voxels of the network's grid.
    image_spacing, spacing: mm, of the image and of the network's grid.
    """

    whole: tuple[int, ...]
    box: tuple[slice, ...]
    shape: tuple[int, ...]
    image_spacing: tuple[float, ...]
    spacing: tuple[float, ...]

    @property
    def cropped(self) -> tuple[int, ...]:
        return tuple(part.stop - part.start for part in self.box)


@dataclass(frozen=True)
class ImageSize:
    """shape: voxels, spacing: mm, (z, y, x) as a reader gives them. Raises ProXError for what no image has."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    def __post_init__(self) -> None:
        voxels, mm = self.shape[::-1], self.spacing[::-1]
        if len(voxels) != 3 or not all(1 <= side <= MOST for side in voxels):
            raise ProXError(f"an image of {voxels} voxels; allowed are three axes of 1 to {MOST:,}")
        if len(mm) != 3 or not all(SMALLEST <= side <= LARGEST for side in mm):
            raise ProXError(f"an image with a spacing of {mm} mm; allowed are three numbers above 0")

    def __str__(self) -> str:
        voxels, mm = (" x ".join(f"{side:g}" for side in of[::-1]) for of in (self.shape, self.spacing))
        return f"{voxels} voxels of {mm} mm"
