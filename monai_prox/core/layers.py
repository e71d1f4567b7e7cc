"""A network as the numbers its cost is counted from."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple


class Layer(NamedTuple):
    """A convolution or linear layer with the norm that follows it, if one does; or a pooling or concatenation.

    weights: without biases. other_parameters: biases, and what the norm learns.
    uses: how often a forward pass uses each weight: output voxels, or input voxels of a transposed convolution; 0 for a layer
        that does not run in prediction.
    live: elements of the feature maps there are while it runs: its inputs and outputs, and what is kept for later layers.
        Norms and activations work in place, and sums in one of their terms.
    """

    weights: int
    other_parameters: int
    uses: int
    live: int


def weightless(live: int) -> Layer:
    """A pooling or concatenation."""
    return Layer(0, 0, 0, live)


def convolution(
    inputs: int,
    outputs: int,
    kernel: Sequence[int],
    voxels: Sequence[int],
    *,
    live: int,
    bias: bool = False,
    norm: bool = False,
    groups: int = 1,
    runs: bool = True,
) -> Layer:
    """A layer that uses its weights at ``voxels``, of each axis. norm: one that learns a scale and a shift."""
    other_parameters = outputs * (bias + 2 * norm)
    return Layer(inputs // groups * outputs * prod(kernel), other_parameters, prod(voxels) if runs else 0, live if runs else 0)


def strided(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """What a convolution of odd kernel and half its padding leaves of ``size``."""
    return tuple(-(-length // step) for length, step in zip(size, stride, strict=True))
