"""Stages over epochs, and what the recipes open in which order."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_prox.errors import ProXError
from monai_prox.schedule import Schedule, Stage, prox, prox_paper
from monai_prox.space import SearchSpace, Slot

shares = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8)


def space_of(**choices: int) -> SearchSpace:
    """Dimensions of two slots, the first with that many choices and the second with one less."""

    def slot(count: int) -> Slot:
        return Slot(choices=tuple(range(1, max(1, count) + 1)))

    return SearchSpace({name: (slot(count), slot(count - 1)) for name, count in choices.items()})


PAPER = space_of(levels=1, resolution=1, depth=3, decoder_depth=2, width=2, kernel=2)
EVERYTHING = space_of(levels=2, resolution=2, depth=3, decoder_depth=2, width=3, kernel=2)
SPACES = {
    "paper": PAPER,
    "everything": EVERYTHING,
    "width only": space_of(depth=1, width=4),
    "late dimensions only": space_of(levels=2, resolution=3, depth=1),
    "rigid": space_of(depth=1, width=1),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
every_recipe = pytest.mark.parametrize("recipe", [prox, prox_paper])


def schedule_of(shares: list[float], epochs: int) -> Schedule:
    return Schedule(tuple(Stage(name=str(i), share=share) for i, share in enumerate(shares)), epochs)


# ---------------------------------------------------------------------- stages over epochs
@given(shares, st.integers(0, 200))
def test_stages_cover_the_epochs_exactly_and_each_has_one(shares: list[float], more: int) -> None:
    schedule = schedule_of(shares, len(shares) + more)
    stage_of = [schedule.index(epoch) for epoch in range(schedule.epochs)]
    assert stage_of == sorted(stage_of) and set(stage_of) == set(range(len(shares)))
    assert [stage_of.index(stage) for stage in range(len(shares))] == list(schedule.starts)
    ends = [schedule.is_last_of_stage(epoch) for epoch in range(schedule.epochs)]
    assert ends == [a != b for a, b in zip(stage_of, [*stage_of[1:], None], strict=True)]


def test_shares_are_relative() -> None:
    assert schedule_of([1, 1, 2], 100).starts == schedule_of([10, 10, 20], 100).starts == (0, 25, 50)
    assert schedule_of([1, 2], 5).starts == (0, 2)  # the nearest epoch to 5 / 3


def test_epochs_past_the_end_belong_to_the_last_stage() -> None:
    assert schedule_of([1, 1], 4).index(1000) == 1


@given(shares)
def test_fewer_epochs_than_stages_are_refused(shares: list[float]) -> None:
    with pytest.raises(ProXError, match=f"recipe of {len(shares)} stages needs at least as many epochs"):
        schedule_of(shares, len(shares) - 1)


def test_a_schedule_needs_a_stage() -> None:
    with pytest.raises(ProXError, match="0 stages"):
        Schedule((), 10)


# ---------------------------------------------------------------------- one stage
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher": "smallest"}, "teacher is 'smallest'; allowed: none, previous, largest"),
        ({"distance": "l1"}, "distance is 'l1'; allowed: mse, kl"),
        ({"birth": "zero"}, "birth is 'zero'; allowed: random, preserving"),
        ({"freeze": "all"}, "freeze is 'all'; allowed: none, grown"),
        ({"train": ()}, "train is (); allowed: largest, smallest, random"),
        ({"train": ("middle",)}, "train is ('middle',); allowed: largest, smallest, random"),
        ({"teacher": "largest"}, "train must begin with it"),
        ({"teacher": "largest", "train": ("random", "largest")}, "train must begin with it"),
        ({"share": 0}, "share must be positive"),
        ({"share": -1.0}, "share must be positive"),
        ({"share": float("nan")}, "share must be positive"),
        ({"distillation": 1.5}, "distillation within 0 and 1"),
        ({"distillation": -0.1}, "distillation within 0 and 1"),
    ],
)
def test_a_refused_stage_says_why(wrong: dict, message: str) -> None:
    with pytest.raises(ProXError) as refusal:
        Stage(name="odd", **wrong)
    assert "stage 'odd'" in str(refusal.value) and message in str(refusal.value)


@every_recipe
def test_stages_are_plain_data(recipe) -> None:
    for stage in recipe(EVERYTHING):
        data = json.loads(json.dumps(stage.to_json()))
        assert Stage(**data | {"train": tuple(data["train"])}) == stage


# ---------------------------------------------------------------------- recipes
@every_recipe
@every_space
def test_recipes_start_at_the_smallest_and_end_with_everything_open(recipe, space: SearchSpace) -> None:
    stages = recipe(space)
    assert stages[0].space(space).size() == 1
    assert stages[0].space(space).largest() == space.smallest()
    assert stages[-1].space(space) == space


@every_recipe
@every_space
def test_what_opened_stays_open(recipe, space: SearchSpace) -> None:
    opened = [stage.space(space) for stage in recipe(space)]
    for before, after in pairwise(opened):
        for name, slots in before.dimensions.items():
            assert all(set(b.choices) <= set(a.choices) for b, a in zip(slots, after.dimensions[name], strict=True))


def test_the_paper_opens_one_choice_at_a_time() -> None:
    assert [(stage.name, dict(stage.open)) for stage in prox_paper(PAPER)] == [
        ("smallest", {}),
        ("depth", {"depth": 2, "decoder_depth": 2}),
        ("depth 3", {"depth": 3, "decoder_depth": 2}),
        ("width", {"depth": 3, "decoder_depth": 2, "width": 2}),
        ("kernel", {"depth": 3, "decoder_depth": 2, "width": 2, "kernel": 2}),
    ]


def test_the_paper_orders_depth_width_kernel_resolution_levels() -> None:
    names = [stage.name for stage in prox_paper(EVERYTHING)]
    assert names == ["smallest", "depth", "depth 3", "width", "width 3", "kernel", "resolution", "levels"]


def test_the_paper_teaches_by_the_previous_largest_in_equal_shares() -> None:
    first, *others = prox_paper(EVERYTHING)
    assert first.teacher == "none"
    for stage in others:
        assert (stage.teacher, stage.distance, stage.distillation) == ("previous", "mse", 0.5)
        assert stage.train == ("random",) and stage.birth == "random" and stage.share == first.share
        assert stage.freeze == ("grown" if stage.name.split()[0] in ("depth", "kernel") else "none")


def test_prox_grows_and_then_gives_everyone_their_due() -> None:
    stages = prox(EVERYTHING)
    assert [stage.name for stage in stages] == [
        "smallest",
        "depth",
        "width",
        "kernel, resolution, levels",
        "sandwich",
    ]
    assert dict(stages[1].open) == {"depth": 3, "decoder_depth": 2}
    assert dict(stages[2].open) == {"depth": 3, "decoder_depth": 2, "width": 3}
    assert set(stages[3].open) == {"depth", "decoder_depth", "width", "kernel", "resolution", "levels"}
    assert all(stage.birth == "preserving" and stage.teacher == "none" for stage in stages[1:-1])
    sandwich = stages[-1]
    assert sandwich.train == ("largest", "smallest", "random")
    assert (sandwich.teacher, sandwich.distance, sandwich.freeze) == ("largest", "kl", "none")
    assert sandwich.share > sum(stage.share for stage in stages[:-1])


@every_space
def test_prox_fits_into_five_epochs(space: SearchSpace) -> None:
    Schedule(prox(space), 5)


def test_prox_names_of_smaller_spaces() -> None:
    assert [stage.name for stage in prox(SPACES["width only"])] == ["smallest", "width", "sandwich"]
    assert [stage.name for stage in prox(SPACES["late dimensions only"])] == [
        "smallest",
        "resolution",
        "levels",
        "sandwich",
    ]


@every_recipe
def test_a_space_with_one_member_is_one_stage(recipe) -> None:
    (stage,) = recipe(SPACES["rigid"])
    assert stage.teacher == "none" and stage.space(SPACES["rigid"]).size() == 1
