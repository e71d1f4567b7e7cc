"""Labels on an image's grid against those of nnU-Net's own resampling of all logits."""

import tracemalloc
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from helpers.descriptions import DESCRIBED
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from scipy import ndimage

from monai_prox.runtime import labels as module
from monai_prox.runtime.description import Resampling
from monai_prox.runtime.labels import Samples, labels
from monai_prox.runtime.preprocessing import Grid
from monai_prox.runtime.resampling import matrices

TIE = 1e-3  # between logits of some 5, whose interpolation rounds to 1e-6
DESCRIPTION = replace(DESCRIBED, outputs=4)
sizes = st.tuples(*[st.sampled_from([1, 2, 3, 7, 12, 19])] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5, 5.0])] * 3)


def fields(shape: tuple[int, ...], outputs: int, *, smooth: bool, seed: int = 0) -> np.ndarray:
    """Logits of about 5, half as precise, of classes that lie together or of noise."""
    noise = np.random.default_rng(seed).normal(size=(outputs, *shape))
    if smooth:
        noise = ndimage.gaussian_filter(noise, (0, 2, 2, 2), mode="nearest")
        noise /= noise.std() or 1
    return (5 * noise).astype(np.float16)


def whole(shape: tuple[int, ...], new: tuple[int, ...], before: Any, after: Any) -> Grid:
    """An image of which nothing is cropped."""
    return Grid(new, tuple(slice(0, size) for size in new), shape, tuple(after), tuple(before))


def agree(found: np.ndarray, logits: np.ndarray, regions: tuple[int, ...] | None) -> None:
    """logits: at the resolution of the labels ``found``. Where two logits, or a logit and 0, are equal, either is right."""
    if regions is None:
        wanted, ordered = logits.argmax(0), np.sort(logits, 0)
        clear = ordered[-1] - ordered[-2] > TIE
    else:
        wanted, clear = np.zeros(found.shape, int), (np.abs(logits) > TIE).all(0)
        for logit, value in zip(logits, regions, strict=True):
            wanted[logit > 0] = value
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], wanted[clear])


@given(
    sizes,
    st.tuples(*[st.sampled_from([None, 1, 2, 5, 13, 24])] * 3),  # None: as many as there are
    spacings,
    spacings,
    st.builds(
        Resampling,
        order=st.sampled_from([0, 1]),
        order_z=st.sampled_from([0, 1, 3]),
        separate_z=st.sampled_from([None, True, False]),
    ),
    st.booleans(),
    st.sampled_from([None, (1, 2, 3, 4), (3, 1, 300, 1)]),
    st.sampled_from([30, 10**6]),
)
def test_labels_are_those_of_all_logits_resampled_as_nnunet_does(
    old: tuple[int, ...],
    chosen: tuple[int | None, ...],
    before: tuple[float, ...],
    after: tuple[float, ...],
    rule: Resampling,
    smooth: bool,
    regions: tuple[int, ...] | None,
    band: int,
) -> None:
    new = tuple(size or same for size, same in zip(chosen, old, strict=True))
    logits = fields(old, 4, smooth=smooth)
    resampled = resample_data_or_seg_to_shape(
        logits.astype(float), new, before, after, order=rule.order, order_z=rule.order_z, force_separate_z=rule.separate_z
    )
    with patch.object(module, "BAND", band):
        found = labels(logits, whole(old, new, before, after), replace(DESCRIPTION, logits=rule, regions=regions))
    assert found.dtype == (np.uint16 if regions and max(regions) == 300 else np.uint8)
    agree(found, resampled, regions)


@given(sizes, sizes, spacings, spacings, st.sampled_from([None, (1, 2, 3, 4)]))
def test_labels_are_those_of_all_logits_resampled_as_monai_does(
    old: tuple[int, ...], new: tuple[int, ...], before: tuple[float, ...], after: tuple[float, ...], regions: Any
) -> None:
    """By matrices, which tests of bundles hold against MONAI's Spacing."""
    rule = Resampling(order=1, separate_z=False, keeps="centre")
    logits = fields(old, 4, smooth=True)
    steps = [weights.astype(float) for weights in matrices(rule, old, new, before, after)]
    resampled = np.einsum("czyx,Zz,Yy,Xx->cZYX", logits.astype(float), *steps)
    description = replace(DESCRIPTION, logits=rule, regions=regions)
    agree(labels(logits, whole(old, new, before, after), description), resampled, regions)


def test_another_class_than_those_of_the_corners_may_lie_between_them() -> None:
    """The second is 0.9 everywhere, the first and the third are 2 at one of the ends and fall off towards the other."""
    ramp = np.array([2, -2], np.float16)
    logits = np.stack([ramp, np.full(2, 0.9, np.float16), ramp[::-1]])[:, None, None, :]
    found = labels(logits, whole((1, 1, 2), (1, 1, 20), (1, 1, 1), (1, 1, 1)), replace(DESCRIPTION, outputs=3))
    np.testing.assert_array_equal(found[0, 0], [0] * 8 + [1] * 4 + [2] * 8)


def test_of_equal_logits_the_first_is_taken() -> None:
    logits = np.ones((4, 3, 3, 3), np.float16)
    assert not labels(logits, whole((3, 3, 3), (5, 7, 4), (1, 1, 1), (1, 1, 1)), DESCRIPTION).any()
    regions = replace(DESCRIPTION, regions=(1, 2, 3, 4))
    assert not labels(0 * logits, whole((3, 3, 3), (5, 7, 4), (1, 1, 1), (1, 1, 1)), regions).any()


def test_what_was_cropped_away_is_background() -> None:
    """In an image whose axes are turned."""
    logits = fields((5, 6, 7), 4, smooth=False)
    logits[0] = -50
    box = slice(2, 12), slice(0, 6), slice(3, 17)
    grid = Grid((14, 6, 20), box, (5, 6, 7), (1.0, 1.0, 1.0), (2.0, 1.0, 2.0))
    found = labels(logits, grid, replace(DESCRIPTION, transpose=(2, 0, 1)))
    assert found.shape == (6, 20, 14)
    turned = found.transpose(2, 0, 1)
    assert (turned[box] > 0).all()
    assert np.count_nonzero(turned) == turned[box].size
    resampled = resample_data_or_seg_to_shape(logits.astype(float), (10, 6, 14), (2, 1, 2), (1, 1, 1), order=1)
    agree(turned[box], resampled, None)


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 9), (9, 1), (2, 2), (2, 3), (3, 2), (107, 160), (273, 512), (512, 273)])
@pytest.mark.parametrize("order", [0, 1])
def test_linear_interpolation_is_between_neighbours(old: int, new: int, order: int) -> None:
    rules = [Resampling(order=order), Resampling(order=1, separate_z=False, keeps="centre")]
    for rule in rules:
        weights = matrices(rule, (old,) * 3, (new,) * 3, (1.0,) * 3, (old / new,) * 3)[0]
        found = Samples.of(weights)
        assert found is not None and found.share.min() >= 0 and found.share.max() <= 1
        unit, share = np.eye(old), found.share[:, None]
        np.testing.assert_allclose((1 - share) * unit[found.below] + share * unit[found.above], weights, atol=1e-6)


@pytest.mark.parametrize("smooth", [True, False])
def test_logits_are_never_there_at_the_resolution_of_the_image(smooth: bool) -> None:
    """All of them would be 113 MB."""
    outputs, old, new = 16, (30, 30, 30), (120, 120, 120)
    logits = fields(old, outputs, smooth=smooth)
    grid, description = whole(old, new, (4, 4, 4), (1, 1, 1)), replace(DESCRIPTION, outputs=outputs)
    labels(logits, grid, description)  # matrices are kept
    tracemalloc.start()
    found = labels(logits, grid, description)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < found.nbytes + 3e6
