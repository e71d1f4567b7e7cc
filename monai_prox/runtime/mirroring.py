"""A network over a tile and its mirror images, averaged as nnU-Net does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from monai_prox.runtime.resampling import Array


def mirrored(network: Callable[[Array], Array], axes: Sequence[int]) -> Callable[[Array], Array]:
    """axes: of the patch. The network runs once for each set of them, of three axes 8 times."""
    sets = [tuple(2 + axis for axis in some) for count in range(1, len(axes) + 1) for some in combinations(axes, count)]

    def mean(x: Array) -> Array:
        total = np.array(network(x))
        for some in sets:
            total += np.flip(network(np.ascontiguousarray(np.flip(x, some))), some)
        total /= 1 + len(sets)
        return total

    return mean
