"""Where a subnet's tensor lives inside the largest network's tensor, and how it is cut out.

A region is a product of index ranges, one tuple of slices per axis. Most axes have one slice: a prefix of the channels, the
centre of a kernel. An axis that reads a concatenation has one per part, because the first n channels of each part are not
a prefix of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from monai_prox.errors import ProXError

Region = tuple[tuple[slice, ...], ...]
Permutations = list[tuple[int, Tensor]]  # of a tensor: axes, and for each the old index of every new one (length of the axis,)


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


def corner(name: str, shape: Sequence[int], full: Sequence[int] | None, subnet: object) -> list[tuple[slice, ...]]:
    """Where a weight of ``shape`` is in that of the largest network: of channels, the first two axes, the first ones.

    full: the shape there, None if there is none. Raises ProXError, naming the weight and ``subnet``, if it is not there.
    """
    if full is None or len(full) != len(shape) or any(s > f for s, f in zip(shape, full, strict=True)):
        raise ProXError(f"the largest network has no {name} that holds the shape {shape}, it has {full}: {subnet}")
    taps = zip(shape[2:], full[2:], strict=True)
    return [*(prefix(length) for length in shape[:2]), *(centre(length, of) for length, of in taps)]


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


def cut(tensors: Sequence[Tensor], regions: Sequence[Region]) -> list[Tensor]:
    """Contiguous copies of a region of each tensor."""
    results = [
        tensor.new_empty([sum(part.stop - part.start for part in parts) for parts in region])
        for tensor, region in zip(tensors, regions, strict=True)
    ]
    _copy(
        (result[target], tensor[source])
        for result, tensor, region in zip(results, tensors, regions, strict=True)
        for source, target in _blocks(region)
    )
    return results


def place(tensors: Sequence[Tensor], regions: Sequence[Region], values: Sequence[Tensor]) -> None:
    """The inverse of ``cut``: writes ``values``, a tensor of each region's shape, into ``tensors`` in place."""
    _copy(
        (tensor[source], value[target])
        for tensor, value, region in zip(tensors, values, regions, strict=True)
        for source, target in _blocks(region)
    )


def fill(tensor: Tensor, region: Region, value: float | bool) -> None:
    """Writes a number into ``region`` of ``tensor`` in place."""
    for source, _ in _blocks(region):
        tensor[source] = value


def _copy(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copies the second of each pair into the first. Vectors, the most of a network's tensors, are one launch on a GPU."""
    every = [*pairs]
    for several in ([pair for pair in every if pair[0].ndim == 1], [pair for pair in every if pair[0].ndim != 1]):
        if several:
            targets, sources = zip(*several, strict=True)
            torch._foreach_copy_(targets, sources)


class Cut(torch.autograd.Function):
    """``cut`` with gradients: ``Cut.apply(regions, *tensors)`` -> one copy of each tensor.

    Autograd through indexing would make one zero-filled tensor of the largest size per axis and block; this makes one. And it
    is one node for a whole network, for small members wait longer for Python than for their convolutions.
    """

    @staticmethod
    def forward(ctx: Any, regions: Sequence[Region], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.regions, ctx.shapes = regions, [tensor.shape for tensor in tensors]
        results = cut(tensors, regions)
        needed = zip(results, ctx.needs_input_grad[1:], strict=True)
        ctx.mark_non_differentiable(*(result for result, needs in needed if not needs))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = {index: gradient for index, gradient in enumerate(gradients) if gradient is not None}
        if not parts:
            return (None,) * (1 + len(gradients))
        wholes = [part.new_empty(ctx.shapes[index]) for index, part in parts.items()]
        torch._foreach_zero_(wholes)
        place(wholes, [ctx.regions[index] for index in parts], [*parts.values()])
        of_index = dict(zip(parts, wholes, strict=True))
        return (None, *map(of_index.get, range(len(gradients))))


def permute(tensor: Tensor, permutations: Permutations) -> Tensor:
    """A copy of ``tensor`` with the entries of some axes in another order."""
    for axis, permutation in permutations:
        tensor = tensor.index_select(axis, permutation.to(tensor.device))
    return tensor
