"""A network over an image larger than its patch, as nnU-Net lays and weighs its tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_prox.errors import ProXError
from monai_prox.runtime.resampling import Array

STEP = 0.5  # of the patch: how far apart tiles are at most
MOST_TILES = 2**17  # of an image; that many would take days
Place = tuple[slice, ...]
SIGMA = 1 / 8  # of the patch: how a tile's weight falls off


def starts(size: int, patch: int, step: float = STEP) -> list[int]:
    """Where the tiles along an axis begin, evenly spread from end to end, at most ``step`` of the patch apart."""
    if patch == 1:
        return list(range(size))
    count = number_of_starts(size, patch, step)
    return [round((size - patch) / max(count - 1, 1) * index) for index in range(count)]


def number_of_starts(size: int, patch: int, step: float) -> int:
    return size if patch == 1 else ceil((size - patch) / (patch * step)) + 1


def number_of_tiles(shape: Sequence[int], patch: Sequence[int], step: float = STEP) -> int:
    """Of an image of ``shape``, which is padded where the patch is larger. A patch of two axes is laid on every slice."""
    return prod(number_of_starts(max(size, side), side, step) for size, side in zip(shape, _sides(patch), strict=True))


def check_tiles(shape: Sequence[int], patch: Sequence[int], step: float = STEP) -> int:
    """``number_of_tiles``. Raises ProXError for more than are allowed."""
    count = number_of_tiles(shape, patch, step)
    if count > MOST_TILES:
        raise ProXError(
            f"patches of {tuple(patch)} would be laid {count:,} times on {tuple(shape)} voxels; at most {MOST_TILES:,} are"
        )
    return count


def _sides(patch: Sequence[int]) -> tuple[int, ...]:
    return (1, *patch) if len(patch) == 2 else tuple(patch)


def falloff(patch: int) -> Array:
    """The weights of a tile along an axis, at most 1: a tile's weight is their product over the axes."""
    delta = np.zeros(patch)
    delta[patch // 2] = 1
    weights = ndimage.gaussian_filter1d(delta, patch * SIGMA, mode="constant")
    weights /= weights.max()
    return np.asarray(np.maximum(weights, weights[weights > 0].min()), np.float32)


def tiles(shape: Sequence[int], patch: Sequence[int], step: float = STEP) -> Iterator[tuple[int, ...]]:
    """The first voxel of every tile."""
    return product(*(starts(size, side, step) for size, side in zip(shape, patch, strict=True)))


def sliding_window(
    image: Array,
    patch: Sequence[int],
    outputs: int,
    network: Callable[[Array], Array],
    *,
    step: float = STEP,
    done: Callable[[int], object] | None = None,
    onto: tuple[NDArray[np.float16], NDArray[np.bool_]] | None = None,
) -> NDArray[np.float16]:
    """image: (C, *shape) -> logits (outputs, *shape), half as precise, for they are the largest thing in memory.

    network: (1, C, *patch) -> (1, outputs, *patch). A patch of two axes is laid on every slice. step: see
    ``starts``. done: called with the number of tiles after each. onto: other logits (outputs, *shape), and a mask (*shape):
    tiles without anything of the mask are left out, and what no tile covers stays what the other logits have.

    Raises ProXError for logits that are no numbers.
    """
    flat, sides = len(patch) == 2, _sides(patch)
    shape = image.shape[1:]
    # As nnU-Net pads: zeros all around, of an odd number one more behind
    missing = [max(side - size, 0) for side, size in zip(sides, shape, strict=True)]
    before = [n // 2 for n in missing]
    if any(missing):
        image = np.pad(image, [(0, 0), *((b, n - b) for b, n in zip(before, missing, strict=True))])
    padded = image.shape[1:]
    check_tiles(shape, patch, step)
    falls = [falloff(side) for side in sides]
    weight = falls[0][:, None, None] * falls[1][:, None] * falls[2]
    inner = tuple(slice(b, b + size) for b, size in zip(before, shape, strict=True))
    at = [tuple(slice(start, start + side) for start, side in zip(c, sides, strict=True)) for c in tiles(padded, sides, step)]
    if onto is not None:
        wanted = np.zeros(padded, bool)
        wanted[inner] = onto[1]
        at = [tile for tile in at if wanted[tile].any()]
        total = _sums(at, padded, weight)
    else:
        total = _products([starts(size, side, step) for size, side in zip(padded, sides, strict=True)], padded, falls)
    logits = np.zeros((outputs, *padded), np.float16)
    for tile in at:
        every = slice(None), *tile
        values = np.ascontiguousarray(image[every])
        _add(network(values[None, :, 0] if flat else values[None])[0], weight / total(tile), logits[every])
        if done is not None:
            done(len(at))
    if not all(np.isfinite(output).all() for output in logits):
        raise ProXError("the network's outputs are beyond what half precision holds, or no numbers")
    every = slice(None), *inner
    result = logits[every]
    if onto is not None:
        covered = np.zeros(padded, bool)
        for tile in at:
            covered[tile] = True
        np.copyto(result, onto[0], where=~covered[inner])
    return result


def _products(firsts: Sequence[Sequence[int]], shape: Sequence[int], falls: Sequence[Array]) -> Callable[[Place], Array]:
    """The sum of all tiles' weights, in a tile: it is a product, which needs next to no memory. firsts: ``starts`` by axis."""
    along = [np.zeros(size, np.float32) for size in shape]
    for sums, of, fall in zip(along, firsts, falls, strict=True):
        for start in of:  # short steps in a small patch begin several tiles at one voxel
            sums[start : start + len(fall)] += fall
    return lambda tile: along[0][tile[0], None, None] * along[1][tile[1], None] * along[2][tile[2]]


def _sums(places: Sequence[Place], shape: Sequence[int], weight: Array) -> Callable[[Place], Array]:
    """The sum of the weights of some tiles, in a tile."""
    total = np.zeros(shape, np.float32)
    for tile in places:
        total[tile] += weight
    return total.__getitem__


def _add(result: Array, share: Array, logits: NDArray[np.float16]) -> None:
    """Output by output, for all of them, weighed, would be as large as ``result`` again. It is gone before the next one."""
    with np.errstate(over="ignore", invalid="ignore"):  # it is looked for once all are added
        for output, values in zip(logits, result, strict=True):
            output += values.reshape(share.shape) * share
