"""Which choices are not worth their cost: decisions on fabricated Dice, and what a comparison says."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import sqrt
from typing import Any

import pytest
from architectures import unet_family
from hypothesis import assume, given
from hypothesis import strategies as st

from monai_prox import cost
from monai_prox.errors import ProXError
from monai_prox.families.unet import UNetChoices
from monai_prox.monitor import Comparison, Monitor
from monai_prox.space import SearchSpace, Subnet
from monai_prox.supernet import SuperNet

CHOICES = UNetChoices(depth="all", width=(0.5, 0.75, 1.0), kernel=(3, 5), levels=1, resolution=(0.75, 1.0))
SUPERNET = SuperNet(unet_family(choices=CHOICES, features=(4, 8, 8)))
SPACE = SUPERNET.family.space
SIZE = SUPERNET.family.patch_size
WORTH = (0.03, 0.001)  # a gain and its standard error
HOPELESS = (0.0, 0.001)


@pytest.fixture(autouse=True, scope="module")
def macs_are_counted_once() -> Iterator[None]:
    """Each count builds a network, which is most of what an observation of fabricated Dice takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "macs", cache(cost.macs))
        yield


def monitor_of(**settings: Any) -> Monitor:
    return Monitor(SUPERNET, SIZE, **settings)


def gains_of(gain: float, error: float, cases: int = 10) -> list[float]:
    """As many, of exactly that mean and standard error: one half above it and one below, by the same."""
    assert cases % 2 == 0
    deviation = error * sqrt(cases - 1)
    return [gain + (deviation if case % 2 else -deviation) for case in range(cases)]


def dice_of(monitor: Monitor, space: SearchSpace, gains: Mapping[str, Sequence[float]]) -> dict[Subnet, dict[str, float]]:
    """By case, of the largest member, whose cases differ, and of it without the last choice of each dimension.

    gains: by dimension what its last choice gains in each case; dimensions that are not in it are worth it.
    """
    worth = gains_of(*WORTH)
    dice = {space.largest(): {f"case {case}": 0.9 - 0.02 * case for case in range(30)}}
    for dimension, without in space.reductions().items():
        of = gains.get(dimension, worth)
        dice[without] = {f"case {case}": 0.9 - 0.02 * case - gain for case, gain in enumerate(of)}
    return dice


def observe(monitor: Monitor, epoch: int, space: SearchSpace = SPACE, /, **gains: tuple[float, float]) -> str | None:
    """What the monitor closes upon gains and standard errors by dimension; all others are worth it."""
    return monitor.observe(epoch, space, dice_of(monitor, space, {name: gains_of(*of) for name, of in gains.items()}))


def doubts(monitor: Monitor, dimension: str) -> list[int]:
    return [comparison.doubts for comparison in monitor.history if comparison.dimension == dimension]


def counts(space: SearchSpace) -> dict[str, int]:
    return {dimension: space.choice_count(dimension) for dimension in space.dimensions}


# ---------------------------------------------------------------------- what is compared
def test_an_expansion_is_the_largest_member_without_the_last_choice_of_one_dimension() -> None:
    largest = dict(SPACE.largest())
    assert largest == {
        "levels": (3,),
        "resolution": (1.0,),
        "depth": (2, 2, 2),
        "decoder_depth": (2, 2),
        "width": (4, 8, 8),
        "kernel": (5, 5, 5),
    }
    assert SPACE.reductions() == {
        "levels": Subnet.of(
            levels=(2,), resolution=(1.0,), depth=(2, 2, 0), decoder_depth=(2, 0), width=(4, 8, 0), kernel=(5, 5, 0)
        ),
        "resolution": Subnet.of(**largest | {"resolution": (0.75,)}),
        "depth": Subnet.of(**largest | {"depth": (1, 1, 1)}),
        "decoder_depth": Subnet.of(**largest | {"decoder_depth": (1, 1)}),
        "width": Subnet.of(**largest | {"width": (3, 6, 6)}),
        "kernel": Subnet.of(**largest | {"kernel": (3, 3, 3)}),
    }


def test_dimensions_with_one_open_choice_are_not_compared() -> None:
    space = SPACE.restrict(dict.fromkeys(SPACE.dimensions, 1) | {"width": 2, "depth": 2})
    smallest = dict(SPACE.smallest())
    assert space.reductions() == {
        "depth": Subnet.of(**smallest | {"width": (3, 6, 0)}),
        "width": Subnet.of(**smallest | {"depth": (2, 2, 0)}),
    }
    assert SPACE.restrict({}).reductions() == {}
    assert monitor_of().observe(0, SPACE.restrict({}), {}) is None


def test_slots_with_fewer_choices_keep_their_last_one() -> None:
    supernet = SuperNet(unet_family(choices=CHOICES, features=(4, 8, 8), depths=(1, 2, 3)))
    space = supernet.family.space
    assert space.reductions()["depth"]["depth"] == (1, 2, 2)
    narrower = space.restrict(counts(space) | {"depth": 2})
    assert narrower.reductions()["depth"]["depth"] == (1, 1, 1)


def test_where_no_member_is_left_without_a_choice_it_is_not_compared() -> None:
    """Residual stages whose widths have to differ."""
    choices = UNetChoices(depth="all", width=(0.5, 1.0), levels=0, resolution=(1.0,))
    supernet = SuperNet(unet_family("ResidualEncoderUNet", choices=choices, features=(4, 5)))
    assert supernet.family.space.restrict({"depth": 2, "decoder_depth": 2}).size() == 0
    assert set(supernet.family.space.reductions()) == {"depth", "decoder_depth"}


@pytest.mark.parametrize("dimension", ["levels", "resolution", "depth", "decoder_depth", "width", "kernel"])
def test_the_costs_added_are_the_difference_of_the_two_members(dimension: str) -> None:
    monitor = monitor_of()
    observe(monitor, 0)
    (comparison,) = [comparison for comparison in monitor.history if comparison.dimension == dimension]
    with_, without = SPACE.largest(), SPACE.reductions()[dimension]
    weights = [sum(p.numel() for p in SUPERNET.family.build(member).parameters()) for member in (with_, without)]
    assert comparison.parameters == weights[0] - weights[1]
    assert comparison.macs == cost.macs(SUPERNET.family, with_, SIZE) - cost.macs(SUPERNET.family, without, SIZE) > 0
    assert (comparison.parameters > 0) == (dimension != "resolution")
    assert (comparison.choices, comparison.epoch) == (3 if dimension == "width" else 2, 0)


def test_macs_are_counted_at_the_given_size() -> None:
    monitor = Monitor(SUPERNET, [48, 48])
    observe(monitor, 0)
    largest, without = SPACE.largest(), SPACE.reductions()["kernel"]
    (comparison,) = [comparison for comparison in monitor.history if comparison.dimension == "kernel"]
    assert comparison.macs == 4 * (
        cost.macs(SUPERNET.family, largest, (24, 24)) - cost.macs(SUPERNET.family, without, (24, 24))
    )


@given(st.lists(st.floats(-0.5, 0.5), min_size=5, max_size=20))
def test_gain_and_standard_error_in_closed_form(gains: list[float]) -> None:
    monitor = monitor_of()
    monitor.observe(0, SPACE, dice_of(monitor, SPACE, {"width": gains}))
    (comparison,) = [comparison for comparison in monitor.history if comparison.dimension == "width"]
    n = len(gains)
    mean = sum(gains) / n
    assert comparison.cases == n
    assert comparison.gain == pytest.approx(mean, abs=1e-9)
    assert comparison.error == pytest.approx(sqrt(sum((g - mean) ** 2 for g in gains) / (n - 1) / n), abs=1e-9)


def test_cases_are_compared_in_pairs() -> None:
    """Dice differs much more between cases than a choice gains; that is no noise."""
    monitor = monitor_of(patience=1)
    dice = dice_of(monitor, SPACE, {"width": [0.001] * 20})
    assert max(dice[SPACE.largest()].values()) - min(dice[SPACE.largest()].values()) > 0.5
    assert monitor.observe(0, SPACE, dice) == "width"
    (comparison,) = [comparison for comparison in monitor.history if comparison.dimension == "width"]
    assert comparison.gain == pytest.approx(0.001) and comparison.error < 1e-12


@pytest.mark.parametrize("cases", [0, 1, 4])
def test_fewer_than_five_cases_are_no_comparison(cases: int) -> None:
    monitor = monitor_of(patience=1)
    for epoch in range(3):
        assert monitor.observe(epoch, SPACE, dice_of(monitor, SPACE, {"width": [-0.5] * cases})) is None
    assert {comparison.dimension for comparison in monitor.history} == set(SPACE.dimensions) - {"width"}


@pytest.mark.parametrize(("score", "compared"), [(0.0, False), (0.1, True)])
def test_a_family_that_has_not_begun_to_learn_is_not_compared(score: float, compared: bool) -> None:
    """Where all members find nothing, no choice gains anything either."""
    monitor = Monitor(SUPERNET, SIZE)
    members = (SPACE.largest(), *SPACE.reductions().values())
    scores = {member: {f"case {i}": score for i in range(8)} for member in members}
    closed = [monitor.observe(epoch, SPACE, scores) for epoch in range(3)]
    assert bool(monitor.history) == any(closed) == compared


def test_five_cases_are_enough() -> None:
    monitor = monitor_of(patience=1)
    assert monitor.observe(0, SPACE, dice_of(monitor, SPACE, {"width": [-0.5] * 5})) == "width"


def test_only_common_cases_count() -> None:
    monitor = monitor_of(patience=1)
    dice = dice_of(monitor, SPACE, {"width": [-0.25] * 8})
    without = SPACE.reductions()["width"]
    dice[SPACE.largest()] |= {f"only the largest's {case}": 1.0 for case in range(5)}
    dice[without] |= {f"only the other's {case}": 0.0 for case in range(5)}
    assert monitor.observe(0, SPACE, dice) == "width"
    (comparison,) = [comparison for comparison in monitor.history if comparison.dimension == "width"]
    assert (comparison.cases, comparison.gain, comparison.error) == (8, pytest.approx(-0.25), pytest.approx(0))
    for case in range(4):
        del dice[SPACE.largest()][f"case {case}"]
    assert monitor.observe(1, SPACE, dice) is None
    assert not [comparison for comparison in monitor.history[6:] if comparison.dimension == "width"]


def test_the_order_of_cases_does_not_matter() -> None:
    one, other = monitor_of(), monitor_of()
    dice = dice_of(one, SPACE, {"width": [random.Random(0).gauss(0, 0.1) for _ in range(20)]})
    generator = random.Random(1)
    shuffled = {member: dict(generator.sample(sorted(of.items()), len(of))) for member, of in dice.items()}
    assert list(shuffled[SPACE.largest()]) != list(dice[SPACE.largest()])
    one.observe(0, SPACE, dice)
    other.observe(0, SPACE, shuffled)
    for a, b in zip(one.history, other.history, strict=True):
        assert a.gain == pytest.approx(b.gain) and a.error == pytest.approx(b.error)


# ---------------------------------------------------------------------- what is closed
def test_a_clear_gain_never_closes() -> None:
    monitor = monitor_of()
    assert [observe(monitor, epoch) for epoch in range(20)] == [None] * 20
    assert all(comparison.doubts == 0 and not comparison.closed for comparison in monitor.history)
    assert len(monitor.history) == 20 * 6


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
@pytest.mark.parametrize("dimension", SPACE.dimensions)
def test_no_gain_closes_after_as_many_validations_as_there_is_patience(dimension: str, patience: int) -> None:
    monitor = monitor_of(patience=patience)
    closed = [observe(monitor, epoch, **{dimension: HOPELESS}) for epoch in range(patience)]
    assert closed == [None] * (patience - 1) + [dimension]
    assert doubts(monitor, dimension) == list(range(1, patience + 1))
    assert [(c.epoch, c.dimension) for c in monitor.history if c.closed] == [(patience - 1, dimension)]


def test_three_validations_are_the_patience_by_default() -> None:
    monitor = monitor_of()
    assert [observe(monitor, epoch, kernel=HOPELESS) for epoch in range(3)] == [None, None, "kernel"]


def test_a_harm_closes_too() -> None:
    monitor = monitor_of()
    assert [observe(monitor, epoch, kernel=(-0.02, 0.005)) for epoch in range(3)] == [None, None, "kernel"]


def test_what_noise_may_hide_does_not_close() -> None:
    """No gain and even a harm in the mean, but with errors that a gain worth its cost may lie within."""
    monitor = monitor_of()
    for epoch in range(20):
        assert observe(monitor, epoch, width=(0.0, 0.01), kernel=(-0.01, 0.02)) is None
    assert set(doubts(monitor, "width") + doubts(monitor, "kernel")) == {0}


def test_a_gain_just_above_the_threshold_stays_and_one_just_below_closes() -> None:
    for gain, closes in ((0.0051, False), (0.0049, True)):
        monitor = monitor_of()
        closed = [observe(monitor, epoch, width=(gain, 1e-6)) for epoch in range(3)]
        assert ("width" in closed) == closes


@given(st.floats(-0.05, 0.05), st.floats(0, 0.05), st.floats(0, 0.02), st.integers(2, 15).map(lambda n: 2 * n + 2))
def test_a_choice_is_doubtful_where_the_upper_end_of_its_gain_is_below_the_threshold(
    gain: float, error: float, threshold: float, cases: int
) -> None:
    upper = gain + 1.645 * error
    assume(abs(upper - threshold) > 1e-6 and abs(gain) + error > 1e-6)
    monitor = monitor_of(threshold=threshold, patience=1)
    closes = monitor.observe(0, SPACE, dice_of(monitor, SPACE, {"width": gains_of(gain, error, min(cases, 30))})) == "width"
    assert closes == (upper < threshold)
    assert doubts(monitor, "width") == [int(closes)]


def test_a_late_gain_resets_the_doubts() -> None:
    monitor = monitor_of(patience=4)
    series = [HOPELESS] * 3 + [WORTH] + [HOPELESS] * 3 + [(0.0, 0.02)] + [HOPELESS] * 4
    closed = [observe(monitor, epoch, width=of) for epoch, of in enumerate(series)]
    assert closed == [None] * 11 + ["width"]
    assert doubts(monitor, "width") == [1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_a_validation_without_a_comparison_resets_the_doubts() -> None:
    """Validations in a row are those of one space, and with enough cases."""
    monitor = monitor_of()
    for epoch in range(2):
        observe(monitor, epoch, width=HOPELESS)
    assert monitor.observe(2, SPACE, dice_of(monitor, SPACE, {"width": [0.0] * 4})) is None
    assert [observe(monitor, epoch, width=HOPELESS) for epoch in (3, 4, 5)] == [None, None, "width"]


def test_dimensions_are_doubted_each_by_itself() -> None:
    monitor = monitor_of()
    closed = [observe(monitor, 0, kernel=HOPELESS), observe(monitor, 1, kernel=HOPELESS, depth=HOPELESS)]
    assert closed == [None, None]
    assert observe(monitor, 2, depth=HOPELESS, kernel=(0.004, 0.0001)) == "kernel", "though depth gains less"
    assert doubts(monitor, "depth") == [0, 1, 2]


def test_of_several_hopeless_the_one_with_the_least_gain_closes_and_the_others_are_judged_anew() -> None:
    monitor = monitor_of()
    gains = {"width": (0.001, 0.0001), "kernel": (-0.002, 0.0001), "depth": (0.0, 0.0001)}
    assert [observe(monitor, epoch, **gains) for epoch in range(3)] == [None, None, "kernel"]
    assert [comparison.dimension for comparison in monitor.history if comparison.closed] == ["kernel"]
    assert doubts(monitor, "width") == doubts(monitor, "depth") == doubts(monitor, "kernel") == [1, 2, 3]

    space = SPACE.restrict(counts(SPACE) | {"kernel": 1})
    del gains["kernel"]
    assert [observe(monitor, epoch, space, **gains) for epoch in (3, 4, 5)] == [None, None, "depth"]
    assert doubts(monitor, "width")[3:] == doubts(monitor, "depth")[3:] == [1, 2, 3]
    assert doubts(monitor, "kernel") == [1, 2, 3]


def test_the_next_choice_of_a_closed_dimension_is_judged_anew() -> None:
    monitor = monitor_of()
    assert [observe(monitor, epoch, width=HOPELESS) for epoch in range(3)] == [None, None, "width"]
    space = SPACE.restrict(counts(SPACE) | {"width": 2})
    assert [observe(monitor, epoch, space, width=HOPELESS) for epoch in (3, 4, 5)] == [None, None, "width"]
    assert [comparison.choices for comparison in monitor.history if comparison.dimension == "width"] == [3] * 3 + [2] * 3


def test_noise_alone_closes_every_choice_that_gains_nothing_and_a_gain_of_its_size_none() -> None:
    """30 cases with a noise of 0.01 in their differences, an order of magnitude above what a mean of them has."""
    generator = random.Random(0)
    for gain, closes in ((0.0, True), (0.01, False)):
        for _ in range(10):
            monitor, closed = monitor_of(), []
            for epoch in range(12):
                gains = [generator.gauss(gain, 0.01) for _ in range(30)]
                closed.append(monitor.observe(epoch, SPACE, dice_of(monitor, SPACE, {"kernel": gains})))
            assert ("kernel" in closed) == closes and set(closed) <= {None, "kernel"}


# ---------------------------------------------------------------------- what it says and keeps
def test_a_comparison_can_be_read() -> None:
    comparison = Comparison(
        epoch=4,
        dimension="kernel",
        choices=2,
        gain=0.0123,
        error=0.00456,
        cases=12,
        parameters=3_000_000,
        macs=6_000_000_000,
        doubts=0,
    )
    assert str(comparison) == ("kernel, choice 2: +0.0123 ± 0.0046 in 12 cases, +0.0041 per million weights, +0.0020 per GMAC")


def test_a_comparison_that_adds_no_weights_does_not_divide_by_them() -> None:
    monitor = monitor_of()
    observe(monitor, 0, resolution=(-0.0123, 0.0))
    (comparison,) = [comparison for comparison in monitor.history if comparison.dimension == "resolution"]
    assert str(comparison).startswith("resolution, choice 2: -0.0123 ± 0.0000 in 10 cases, -")
    assert "weights" not in str(comparison) and str(comparison).endswith(" per GMAC")


@pytest.mark.parametrize("interrupted", range(1, 8))
def test_a_monitor_that_was_saved_goes_on_alike(interrupted: int) -> None:
    series = [{"width": HOPELESS, "depth": of} for of in (WORTH, HOPELESS, HOPELESS)]
    series += [{"width": WORTH, "depth": HOPELESS}] + [{"depth": (0.001, 0.0001), "kernel": HOPELESS}] * 4
    whole, first, second = monitor_of(), monitor_of(), monitor_of()
    expected = [observe(whole, epoch, **gains) for epoch, gains in enumerate(series)]
    assert {"width", "depth"} < set(expected)
    closed = [observe(first, epoch, **gains) for epoch, gains in enumerate(series[:interrupted])]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.history == first.history
    closed += [observe(second, epoch, **gains) for epoch, gains in enumerate(series) if epoch >= interrupted]
    assert closed == expected
    assert second.history == whole.history and second.state_dict() == whole.state_dict()


def test_a_saved_state_is_of_its_own() -> None:
    monitor = monitor_of()
    observe(monitor, 0, width=HOPELESS)
    state = monitor.state_dict()
    kept = json.dumps(state)
    observe(monitor, 1, width=HOPELESS)
    assert json.dumps(state) == kept


@pytest.mark.parametrize("patience", [0, -1, 2.0, "3", None])
def test_a_patience_that_is_no_number_of_validations_is_refused(patience: Any) -> None:
    with pytest.raises(ProXError) as refusal:
        monitor_of(patience=patience)
    assert str(refusal.value) == f"the monitor's patience counts validations and is at least 1, got {patience!r}"
