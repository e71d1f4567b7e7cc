"""How large images are without the voxels around them that are 0, as they are trained on where they are cropped."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from monai_prox.data.decathlon import Geometry, geometry_of, open_header, turned_axes
from monai_prox.runtime.nifti_images import voxels_of

MOST = 64  # images that are read: the median of more is hardly another, and each is a second of BraTS
READERS = 4  # images at a time; zlib lets others work


def foreground_geometries(images: Sequence[Path], orientation: str | None) -> list[Geometry]:
    """The boxes around what is not 0 in any channel. Of many images, some from all parts of the list are read.

    Args:
        images: NIfTI files, (x, y, z) or (x, y, z, channel).
        orientation: axis codes that they are turned to. None means the axes of the files.

    Returns:
        Of each image that was read, the box's shape and the spacing. An image of nothing but 0 counts as a whole.

    Raises:
        ProXError: an image cannot be read.
    """
    chosen = np.linspace(0, len(images) - 1, min(len(images), MOST)).round().astype(int)
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda number: _foreground_geometry(images[number], orientation), chosen))


def _foreground_geometry(file: Path, orientation: str | None) -> Geometry:
    image = open_header(file)
    whole = geometry_of(image, orientation)
    seen = voxels_of(file, image).T != 0  # (..., z, y, x), as it is in memory
    extents = [
        np.flatnonzero(seen.any(tuple(other for other in range(seen.ndim) if other != seen.ndim - 1 - axis)))
        for axis in turned_axes(image, orientation)
    ]
    shape = tuple(int(extent[-1] - extent[0]) + 1 for extent in extents if extent.size)
    return Geometry(shape or whole.shape, whole.spacing)
