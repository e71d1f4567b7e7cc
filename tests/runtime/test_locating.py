"""A small network says where a large one runs. Both look at voxels one by one, so their results are known in closed form."""

import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.descriptions import DESCRIBED, SCANS
from helpers.refusals import refused
from numpy.typing import NDArray

from monai_prox.runtime.grid import Grid
from monai_prox.runtime.locating import Locator
from monai_prox.runtime.memory import _to_predict
from monai_prox.runtime.options import PLAIN, Options
from monai_prox.runtime.prediction import label
from monai_prox.runtime.sliding_window import tiles

SHAPE = 24, 30, 40
PATCH = DESCRIBED.patch
EVERY = len(list(tiles(SHAPE, PATCH)))

Array = NDArray[np.float32]


class Threshold:
    """The organ is where voxels are above a level; logits are as far apart as voxels are from it."""

    def __init__(self, level: float, calls: list[int] | None = None) -> None:
        self.level, self.calls = level, [] if calls is None else calls

    def __call__(self, x: Array) -> Array:
        self.calls.append(len(x))
        return np.concatenate([np.zeros_like(x), x - self.level], 1)


def segmented(image: Array, options: Options = PLAIN, *, level: float = 0.5) -> tuple[NDArray[Any], int]:
    """Labels, and how many tiles the large network has seen."""
    large, counted = Threshold(level), []
    whole = tuple(slice(0, size) for size in SHAPE)
    grid = Grid(SHAPE, whole, SHAPE, (1.0,) * 3, (1.0,) * 3)
    found = label(image[None], grid, DESCRIBED, large, options, done=counted.append)
    assert set(counted) == {len(large.calls)} or not counted
    return found, len(large.calls)


def locator(small: Callable[[Array], Array], **settings: Any) -> Options:
    return Options(locator=Locator(network=small, description=replace(DESCRIBED, patch=(12, 12, 12)), **settings))


@pytest.fixture
def image() -> Array:
    """An organ of 4 x 5 x 6 voxels with a bright core, and a bright speck far away that only the large network calls organ."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[8:12, 10:15, 20:26] = 1
    voxels[9:11, 11:14, 21:25] = 3
    voxels[20, 4, 3] = 1
    return voxels


def test_the_large_network_runs_around_what_is_found(image: Array) -> None:
    everywhere, count = segmented(image)
    assert count == EVERY and everywhere.sum() == 4 * 5 * 6 + 1
    found, count = segmented(image, locator(Threshold(2), margin=4))
    assert found[8:12, 10:15, 20:26].all() and found.sum() == 4 * 5 * 6, "the core was seen, and the organ is within its margin"
    assert count == len(list(tiles((10, 11, 12), PATCH)))


def test_without_a_margin_the_box_is_that_of_what_is_found_or_a_patch(image: Array) -> None:
    """The core has 2 x 3 x 4 voxels, the patch 8 x 8 x 8, which is laid around its middle."""
    found, count = segmented(image, locator(Threshold(2), margin=0))
    assert count == 1 and found.sum() == 4 * 5 * 6
    image[:] = 0
    image[0, 0, 0] = image[0, 0, 9] = 3
    found, count = segmented(image, locator(Threshold(2), margin=0))
    assert count == len(list(tiles((8, 8, 10), PATCH))) and found[0, 0, [0, 9]].all()


def test_specks_are_taken_for_nothing(image: Array) -> None:
    """The core has 24 voxels, and far away the small network finds 2 and 1."""
    image[20, 4, 3:5] = image[0, 0, 39] = 3
    organ = image >= 1
    for specks, kept in ((0.0, (2, 1)), (1 / 24, (2, 1)), (1.5 / 24, (2,)), (2.1 / 24, ()), (1.0, ())):
        options = locator(Threshold(2), margin=1, specks=specks)
        found, count = segmented(image, options)
        assert found.sum() == 4 * 5 * 6 + sum(kept), specks
        assert (count == 1) == (not kept)
        np.testing.assert_array_equal(found[:18, :, :30], organ[:18, :, :30])


def test_what_touches_at_corners_is_one_part() -> None:
    """As in postprocessing: a slanting vessel is one part of 8 voxels beside one of 27, and no 8 specks."""
    slanting = np.zeros(SHAPE, np.float32)
    slanting[20:23, 20:23, 30:33] = 3
    slanting[tuple(np.arange(2, 10) for _ in SHAPE)] = 3
    found, _ = segmented(slanting, locator(Threshold(2), margin=0, specks=0.2))
    assert found.sum() == 27 + 8


def test_a_thin_image_has_no_larger_box_than_itself() -> None:
    thin = np.zeros((1, 3, 30, 40), np.float32)
    thin[0, 1, 10, 10] = 3
    where = Locator(network=Threshold(2), description=DESCRIBED, margin=5)
    large = Threshold(0.5)
    logits = where.logits(thin, (5.0, 1.0, 1.0), large, DESCRIBED, 0.5)
    assert logits.shape == (2, 3, 30, 40) and (logits.argmax(0) > 0).sum() == 1


def test_where_nothing_is_found_the_large_network_runs_everywhere(image: Array) -> None:
    with pytest.warns(UserWarning, match="the image: nothing is found by the network of --locate"):
        found, count = segmented(image, locator(Threshold(5)))
    assert count == EVERY and np.array_equal(found, segmented(image)[0])


def test_a_sure_network_keeps_its_own_result(image: Array) -> None:
    """Voxels of 1 and a level of 0.9 have logits 0.1 apart; those of 0 and of 3 have more than 0.8."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apart = float(np.tanh(0.25))  # of the probabilities of two logits that are 0.5 apart
        found, count = segmented(image, locator(Threshold(0.9), unsure=apart), level=2)
        within = {
            corner
            for corner in tiles(SHAPE, PATCH)
            for at in [tuple(slice(c, c + 8) for c in corner)]
            if (image[at] == 1).any()
        }
        assert count == len(within) < EVERY
        covered = np.zeros(SHAPE, bool)
        for corner in within:
            covered[tuple(slice(c, c + 8) for c in corner)] = True
        assert covered[20, 4, 3] and not covered.all()
        assert np.array_equal(found > 0, np.where(covered, image > 2, image > 0.9))
        assert segmented(np.full(SHAPE, 9, np.float32), locator(Threshold(0.9), unsure=0.5), level=20)[0].all()


def test_regions_are_seen_and_unsure_each_by_itself(image: Array) -> None:
    regions = replace(DESCRIBED, regions=(1, 2), labels={"background": 0, "whole": [1, 2], "core": 2}, patch=PATCH)

    def small(x: Array) -> Array:
        return np.concatenate([x - 0.5, x - 2.5], 1) * 20

    where = Locator(network=small, description=regions, margin=0)
    logits = where.logits(image[None], (1.0,) * 3, small, regions, 0.5)
    assert np.array_equal(logits[0] > 0, image > 0.5) and np.array_equal(logits[1] > 0, image > 2.5)
    logits = replace(where, specks=0.5).logits(image[None], (1.0,) * 3, small, regions, 0.5)
    assert (logits[:, 20, 4, 3] < 0).all() and (logits[0] > 0).sum() == (image > 0.5).sum() - 1
    seen = Locator(network=small, description=regions, unsure=0.99)._seen(logits, exclusive=False)
    assert not seen.any()
    logits[1, 3, 3, 3] = 0.1
    assert Locator(network=small, description=regions, unsure=0.99)._seen(logits, exclusive=False).sum() == 1


def test_a_share_of_specks_is_refused_in_a_line() -> None:
    for specks in (-0.1, 1.1, np.nan):
        refused("--specks is a share of the largest part that is found, 0 to 1", locator, Threshold(1), specks=specks)


def test_a_network_for_other_images_or_labels_is_refused() -> None:
    large = replace(DESCRIBED, member="largest", patch=(16, 16, 16))
    Options(locator=Locator(network=Threshold(1), description=DESCRIBED)).check(large)
    for name, value in {"spacing": (2.0, 1.0, 1.0), "labels": {"background": 0, "liver": 1}, "channels": ("CT",)}.items():
        other = Locator(network=Threshold(1), description=replace(DESCRIBED, **{name: value}))
        refused(f"--locate names a network whose {name} is {value}", Options(locator=other).check, large)
    coarser = Locator(network=Threshold(1), description=replace(DESCRIBED, spacing=(2.0, 1.0, 1.0)))  # of an elastic resolution
    refused("both must be of one family or one plan, and of one resolution", Options(locator=coarser).check, large)
    refused("which classifies", Options(locator=Locator(network=Threshold(1), description=SCANS)).check, large)
    refused("--locate: these are for networks that segment", Options(locator=other).check, SCANS)
    refused("--margin is a distance in mm, 0 to 10,000, got -1", Locator, network=Threshold(1), description=large, margin=-1)
    refused("--unsure is a difference of probabilities", Locator, network=Threshold(1), description=large, unsure=0)


def test_one_class_is_sure_and_a_difference_of_one_is_everywhere(image: Array) -> None:
    only = Locator(network=lambda x: x, description=DESCRIBED, unsure=0.5)._seen(
        np.zeros((1, *SHAPE), np.float16), exclusive=True
    )
    assert not only.any()
    _, count = segmented(image, locator(Threshold(-1e4), unsure=1))
    assert count == EVERY


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_case_with_specks_takes_no_more_than_is_counted(outputs: int, share: float) -> None:
    side, regions = 96, (1,) if outputs == 1 else None
    voxels = np.where(np.random.default_rng(0).random((1, side, side, side)) < share, np.float32(3), np.float32(0))
    voxels[0, 40:50, 40:50, 40:50] = 3
    described = replace(DESCRIBED, outputs=outputs, regions=regions, patch=(32, 32, 32))

    def network(x: Array) -> Array:
        return x - 1 if outputs == 1 else np.concatenate([1 - x, x - 1], 1)

    options = Options(locator=Locator(network=network, description=described, margin=1, specks=0.5))
    grid = Grid((side,) * 3, (slice(0, side),) * 3, (side,) * 3, (1.0,) * 3, (1.0,) * 3)
    tracemalloc.start()
    label(voxels, grid, described, network, options)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < _to_predict(grid, described, options) - voxels.nbytes


def test_its_logits_are_counted_in_what_a_case_takes() -> None:
    grid = Grid((200,) * 3, (slice(0, 200),) * 3, (200,) * 3, (1.0,) * 3, (1.0,) * 3)
    more = _to_predict(grid, DESCRIBED, locator(Threshold(1))) - _to_predict(grid, DESCRIBED, PLAIN)
    assert more == 200**3 * (2 * 2 + 1) + 2 * 4 * 2 * 200**2
    unsure = _to_predict(grid, DESCRIBED, locator(Threshold(1), unsure=0.5)) - _to_predict(grid, DESCRIBED, PLAIN)
    assert unsure == more + 200**3 * 5
    flat = Grid((1, 8, 8), (slice(0, 1), slice(0, 8), slice(0, 8)), (1, 8, 8), (1.0,) * 3, (1.0,) * 3)
    assert _to_predict(flat, DESCRIBED, locator(Threshold(1))) > 12**3 * (2 + 3) * 4, "the small network's patch"
