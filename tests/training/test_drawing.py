"""Random members: they are drawn from a pool, of which a few places change in every epoch."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from helpers.architectures import FLAT, unet_family
from torch import nn

from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.training.drawing import POOL, STAY, draw_members, fixed_members
from monai_prox.training.recipes import RECIPES
from monai_prox.training.stage import Stage

STEPS = 400  # of an epoch, in which every place of the pool is drawn
LARGE = unet_family(choices=FLAT, features=(4, 8, 8), depths=(4, 4, 4))  # no two places have the same member
SMALL = unet_family(choices=UNetChoices(depth="full", width=(0.25, 0.5, 1.0), kernel=None)).space
RANDOM = Stage(name="random", open={}, train=("random",), monitored=True)


def drawn(space: SearchSpace, epoch: int, trial: SearchSpace | None = None, *, steps: int = STEPS) -> list[Subnet]:
    return [draw_members(RANDOM, space, trial=trial, seed=1, epoch=epoch, step=step)[0] for step in range(steps)]


def test_every_place_of_the_pool_keeps_its_member_for_some_epochs() -> None:
    pools = [set(drawn(LARGE.space, epoch)) for epoch in range(3 * STAY)]
    assert [len(pool) for pool in pools] == [POOL] * len(pools)
    for before, after in pairwise(pools):
        assert len(after - before) == len(before - after) == POOL // STAY
    stays = Counter(member for pool in pools for member in pool)
    whole = [stays[member] for member in pools[STAY] if member not in pools[0] and member not in pools[-1]]
    assert len(whole) >= POOL - 2 * POOL // STAY and set(whole) == {STAY}


def test_during_a_trial_there_is_a_second_pool_without_the_choice() -> None:
    trial = LARGE.space.without_last("width")
    members = [set(drawn(LARGE.space, epoch, trial, steps=2 * STEPS)) for epoch in range(2)]
    without = [set(drawn(trial, epoch)) for epoch in range(2)]
    assert all(pool < both and len(both) <= 2 * POOL for pool, both in zip(without, members, strict=True))
    assert len(members[1] - members[0]) <= 2 * POOL // STAY
    assert members[0] - without[0] == set(drawn(LARGE.space, 0)) - without[0]


@pytest.mark.parametrize("on_trial", [False, True])
def test_members_of_a_small_space_are_equally_frequent(on_trial: bool) -> None:
    trial = SMALL.without_last("width") if on_trial else None
    members = {SMALL.sample(random.Random(number)) for number in range(200)}
    epochs, steps = 50 * STAY, 16
    found = Counter(member for epoch in range(epochs) for member in drawn(SMALL, epoch, trial, steps=steps))
    assert len(members) == 9 and found.keys() == members
    for member in members:
        expected = 1 / 9 if trial is None else (1 / 9 + (member in trial) / 4) / 2
        assert found[member] / (epochs * steps) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("on_trial", [False, True])
def test_a_skeleton_is_built_once_while_its_member_stays(on_trial: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside members that are trained or validated in every epoch. Of a skeleton it is of interest alone that it is built."""
    supernet = SuperNet(LARGE)
    built: set[Subnet] = set()
    before: set[Subnet] = set()
    trial = LARGE.space.without_last("width") if on_trial else None
    monkeypatch.setattr(LARGE, "build", lambda subnet, **_: built.add(subnet) or nn.Identity())
    beside = {LARGE.space.sample(random.Random(number)) for number in range(16)}
    for epoch in range(STAY):
        members = {*drawn(LARGE.space, epoch, trial, steps=2 * STEPS)} | beside
        built.clear()
        for member in random.Random(epoch).sample(sorted(members, key=str), len(members)):
            supernet.shapes(member)
        assert built == members - before
        before = members


@pytest.mark.parametrize(
    ("recipe", "numbers"),
    [
        ("prox", [1, 2, 2, 2]),
        ("prox_paper", [1, 0, 0]),
        ("sandwich", [2]),
        ("progressive_shrinking", [1, 0, 0]),
        ("adopt", [1, 2]),
    ],
)
def test_fixed_members_are_those_of_the_roles_and_the_only_one_of_a_stage(recipe: str, numbers: list[int]) -> None:
    stages = RECIPES[recipe].stages(SMALL)
    spaces = [stage.space(SMALL) for stage in stages]
    fixed = [fixed_members(stage, space) for stage, space in zip(stages, spaces, strict=True)]
    assert [len(members) for members in fixed] == numbers
    for members, space in zip(fixed, spaces, strict=True):
        assert set(members) in (set(), {space.largest(), space.smallest()})


def test_during_a_trial_the_largest_member_without_the_choice_is_fixed_too() -> None:
    trial, stage = SMALL.without_last("width"), RECIPES["prox"].stages(SMALL)[-1]
    expected = [SMALL.largest(), SMALL.smallest(), trial.largest()]
    assert sorted(map(str, fixed_members(stage, SMALL, trial=trial))) == sorted(map(str, expected))
    drawn_with = {
        member for step in range(STEPS) for member in draw_members(stage, SMALL, trial=trial, seed=1, epoch=0, step=step)
    }
    assert drawn_with >= {*expected}
