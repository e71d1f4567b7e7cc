"""A network as the numbers its cost is counted from."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple


class Layer(NamedTuple):
    """A convolution or linear layer with the norm that follows it, if one does.

    weights: without biases. others: biases, and what the norm learns.
    uses: how often a forward pass uses each weight: output voxels, or input voxels of a transposed convolution; 0 for a layer
        that does not run in prediction.
    """

    weights: int
    others: int
    uses: int


def convolution(
    inputs: int,
    outputs: int,
    kernel: Sequence[int],
    voxels: Sequence[int],
    *,
    bias: bool = False,
    norm: bool = False,
    groups: int = 1,
    runs: bool = True,
) -> Layer:
    """A layer that uses its weights at ``voxels``, of each axis. norm: one that learns a scale and a shift."""
    others = outputs * (bias + 2 * norm)
    return Layer(inputs // groups * outputs * prod(kernel), others, prod(voxels) if runs else 0)


def strided(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """What a convolution of odd kernel and half its padding leaves of ``size``."""
    return tuple(-(-length // step) for length, step in zip(size, stride, strict=True))
