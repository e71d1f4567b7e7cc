"""Regions against numpy's own indexing."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monai_prox.core.slicing import Cut, Region, centre, covers, cut, fill, halves, place, prefix

REGIONS = {
    "prefix and whole": ((5, 4), (prefix(3), prefix(4))),
    "halves": ((3, 8), (prefix(2), halves(6, 8))),
    "kernel centre": ((3, 2, 5, 5), (prefix(2), prefix(1), centre(3, 5), centre(1, 5))),
    "both": ((4, 6, 3, 5, 1), (prefix(2), halves(2, 6), centre(1, 3), centre(3, 5), centre(1, 1))),
    "two axes in parts": ((6, 4, 3), (halves(4, 6), halves(2, 4), centre(1, 3))),
    "vector": ((7,), (prefix(4),)),
    "whole": ((2, 3), (prefix(2), halves(3, 3))),
}
every_region = pytest.mark.parametrize(("shape", "region"), REGIONS.values(), ids=REGIONS)


def indices(region: Region) -> tuple[np.ndarray, ...]:
    """The region as numpy's open mesh of index lists."""
    return np.ix_(*([*chain.from_iterable(range(p.start, p.stop) for p in parts)] for parts in region))


def numbered(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


def one_cut(tensor: Tensor, region: Region) -> Tensor:
    (result,) = cut([tensor], [region])
    return result


@every_region
def test_cut_is_numpy_indexing(shape: tuple[int, ...], region: Region) -> None:
    full = numbered(shape)
    result = one_cut(full, region)
    np.testing.assert_array_equal(result.numpy(), full.numpy()[indices(region)])
    assert result.is_contiguous() and result.untyped_storage().data_ptr() != full.untyped_storage().data_ptr()


@every_region
def test_what_is_written_into_a_region_stays_within_it(shape: tuple[int, ...], region: Region) -> None:
    filled, placed, expected = numbered(shape), numbered(shape), numbered(shape).numpy()
    fill(filled, region, -1.0)
    expected[indices(region)] = -1
    np.testing.assert_array_equal(filled.numpy(), expected)

    values = -1 - torch.rand(expected[indices(region)].shape)
    place([placed], [region], [values])
    expected[indices(region)] = values.numpy()
    np.testing.assert_array_equal(placed.numpy(), expected)


def test_many_tensors_at_once_are_as_one_after_the_other() -> None:
    shapes, regions = zip(*REGIONS.values(), strict=True)
    tensors = [*map(numbered, shapes)]
    parts = cut(tensors, regions)
    for part, tensor, region in zip(parts, tensors, regions, strict=True):
        assert torch.equal(part, one_cut(tensor, region))

    together = [*map(torch.zeros, shapes)]
    place(together, regions, parts)
    for result, shape, region, part in zip(together, shapes, regions, parts, strict=True):
        alone = torch.zeros(shape)
        place([alone], [region], [part])
        assert torch.equal(result, alone)


def test_the_gradient_is_that_of_indexing() -> None:
    shapes, regions = zip(*REGIONS.values(), strict=True)
    fulls = [torch.rand(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *tensors: Cut.apply(regions, *tensors), fulls)

    parts = Cut.apply(regions, *fulls)
    weights = [torch.rand_like(part) for part in parts]
    gradients = torch.autograd.grad(sum((p * w).sum() for p, w in zip(parts, weights, strict=True)), fulls)
    for shape, region, weight, gradient in zip(shapes, regions, weights, gradients, strict=True):
        expected = np.zeros(shape)
        expected[indices(region)] = weight.numpy()
        np.testing.assert_array_equal(gradient.numpy(), expected)


def test_what_is_frozen_or_not_used_gets_no_gradient() -> None:
    region = (prefix(2),)
    trained, unused, frozen = (torch.ones(3, requires_grad=needs) for needs in (True, True, False))
    parts = Cut.apply([region] * 3, trained, unused, frozen)
    assert [part.requires_grad for part in parts] == [True, True, False]

    (parts[0] * parts[2]).sum().backward()
    assert trained.grad is not None and trained.grad.tolist() == [1, 1, 0]
    assert unused.grad is None and frozen.grad is None


@every_region
def test_covers_is_true_of_the_whole_tensor_alone(shape: tuple[int, ...], region: Region) -> None:
    assert covers(region, shape) == (one_cut(numbered(shape), region).shape == shape)


def test_a_prefix_of_each_half_is_not_a_prefix_of_the_whole() -> None:
    full = torch.tensor([10, 11, 12, 20, 21, 22])
    assert one_cut(full, (halves(4, 6),)).tolist() == [10, 11, 20, 21]
    assert one_cut(full, (prefix(4),)).tolist() == [10, 11, 12, 20]


@pytest.mark.parametrize("full", [2, 3, 8])
def test_whole_halves_are_the_whole(full: int) -> None:
    """They are used as they are and not cut, as is an odd number that there are no two halves of."""
    assert halves(full, full) == prefix(full) and covers((halves(full, full),), (full,))


@given(st.integers(0, 4), st.integers(0, 4))
def test_the_centre_leaves_as_many_taps_on_either_side(half: int, rim: int) -> None:
    length, full = 2 * half + 1, 2 * (half + rim) + 1
    taps = torch.arange(full)
    assert one_cut(taps, (centre(length, full),)).tolist() == list(range(rim, full - rim))
