"""A network as the numbers its cost is counted from."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple


class Layer(NamedTuple):
    """A convolution or linear layer with the norm that follows it, if there is one; or a pooling or concatenation.

    Args:
        weights: number of weights of the layer, without biases.
        other_parameters: number of biases, and of parameters of the norm.
        uses: number of times that a forward pass uses each weight. This is the number of output voxels, or of input voxels of a
            transposed convolution. It is 0 for a layer that does not run in prediction.
        live: number of elements of all feature maps in memory while the layer runs: its inputs, its outputs, and those that
            later layers need. Norms and activations work in place. A sum is written into one of its terms.
    """

    weights: int
    other_parameters: int
    uses: int
    live: int


def weightless(live: int) -> Layer:
    """A pooling or concatenation.

    Args:
        live: see ``Layer``.
    """
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
    """A convolution or linear layer.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        kernel: kernel size per axis.
        voxels: size per axis of the grid at which the weights are used, see ``Layer``.
        live: see ``Layer``.
        bias: whether the layer has biases.
        norm: whether a norm with a learned scale and shift follows.
        groups: number of groups of channels.
        runs: whether the layer runs in prediction.
    """
    other_parameters = outputs * (bias + 2 * norm)
    return Layer(inputs // groups * outputs * prod(kernel), other_parameters, prod(voxels) if runs else 0, live if runs else 0)


def strided(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """The output size of a convolution with an odd kernel that is padded by half of it.

    Args:
        size: input size per axis.
        stride: stride per axis.
    """
    return tuple(-(-length // step) for length, step in zip(size, stride, strict=True))
