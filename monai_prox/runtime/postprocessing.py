"""nnU-Net's postprocessing: of some labels together, all but the largest component becomes background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOUCHING = np.ones((3, 3, 3), bool)  # also at corners


def keep_largest(labels: NDArray[np.integer], steps: Sequence[Sequence[int]]) -> None:
    """labels: (z, y, x), which are changed. steps: values, one group after the other. Of several largest ones all are kept."""
    for values in steps:
        chosen = np.zeros(1 + max(int(labels.max()), *values), bool)
        chosen[list(values)] = True
        mask = np.empty(labels.shape, bool)
        for inside, found in zip(mask, labels, strict=True):  # by slices, for an array of indices would be 8 times as large
            chosen.take(found, out=inside, mode="clip")
        boxes = ndimage.find_objects(mask.view(np.uint8))
        if not boxes:
            continue
        numbers, count = ndimage.label(mask[boxes[0]], TOUCHING)
        if count < 2:
            continue
        sizes = np.zeros(count + 1, np.intp)
        for plane in numbers:
            sizes += np.bincount(plane.ravel(), minlength=count + 1)
        removed = sizes < sizes[1:].max()
        removed[0] = False
        for plane, found in zip(numbers, labels[boxes[0]], strict=True):
            found[removed.take(plane)] = 0
