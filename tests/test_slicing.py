"""Regions against numpy's own indexing."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monai_prox.slicing import Cut, Region, centre, covers, cut, fill, halves, prefix

REGIONS = {
    "prefix and whole": ((5, 4), (prefix(3), prefix(4))),
    "halves": ((3, 8), (prefix(2), halves(6, 8))),
    "kernel centre": ((3, 2, 5, 5), (prefix(2), prefix(1), centre(3, 5), centre(1, 5))),
    "both": ((4, 6, 3, 5, 7), (prefix(2), halves(2, 6), centre(1, 3), centre(3, 5), centre(7, 7))),
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


@every_region
def test_cut_is_numpy_indexing(shape: tuple[int, ...], region: Region) -> None:
    full = numbered(shape)
    result = cut(full, region)
    np.testing.assert_array_equal(result.numpy(), full.numpy()[indices(region)])
    assert result.is_contiguous() and result.untyped_storage().data_ptr() != full.untyped_storage().data_ptr()


@every_region
def test_fill_writes_the_region_and_nothing_else(shape: tuple[int, ...], region: Region) -> None:
    for number in (False, True):
        full, expected = numbered(shape), numbered(shape).numpy()
        values = -1.0 if number else -1 - torch.rand(expected[indices(region)].shape)
        expected[indices(region)] = values if number else values.numpy()
        fill(full, region, values)
        np.testing.assert_array_equal(full.numpy(), expected)


@every_region
def test_the_gradient_is_that_of_indexing(shape: tuple[int, ...], region: Region) -> None:
    full = torch.rand(shape, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: Cut.apply(t, region), (full,))
    weights = torch.rand(cut(full, region).shape, dtype=torch.double)
    (gradient,) = torch.autograd.grad((Cut.apply(full, region) * weights).sum(), full)
    expected = np.zeros(shape)
    expected[indices(region)] = weights.numpy()
    np.testing.assert_array_equal(gradient.numpy(), expected)


@every_region
def test_covers_is_true_of_the_whole_tensor_alone(shape: tuple[int, ...], region: Region) -> None:
    assert covers(region, shape) == (cut(numbered(shape), region).shape == shape)


def test_a_prefix_of_each_half_is_not_a_prefix_of_the_whole() -> None:
    full = torch.tensor([10, 11, 12, 20, 21, 22])
    assert cut(full, (halves(4, 6),)).tolist() == [10, 11, 20, 21]
    assert cut(full, (prefix(4),)).tolist() == [10, 11, 12, 20]


@given(st.integers(0, 4), st.integers(0, 4))
def test_the_centre_leaves_as_many_taps_on_either_side(half: int, rim: int) -> None:
    length, full = 2 * half + 1, 2 * (half + rim) + 1
    taps = torch.arange(full)
    assert cut(taps, (centre(length, full),)).tolist() == list(range(rim, full - rim))
