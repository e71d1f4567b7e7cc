"""Stages over epochs, and what the recipes open in which order."""

import json
from itertools import pairwise
from typing import Any

import pytest
from helpers.architectures import unet_family
from hypothesis import given
from hypothesis import strategies as st

from monai_prox.core.slots import Slot
from monai_prox.core.space import SearchSpace
from monai_prox.errors import ProXError
from monai_prox.families.unet_choices import PAPER_CHOICES, UNetChoices
from monai_prox.training.recipes import (
    RECIPES,
    adopt,
    find_recipe,
    make_schedule,
    progressive_shrinking,
    prox,
    prox_paper,
    sandwich,
)
from monai_prox.training.stage import Schedule, Stage

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
every_recipe = pytest.mark.parametrize("recipe", [recipe.stages for recipe in RECIPES.values()], ids=RECIPES)
growing_recipe = pytest.mark.parametrize("recipe", [prox, prox_paper])


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


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_stages_are_merged_if_there_are_fewer_epochs(recipe: str, epochs: int, caplog: pytest.LogCaptureFixture) -> None:
    stages = RECIPES[recipe].stages(EVERYTHING)
    schedule = make_schedule(recipe, EVERYTHING, epochs)
    if len(stages) <= epochs:
        assert schedule.stages == stages and not caplog.text
        return
    kept = len(stages) - epochs
    assert schedule.starts == tuple(range(epochs)) and schedule.stages[1:] == stages[kept + 1 :]
    first, was = schedule.stages[0], stages[kept]
    assert (first.name, first.open, first.train, first.monitored) == (was.name, was.open, was.train, was.monitored)
    assert first.teacher in ("none", "largest") and first.freeze == "none"
    assert first.new_weights == ("given" if recipe == "adopt" else "random")
    assert f"{recipe} has {len(stages)} stages, more than epochs, {epochs}: the first {kept + 1} are merged" in caplog.text


def test_a_schedule_needs_a_stage() -> None:
    with pytest.raises(ProXError, match="0 stages"):
        Schedule((), 10)


# ---------------------------------------------------------------------- one stage
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": "middle"}, "start is 'middle'; allowed: smallest, largest"),
        ({"teacher": "smallest"}, "teacher is 'smallest'; allowed: none, previous, first, largest"),
        ({"distance": "l1"}, "distance is 'l1'; allowed: mse, kl"),
        ({"new_weights": "zero"}, "new_weights is 'zero'; allowed: random, preserving, given"),
        ({"freeze": "all"}, "freeze is 'all'; allowed: none, grown"),
        ({"train": ()}, "train is (); allowed: largest, smallest, random"),
        ({"train": ("middle",)}, "train is ('middle',); allowed: largest, smallest, random"),
        ({"teacher": "largest"}, "train must begin with it"),
        ({"teacher": "largest", "train": ("random", "largest")}, "train must begin with it"),
        ({"share": 0}, "share must be positive"),
        ({"share": -1.0}, "share must be positive"),
        ({"share": float("nan")}, "share must be positive"),
        ({"warmup": -1}, "warmup not negative"),
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
        train = tuple(tuple(role) if isinstance(role, list) else role for role in data["train"])
        assert data.pop("sort_channels") == (stage.reorder is not None)
        assert Stage(**data | {"train": train, "reorder": stage.reorder}) == stage


def test_a_stage_opens_from_its_start() -> None:
    counts = {"depth": 2, "decoder_depth": 2, "width": 2}
    for start, depths, widths in (
        ("smallest", [(1, 2), (1, 2)], [(1, 2), (1, 2)]),
        ("largest", [(2, 3), (1, 2)], [(2, 3), (1, 2)]),
    ):
        opened = Stage(name="some", open=counts, start=start).space(EVERYTHING).dimensions
        assert [slot.choices for slot in opened["depth"]] == depths
        assert [slot.choices for slot in opened["width"]] == widths
        assert [slot.choices for slot in opened["kernel"]] == ([(1,), (1,)] if start == "smallest" else [(2,), (1,)])


def test_by_default_a_stage_is_a_member_that_learns_from_the_labels() -> None:
    stage = Stage(name="plain")
    assert (stage.start, stage.teacher, (stage.reorder is not None), stage.monitored) == ("smallest", "none", False, False)
    assert stage.space(EVERYTHING).size() == 1


# ---------------------------------------------------------------------- recipes
@growing_recipe
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
        assert stage.train == ("random",) and stage.new_weights == "random" and stage.share == first.share
        assert stage.freeze == ("grown" if stage.name.split()[0] in ("depth", "kernel") else "none")


def test_prox_grows_and_then_gives_everyone_their_due() -> None:
    stages = prox(EVERYTHING)
    assert [stage.name for stage in stages] == [
        "smallest",
        "depth",
        "width",
        "kernel, resolution, levels",
        "everyone",
    ]
    assert dict(stages[1].open) == {"depth": 3, "decoder_depth": 2}
    assert dict(stages[2].open) == {"depth": 3, "decoder_depth": 2, "width": 3}
    assert set(stages[3].open) == {"depth", "decoder_depth", "width", "kernel", "resolution", "levels"}
    assert all((stage.teacher, stage.freeze) == ("none", "none") for stage in stages)
    assert all((stage.new_weights, stage.train) == ("preserving", (("largest", "smallest"),)) for stage in stages[1:-1])
    assert stages[-1].train == (("largest", "random", "largest", "smallest"),)
    assert [stage.share for stage in stages] == [0.25, 0.1, 0.1, 0.1, 0.45]
    assert [stage.warmup for stage in stages] == [0, 40, 40, 40, 40]


@every_space
def test_prox_fits_into_five_epochs(space: SearchSpace) -> None:
    Schedule(prox(space), 5)


def test_prox_grows_by_one_choice_at_a_time_where_there_are_three_at_most() -> None:
    stages = prox(unet_family(choices=UNetChoices(), features=(16, 32)).space)
    assert [(stage.name, dict(stage.open), stage.share) for stage in stages] == [
        ("smallest", {}, 0.25),
        ("width", {"width": 2}, 0.1),
        ("width 3", {"width": 3}, 0.1),
        ("width 4", {"width": 4}, 0.1),
        ("everyone", {"width": 4}, 0.45),
    ]


def test_prox_names_of_smaller_spaces() -> None:
    assert [stage.name for stage in prox(SPACES["width only"])] == ["smallest", "width", "width 3", "width 4", "everyone"]
    assert [stage.name for stage in prox(SPACES["late dimensions only"])] == [
        "smallest",
        "resolution",
        "resolution 3",
        "levels",
        "everyone",
    ]


@every_recipe
def test_a_space_with_one_member_is_one_stage(recipe) -> None:
    (stage,) = recipe(SPACES["rigid"])
    assert stage.teacher == "none" and stage.space(SPACES["rigid"]).size() == 1
    assert not (stage.reorder is not None) and not stage.monitored
    Schedule((stage,), 1)


# ---------------------------------------------------------------------- shrinking
def shrinking_of(choices: UNetChoices) -> tuple[SearchSpace, tuple[Stage, ...]]:
    """What progressive shrinking makes of a U-Net of three levels with two blocks each."""
    space = unet_family(choices=choices, features=(8, 16, 16)).space
    return space, progressive_shrinking(space)


def told(stage: Stage) -> tuple[Any, ...]:
    return stage.name, dict(stage.open), len(stage.train), stage.teacher, (stage.reorder is not None)


def test_shrinking_the_papers_space() -> None:
    _, stages = shrinking_of(PAPER_CHOICES)
    kernel = {"kernel": 2}
    depth = kernel | {"depth": 2, "decoder_depth": 2}
    assert [told(stage) for stage in stages] == [
        ("largest", {}, 1, "none", False),
        ("kernel", kernel, 1, "first", False),
        ("depth", depth, 2, "first", False),
        ("width", depth | {"width": 2}, 4, "first", True),
    ]


def test_shrinking_a_space_of_four_dimensions() -> None:
    choices = UNetChoices(depth="thirds", width=(0.5, 0.75, 1.0), levels=1, resolution=(0.75, 1.0))
    _, stages = shrinking_of(choices)
    resolution = {"resolution": 2}
    depth = resolution | {"depth": 2, "decoder_depth": 2}
    levels = depth | {"levels": 2}
    assert [told(stage) for stage in stages] == [
        ("largest", {}, 1, "none", False),
        ("resolution", resolution, 1, "first", False),
        ("depth", depth, 2, "first", False),
        ("levels", levels, 2, "first", False),
        ("width", levels | {"width": 2}, 4, "first", True),
        ("width 3", levels | {"width": 3}, 4, "first", True),
    ]


def test_shrinking_opens_the_papers_choices_from_the_largest() -> None:
    space, stages = shrinking_of(PAPER_CHOICES)
    opened = [
        tuple({slot.choices for slot in stage.space(space).dimensions[name]} for name in ("kernel", "depth", "decoder_depth"))
        for stage in stages
    ]
    whole, half = {(3, 5)}, {(1, 2)}
    assert opened == [({(5,)}, {(2,)}, {(2,)}), (whole, {(2,)}, {(2,)}), (whole, half, half), (whole, half, half)]
    widths = [[slot.choices for slot in stage.space(space).dimensions["width"]] for stage in stages]
    assert widths == [[(8,), (16,), (16,)]] * 3 + [[(4, 8), (8, 16), (8, 16)]]


@every_space
def test_shrinking_starts_at_the_largest_which_stays_and_ends_with_everything_open(space: SearchSpace) -> None:
    stages = progressive_shrinking(space)
    opened = [stage.space(space) for stage in stages]
    assert opened[0].size() == 1 and opened[-1] == space
    assert all(part.largest() == space.largest() for part in opened)
    assert all(before.size() < after.size() for before, after in pairwise(opened))


@every_space
def test_shrinking_is_taught_by_the_first_largest_in_equal_shares(space: SearchSpace) -> None:
    first, *others = progressive_shrinking(space)
    assert first.teacher == "none" and first.train == ("random",) and first.start == "largest"
    for stage in others:
        assert (stage.teacher, stage.distance, stage.distillation) == ("first", "kl", 0.5)
        assert set(stage.train) == {"random"} and stage.start == "largest" and stage.share == first.share
        assert (stage.new_weights, stage.freeze, stage.monitored) == ("random", "none", False)


@every_space
def test_shrinking_sorts_channels_whenever_narrower_members_open(space: SearchSpace) -> None:
    stages = progressive_shrinking(space)
    elastic = "width" in space.dimensions and space.choice_count("width") > 1
    assert any((stage.reorder is not None) for stage in stages) == elastic
    for before, stage in pairwise(stages):
        assert (stage.reorder is not None) == (stage.open.get("width", 1) > before.open.get("width", 1))


# ---------------------------------------------------------------------- the sandwich rule
@every_space
def test_the_sandwich_is_one_stage_of_everything(space: SearchSpace) -> None:
    (stage,) = sandwich(space)
    assert stage.space(space) == space
    if space.size() > 1:
        assert stage.train == ("largest", "smallest", "random", "random")
        assert (stage.teacher, stage.distance, stage.distillation) == ("largest", "kl", 1.0)
        assert (stage.new_weights, stage.freeze, (stage.reorder is not None)) == ("random", "none", False)


# ---------------------------------------------------------------------- the recipe adopt
@every_space
def test_a_given_networks_smallest_member_is_trained_first_and_then_all(space: SearchSpace) -> None:
    if space.size() == 1:
        return
    first, last = adopt(space)
    assert first.space(space).size() == 1 and first.space(space).largest() == space.smallest()
    assert first.reorder is not None and last.reorder is None and last.space(space) == space
    assert last.train == (("largest", "random", "largest", "smallest"),)
    assert all((stage.teacher, stage.new_weights) == ("none", "given") for stage in (first, last))
    (both,) = make_schedule("adopt", space, 1).stages
    assert both.new_weights == "given" and both.space(space) == space and both.reorder == first.reorder


# ---------------------------------------------------------------------- recipes by name
def test_known_recipes() -> None:
    assert {name: recipe.stages for name, recipe in RECIPES.items()} == {
        "prox": prox,
        "prox_paper": prox_paper,
        "progressive_shrinking": progressive_shrinking,
        "sandwich": sandwich,
        "adopt": adopt,
    }
    assert [name for name, recipe in RECIPES.items() if recipe.kernel_transforms] == ["progressive_shrinking"]


def test_a_monitored_stage_starts_with_the_smallest() -> None:
    with pytest.raises(ProXError, match="stage 'last': it starts with the largest, so the last choices cannot be closed"):
        Stage(name="last", start="largest", monitored=True)


@every_space
@pytest.mark.parametrize("name", RECIPES)
def test_what_is_monitored_is_the_last_stage(name: str, space: SearchSpace) -> None:
    stages = find_recipe(name).stages(space)
    monitored = [stage.name for stage in stages if stage.monitored]
    assert monitored == ([stages[-1].name] if name in ("prox", "adopt") and space.size() > 1 else [])


@pytest.mark.parametrize("name", RECIPES)
def test_a_schedule_is_made_of_a_recipe_by_its_name(name: str) -> None:
    schedule = make_schedule(name, EVERYTHING, 20)
    assert schedule.stages == RECIPES[name].stages(EVERYTHING) and schedule.epochs == 20


@pytest.mark.parametrize("name", ["PROX", "", "ofa", None, 1, ["prox"]])
def test_an_unknown_recipe_is_refused_with_the_known_ones(name: Any) -> None:
    for find in (find_recipe, lambda name: make_schedule(name, EVERYTHING, 20)):
        with pytest.raises(ProXError) as refusal:
            find(name)
        assert str(refusal.value) == (
            f"the recipe {name!r} is not known; known: prox, prox_paper, progressive_shrinking, sandwich, adopt"
        )
