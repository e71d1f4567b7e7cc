"""Where a subnet's tensor lives inside the largest network's tensor, and how it is cut out.

A region is a product of index ranges, one tuple of slices per axis. Most axes have one slice: a prefix of the channels, the
centre of a kernel. An axis that reads a concatenation has one per part, because the first n channels of each part are not
a prefix of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

Region = tuple[tuple[slice, ...], ...]


def prefix(length: int) -> tuple[slice, ...]:
    return (slice(0, length),)


def centre(length: int, full: int) -> tuple[slice, ...]:
    """The middle ``length`` of ``full`` taps. Both are odd, or equal."""
    start = (full - length) // 2
    return (slice(start, start + length),)


def halves(length: int, full: int) -> tuple[slice, ...]:
    """The first ``length / 2`` of each half of an axis that reads two concatenated tensors."""
    part, middle = length // 2, full // 2
    return prefix(length) if length == full else (slice(0, part), slice(middle, middle + part))


def covers(region: Region, shape: Sequence[int]) -> bool:
    return all(len(parts) == 1 and parts[0] == slice(0, size) for parts, size in zip(region, shape, strict=True))


def _blocks(region: Region) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Pairs of (where in the largest tensor, where in the cut), one per block of the region."""

    def axis(parts: tuple[slice, ...]) -> list[tuple[slice, slice]]:
        pairs, start = [], 0
        for part in parts:
            length = part.stop - part.start
            pairs.append((part, slice(start, start + length)))
            start += length
        return pairs

    for block in product(*(axis(parts) for parts in region)):
        yield tuple(source for source, _ in block), tuple(target for _, target in block)


def cut(tensor: Tensor, region: Region) -> Tensor:
    """A contiguous copy of ``region`` of ``tensor``."""
    shape = [sum(part.stop - part.start for part in parts) for parts in region]
    result = tensor.new_empty(shape)
    for source, target in _blocks(region):
        result[target] = tensor[source]
    return result


def fill(tensor: Tensor, region: Region, values: Tensor | float | bool) -> None:
    """Writes ``values``, of the region's shape or a number, into ``region`` of ``tensor`` in place."""
    for source, target in _blocks(region):
        tensor[source] = values[target] if isinstance(values, Tensor) else values


class Cut(torch.autograd.Function):
    """``cut`` with a gradient.

    Autograd through indexing would make one zero-filled tensor of the largest size per axis and block; this makes one.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, region: Region) -> Tensor:
        ctx.region, ctx.shape = region, tensor.shape
        return cut(tensor, region)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        full = gradient.new_zeros(ctx.shape)
        fill(full, ctx.region, gradient)
        return full, None
