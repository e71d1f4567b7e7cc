"""The region of the largest network's tensor that a subnet uses, and how it is copied.

A region is a product of index ranges, one tuple of slices per axis. Most axes have one slice: the first channels, or the
centre of a kernel. An axis that reads a concatenation has one slice per part, because the first n channels of each part are
not the first channels of the whole.
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
    """The first ``length`` indices of an axis.

    Args:
        length: number of indices.
    """
    return (slice(0, length),)


def centre(length: int, full: int) -> tuple[slice, ...]:
    """The middle of a kernel's axis.

    Args:
        length: number of indices. It is odd, or equal to ``full``.
        full: size of the axis. It is odd, or equal to ``length``.
    """
    start = (full - length) // 2
    return (slice(start, start + length),)


def halves(length: int, full: int) -> tuple[slice, ...]:
    """The first indices of each half of an axis that reads two concatenated tensors.

    Args:
        length: number of indices in both halves together.
        full: size of the axis.
    """
    part, middle = length // 2, full // 2
    return prefix(length) if length == full else (slice(0, part), slice(middle, middle + part))


def corner(name: str, shape: Sequence[int], full: Sequence[int] | None, subnet: object) -> list[tuple[slice, ...]]:
    """The place of a weight in the largest network's: the first channels, and the centre of the kernel.

    Args:
        name: name of the weight in the largest network.
        shape: shape of the member's weight, (channels, channels, *kernel).
        full: shape of the weight in the largest network. None means that there is no such weight.
        subnet: the member, for the error.

    Returns:
        The slices per axis.

    Raises:
        ProXError: the largest network has no weight of that name that is as large.
    """
    if full is None or len(full) != len(shape) or any(s > f for s, f in zip(shape, full, strict=True)):
        raise ProXError(f"the largest network has no {name} that holds the shape {shape}, it has {full}: {subnet}")
    taps = zip(shape[2:], full[2:], strict=True)
    return [*(prefix(length) for length in shape[:2]), *(centre(length, of) for length, of in taps)]


def covers(region: Region, shape: Sequence[int]) -> bool:
    """Whether a region is a whole tensor.

    Args:
        region: the region.
        shape: the shape of the tensor.
    """
    return all(len(parts) == 1 and parts[0] == slice(0, size) for parts, size in zip(region, shape, strict=True))


def _blocks(region: Region) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Pairs of indices in the largest tensor and in the copy, one pair per block of the region."""

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
    """Contiguous copies of a region of each tensor.

    Args:
        tensors: the tensors.
        regions: one region per tensor.
    """
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
    """Writes values into a region of each tensor in place. It is the inverse of ``cut``.

    Args:
        tensors: the tensors.
        regions: one region per tensor.
        values: one tensor of the region's shape per region.
    """
    _copy(
        (tensor[source], value[target])
        for tensor, value, region in zip(tensors, values, regions, strict=True)
        for source, target in _blocks(region)
    )


def fill(tensor: Tensor, region: Region, value: float | bool) -> None:
    """Writes a number into a region of a tensor in place.

    Args:
        tensor: the tensor.
        region: the region.
        value: the number.
    """
    for source, _ in _blocks(region):
        tensor[source] = value


def _copy(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copies the second tensor of each pair into the first. Most are vectors, which take one kernel launch on a GPU."""
    all_pairs = [*pairs]
    for same_rank in ([pair for pair in all_pairs if pair[0].ndim == 1], [pair for pair in all_pairs if pair[0].ndim != 1]):
        if same_rank:
            targets, sources = zip(*same_rank, strict=True)
            torch._foreach_copy_(targets, sources)


class Cut(torch.autograd.Function):
    """``cut`` with gradients: ``Cut.apply(regions, *tensors)`` returns one copy per tensor.

    Autograd through indexing would allocate a zero-filled tensor of the largest size per axis and block. This class allocates
    one per tensor. It is one autograd node for a whole network, because small members take longer in Python than in their
    convolutions.
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
        by_index = dict(zip(parts, wholes, strict=True))
        return (None, *map(by_index.get, range(len(gradients))))


def permute(tensor: Tensor, permutations: Permutations) -> Tensor:
    """A copy of a tensor with the entries of some axes in another order.

    Args:
        tensor: the tensor.
        permutations: (axis, permutation) pairs. A permutation has the former index of each entry.
    """
    for axis, permutation in permutations:
        tensor = tensor.index_select(axis, permutation.to(tensor.device))
    return tensor
