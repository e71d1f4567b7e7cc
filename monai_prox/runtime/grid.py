"""Where the network's grid lies in an image."""

from __future__ import annotations

from dataclasses import dataclass


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
