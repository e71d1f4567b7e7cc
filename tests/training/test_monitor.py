"""Which choices are not worth their cost: verdicts on fabricated Dice, and what a comparison says."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import sqrt
from typing import Any

import pytest
from helpers.architectures import unet_family
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.monitor_errors import closed_share
from monai_prox.core import cost
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.training.monitor import CONFIDENCE, Comparison, Monitor, verdicts_of

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
    return Monitor(SUPERNET.family, SIZE, **settings)


def counts(space: SearchSpace) -> dict[str, int]:
    return {dimension: space.choice_count(dimension) for dimension in space.dimensions}


def only(dimension: str, choices: int | None = None) -> SearchSpace:
    """The space in which one dimension alone has more than one choice."""
    return SPACE.restrict({dimension: counts(SPACE)[dimension] if choices is None else choices})


def gains_of(gain: float, error: float, cases: int = 10) -> list[float]:
    """As many, of exactly that mean and standard error: one half above it and one below, by the same."""
    assert cases % 2 == 0
    deviation = error * sqrt(cases - 1)
    return [gain + (deviation if case % 2 else -deviation) for case in range(cases)]


def dice_of(space: SearchSpace, gains: Mapping[str, Sequence[float]]) -> dict[Subnet, dict[str, float]]:
    """By case, of the largest member, whose cases differ, and of it without the last choice of each dimension.

    gains: by dimension what its last choice gains in each case; dimensions that are not in it are worth it.
    """
    worth = gains_of(*WORTH)
    dice = {space.largest(): {f"case {case}": 0.9 - 0.02 * case for case in range(30)}}
    for dimension, part in space.reductions().items():
        of = gains.get(dimension, worth)
        dice[part.largest()] = {f"case {case}": 0.9 - 0.02 * case - gain for case, gain in enumerate(of)}
    return dice


def observe(monitor: Monitor, epoch: int, space: SearchSpace = SPACE, /, **gains: tuple[float, float]) -> str | None:
    """What the monitor closes upon gains and standard errors by dimension; all others are worth it."""
    return closed_by(monitor.observe(epoch, space, dice_of(space, {name: gains_of(*of) for name, of in gains.items()})))


def closed_by(comparison: Comparison | None) -> str | None:
    """The dimension whose last choice is to be closed."""
    return comparison.dimension if comparison is not None and comparison.verdict == "closed" else None


def watch(monitor: Monitor, space: SearchSpace = SPACE, /, **gains: tuple[float, float]) -> SearchSpace:
    """Observes until every choice has had its trial; what remains open."""
    for epoch in range(100):
        if not monitor.members(space):
            return space
        closed = observe(monitor, epoch, space, **gains)
        space = space if closed is None else space.without_last(closed)
    raise AssertionError("trials do not end")


def verdicts(monitor: Monitor) -> dict[tuple[str, int], str]:
    """By dimension and choice."""
    return {(c.dimension, c.choices): c.verdict for c in monitor.history if c.verdict is not None}


def verdict_on(*validations: Sequence[float], dimension: str = "width", **settings: Any) -> tuple[str | None, Monitor]:
    """Of a trial with those gains by case, of which the first is not judged."""
    monitor, space = monitor_of(**settings), only(dimension, 2)
    observe(monitor, 0, space)
    for epoch, gains in enumerate(validations, start=1):
        monitor.observe(epoch, space, dice_of(space, {dimension: gains}))
    return monitor.history[-1].verdict if monitor.history else None, monitor


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
    assert {dimension: part.largest() for dimension, part in SPACE.reductions().items()} == {
        "levels": Subnet.from_values(
            levels=(2,), resolution=(1.0,), depth=(2, 2, 0), decoder_depth=(2, 0), width=(4, 8, 0), kernel=(5, 5, 0)
        ),
        "resolution": Subnet.from_values(**largest | {"resolution": (0.75,)}),
        "depth": Subnet.from_values(**largest | {"depth": (1, 1, 1)}),
        "decoder_depth": Subnet.from_values(**largest | {"decoder_depth": (1, 1)}),
        "width": Subnet.from_values(**largest | {"width": (3, 6, 6)}),
        "kernel": Subnet.from_values(**largest | {"kernel": (3, 3, 3)}),
    }


def test_dimensions_with_one_open_choice_are_not_compared() -> None:
    space = SPACE.restrict(dict.fromkeys(SPACE.dimensions, 1) | {"width": 2, "depth": 2})
    smallest = dict(SPACE.smallest())
    assert {dimension: part.largest() for dimension, part in space.reductions().items()} == {
        "depth": Subnet.from_values(**smallest | {"width": (3, 6, 0)}),
        "width": Subnet.from_values(**smallest | {"depth": (2, 2, 0)}),
    }
    assert SPACE.restrict({}).reductions() == {}
    assert monitor_of().members(SPACE.restrict({})) == []


def test_slots_with_fewer_choices_keep_their_last_one() -> None:
    supernet = SuperNet(unet_family(choices=CHOICES, features=(4, 8, 8), depths=(1, 2, 3)))
    space = supernet.family.space
    assert space.without_last("depth").largest()["depth"] == (1, 2, 2)
    narrower = space.restrict(counts(space) | {"depth": 2})
    assert narrower.without_last("depth").largest()["depth"] == (1, 1, 1)


def test_where_no_member_is_left_without_a_choice_it_is_not_compared() -> None:
    """Residual stages whose widths have to differ."""
    choices = UNetChoices(depth="all", width=(0.5, 1.0), levels=0, resolution=(1.0,))
    supernet = SuperNet(unet_family("ResidualEncoderUNet", choices=choices, features=(4, 5)))
    assert supernet.family.space.restrict({"depth": 2, "decoder_depth": 2}).size() == 0
    assert set(supernet.family.space.reductions()) == {"depth", "decoder_depth"}


@pytest.mark.parametrize("dimension", ["levels", "resolution", "depth", "decoder_depth", "width", "kernel"])
def test_the_costs_added_are_the_difference_of_the_two_members(dimension: str) -> None:
    monitor = monitor_of()
    watch(monitor)
    comparison = next(comparison for comparison in monitor.history if comparison.dimension == dimension)
    with_, without = SPACE.largest(), SPACE.without_last(dimension).largest()
    weights = [sum(p.numel() for p in SUPERNET.family.build(member).parameters()) for member in (with_, without)]
    assert comparison.parameters == weights[0] - weights[1]
    assert comparison.macs == cost.macs(SUPERNET.family, with_, SIZE) - cost.macs(SUPERNET.family, without, SIZE) > 0
    assert (comparison.parameters > 0) == (dimension != "resolution")
    assert comparison.choices == (3 if dimension == "width" else 2)


def test_macs_are_counted_at_the_given_size() -> None:
    monitor = Monitor(SUPERNET.family, [48, 48])
    watch(monitor)
    members = (SPACE.largest(), SPACE.without_last("kernel").largest())
    macs = [cost.macs(SUPERNET.family, member, (24, 24)) for member in members]
    assert {c.macs for c in monitor.history if c.dimension == "kernel"} == {4 * (macs[0] - macs[1])}


@given(st.lists(st.floats(-0.5, 0.5), min_size=5, max_size=20))
def test_gain_and_standard_error_in_closed_form(gains: list[float]) -> None:
    _, monitor = verdict_on(gains)
    (comparison,) = monitor.history
    n = len(gains)
    mean = sum(gains) / n
    assert (comparison.cases, comparison.judged, comparison.epoch) == (n, 0, 1)
    assert comparison.gain == pytest.approx(mean, abs=1e-9)
    assert comparison.error == pytest.approx(sqrt(sum((g - mean) ** 2 for g in gains) / (n - 1) / n), abs=1e-9)


@given(st.lists(st.lists(st.floats(-0.5, 0.5), min_size=8, max_size=8), min_size=4, max_size=4))
def test_judged_validations_are_pooled_by_case(gains: list[list[float]]) -> None:
    """The first of the trial is not."""
    _, monitor = verdict_on(*gains)
    assert [comparison.judged for comparison in monitor.history] == [0, 1, 2, 3]
    for count, comparison in enumerate(monitor.history[1:], start=1):
        means = [sum(of) / count for of in zip(*gains[1 : count + 1], strict=True)]
        mean = sum(means) / 8
        assert comparison.cases == 8 and comparison.gain == pytest.approx(mean, abs=1e-9)
        variance = sum((m - mean) ** 2 for m in means) / 7 / 8
        if count > 1:
            variance += sum((sum(of) / 8 - mean) ** 2 for of in gains[1 : count + 1]) / (count - 1) / count
        assert comparison.error == pytest.approx(sqrt(variance), abs=1e-9)


def test_a_case_counts_once_however_often_it_was_validated() -> None:
    """nnU-Net draws its validation cases at random."""
    _, monitor = verdict_on([0.1] * 6, [0.1] * 6, [0.3] * 12, [0.2] * 12)
    assert [comparison.cases for comparison in monitor.history] == [6, 6, 12, 12]
    assert monitor.history[-1].gain == pytest.approx((6 * 0.2 + 6 * 0.25) / 12)


def test_cases_are_compared_in_pairs() -> None:
    """Dice differs much more between cases than a choice gains; that is no noise."""
    verdict, monitor = verdict_on([0.001] * 20, [0.001] * 20, patience=1)
    dice = dice_of(SPACE, {})[SPACE.largest()]
    assert max(dice.values()) - min(dice.values()) > 0.5
    assert verdict == "closed"
    assert monitor.history[-1].gain == pytest.approx(0.001) and monitor.history[-1].error < 1e-12


@pytest.mark.parametrize("score", [0.0, float("nan"), 0.1])
def test_a_family_that_has_not_begun_to_learn_is_not_compared(score: float) -> None:
    """Where all members find nothing, no choice gains anything either."""
    monitor = monitor_of()
    for epoch in range(3):
        assert observe_all(monitor, epoch, {f"case {case}": score for case in range(8)}) is None
    assert bool(monitor.history) == (monitor.trial(SPACE) is not None) == (score == 0.1)
    assert len(monitor.members(SPACE)) == (2 if score == 0.1 else 1)


def test_a_case_in_which_nothing_is_found_does_not_end_a_trial() -> None:
    monitor = monitor_of()
    for epoch in range(3):
        observe_all(monitor, epoch, dict.fromkeys("abcde", 0.0) | {"f": 0.5})
    assert len(monitor.history) == 2 and monitor.trial(SPACE) is not None


@pytest.mark.parametrize(("cases", "enough"), [(0, False), (1, False), (4, False), (5, True)])
def test_fewer_than_five_cases_are_no_comparison_and_begin_no_trial(cases: int, enough: bool) -> None:
    monitor = monitor_of()
    for epoch in range(10):
        observe_all(monitor, epoch, {f"case {case}": 0.5 for case in range(cases)})
    assert bool(monitor.history) == (monitor.trial(SPACE) is not None) == enough


def observe_all(monitor: Monitor, epoch: int, scores: Mapping[str, float]) -> str | None:
    """With equal scores for all members."""
    return closed_by(monitor.observe(epoch, SPACE, dict.fromkeys(dice_of(SPACE, {}), scores)))


def test_only_common_cases_count() -> None:
    monitor, space = monitor_of(patience=2), only("width", 2)
    dice = dice_of(space, {"width": [-0.25] * 8})
    dice[space.largest()] |= {f"only the largest's {case}": 1.0 for case in range(5)}
    dice[space.smallest()] |= {f"only the other's {case}": 0.0 for case in range(5)}
    for epoch in range(3):
        assert closed_by(monitor.observe(epoch, space, dice)) is None
    assert [(c.cases, c.gain) for c in monitor.history] == [(8, pytest.approx(-0.25))] * 2
    assert closed_by(monitor.observe(3, space, dice)) == "width"


def test_the_order_of_cases_does_not_matter() -> None:
    one, other = monitor_of(), monitor_of()
    dice = dice_of(SPACE, {name: [random.Random(name).gauss(0, 0.1) for _ in range(20)] for name in SPACE.dimensions})
    generator = random.Random(1)
    shuffled = {member: dict(generator.sample(sorted(of.items()), len(of))) for member, of in dice.items()}
    assert list(shuffled[SPACE.largest()]) != list(dice[SPACE.largest()])
    for epoch in range(5):
        one.observe(epoch, SPACE, dice)
        other.observe(epoch, SPACE, shuffled)
    assert len(one.history) == 4 and one.history == other.history


# ---------------------------------------------------------------------- trials
def test_one_choice_after_the_other_is_on_trial_the_most_costly_first() -> None:
    monitor = monitor_of()
    watch(monitor)
    tried = [comparison.dimension for comparison in monitor.history]
    assert tried == [dimension for dimension in tried[::4] for _ in range(4)]
    assert set(tried) == set(SPACE.dimensions) and len(tried) == 4 * len(SPACE.dimensions)
    macs = [comparison.macs for comparison in monitor.history]
    assert macs == sorted(macs, reverse=True)
    assert [comparison.epoch for comparison in monitor.history] == list(range(1, 1 + len(tried)))


def test_members_are_the_largest_and_the_one_without_the_choice_on_trial() -> None:
    monitor, space = monitor_of(), only("kernel")
    assert monitor.members(space) == [space.largest()] and monitor.trial(space) is None
    for epoch in range(5):
        observe(monitor, epoch, space)
        if epoch < 4:
            assert monitor.members(space) == [space.largest(), space.smallest()]
            assert monitor.trial(space) == only("kernel", 1)
    assert monitor.members(space) == [] and monitor.trial(space) is None


def test_of_what_was_closed_the_choice_before_has_its_trial_next_and_what_was_kept_has_no_other() -> None:
    monitor = monitor_of()
    space = watch(monitor, width=HOPELESS, kernel=HOPELESS)
    assert space == SPACE.restrict(counts(SPACE) | {"width": 1, "kernel": 1})
    closed = {("width", 3), ("width", 2), ("kernel", 2)}
    kept = {(dimension, 2) for dimension in ("levels", "resolution", "depth", "decoder_depth")}
    assert verdicts(monitor) == dict.fromkeys(closed, "closed") | dict.fromkeys(kept, "kept")
    assert len(monitor.history) == 4 * 7


def test_a_validation_with_too_few_common_cases_abandons_the_trial() -> None:
    monitor, space = monitor_of(), only("width", 2)
    dice = dice_of(space, {"width": [-0.25] * 8})
    few = {**dice, space.largest(): dict.fromkeys(list(dice[space.largest()])[4:], 0.5)}
    for epoch in range(3):
        monitor.observe(epoch, space, dice)
    assert monitor.observe(3, space, few) is None, "four in common"
    assert len(monitor.history) == 2 and monitor.trial(space) is None
    assert [closed_by(monitor.observe(epoch, space, dice)) for epoch in range(4, 9)] == [None] * 4 + ["width"]
    assert [comparison.judged for comparison in monitor.history] == [0, 1, 0, 1, 2, 3]


def test_an_abandoned_trial_begins_anew() -> None:
    """As where another stage opens."""
    monitor = monitor_of()
    for epoch in range(3):
        observe(monitor, epoch, only("width", 2), width=HOPELESS)
    monitor.abandon()
    wider = only("width", 3)
    assert monitor.trial(wider) is None and monitor.members(wider) == [wider.largest()]
    assert watch(monitor, wider, width=HOPELESS) == only("width", 1)
    assert verdicts(monitor) == {("width", 3): "closed", ("width", 2): "closed"}
    assert [comparison.judged for comparison in monitor.history] == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3]


def test_what_another_stage_opens_has_its_trial_too() -> None:
    monitor = monitor_of()
    watch(monitor, only("width", 2))
    assert watch(monitor, only("width", 3), width=HOPELESS) == only("width", 2)
    assert verdicts(monitor) == {("width", 2): "kept", ("width", 3): "closed"}


# ---------------------------------------------------------------------- what is closed
def test_clear_gains_are_kept() -> None:
    monitor = monitor_of()
    assert watch(monitor) == SPACE
    assert set(verdicts(monitor).values()) == {"kept"}


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
@pytest.mark.parametrize("dimension", SPACE.dimensions)
def test_no_gain_closes_when_as_many_validations_are_judged_as_there_is_patience(dimension: str, patience: int) -> None:
    monitor, space = monitor_of(patience=patience), only(dimension, 2)
    closed = [observe(monitor, epoch, space, **{dimension: HOPELESS}) for epoch in range(patience + 2)]
    assert closed == [None] * (patience + 1) + [dimension]
    assert [comparison.judged for comparison in monitor.history] == list(range(patience + 1))
    assert verdicts_of(monitor.history) == [(patience + 1, dimension, "closed")]


def test_three_validations_are_the_patience_by_default() -> None:
    assert verdict_on(*[gains_of(*HOPELESS)] * 4)[0] == "closed"
    assert verdict_on(*[gains_of(*HOPELESS)] * 3)[0] is None


def test_a_harm_closes_too() -> None:
    assert verdict_on(*[gains_of(-0.02, 0.005)] * 4)[0] == "closed"


def test_what_noise_may_hide_is_kept() -> None:
    """No gain and even a harm in the mean, but with errors that a gain worth its cost may lie within."""
    assert verdict_on(*[gains_of(0.0, 0.01)] * 4)[0] == "kept"
    assert verdict_on(*[gains_of(-0.01, 0.02)] * 4)[0] == "kept"


def test_a_gain_just_above_the_threshold_is_kept_and_one_just_below_closes() -> None:
    for gain, verdict in ((0.0051, "kept"), (0.0049, "closed")):
        assert verdict_on(*[gains_of(gain, 1e-6)] * 4)[0] == verdict


@pytest.mark.parametrize(("threshold", "verdict"), [(0.25, "kept"), (0.25 + 1e-9, "closed")])
def test_a_gain_of_exactly_the_threshold_is_kept(threshold: float, verdict: str) -> None:
    """Three quarters and a half have no rounding error, and neither has their difference."""
    monitor, space = monitor_of(patience=1, threshold=threshold), only("width", 2)
    scores = {space.largest(): dict.fromkeys("abcde", 0.75), space.smallest(): dict.fromkeys("abcde", 0.5)}
    for epoch in range(3):
        monitor.observe(epoch, space, scores)
    assert verdicts_of(monitor.history) == [(2, "width", verdict)]


@given(st.floats(-0.05, 0.05), st.floats(0, 0.05), st.floats(0, 0.02), st.integers(3, 15).map(lambda n: 2 * n))
def test_a_choice_is_closed_where_the_upper_end_of_its_gain_is_below_the_threshold(
    gain: float, error: float, threshold: float, cases: int
) -> None:
    upper = gain + CONFIDENCE * error
    assume(abs(upper - threshold) > 1e-6 and abs(gain) + error > 1e-6)
    gains = gains_of(gain, error, cases)
    verdict, _ = verdict_on(gains, gains, patience=1, threshold=threshold)
    assert verdict == ("closed" if upper < threshold else "kept")


def test_what_differs_from_validation_to_validation_is_uncertain() -> None:
    """In all cases alike, as where weights vary: cases alone would be sure of a mean of 0."""
    up, down = gains_of(0.02, 1e-6), gains_of(-0.02, 1e-6)
    assert verdict_on(up, down, up, patience=2)[0] == "kept"
    assert verdict_on(up, down, down, patience=2)[0] == "closed"


def test_a_late_gain_is_kept() -> None:
    """The mean of 0, 0 and 0.02 is above the threshold."""
    nothing, gain = gains_of(*HOPELESS), gains_of(0.02, 0.001)
    assert verdict_on(nothing, nothing, nothing, gain)[0] == "kept"
    assert verdict_on(nothing, nothing, nothing, nothing)[0] == "closed"


@pytest.mark.parametrize("first", [-0.5, 0.5])
def test_the_first_validation_of_a_trial_decides_nothing(first: float) -> None:
    """What is compared may be hardly trained then."""
    for gain, verdict in ((HOPELESS, "closed"), (WORTH, "kept")):
        assert verdict_on(gains_of(first, 0.001), *[gains_of(*gain)] * 3)[0] == verdict


def test_noise_of_single_validations_averages_out() -> None:
    """By case 0.03 in each of three validations, so 0.003 in the mean of 30 cases."""
    generator = random.Random(0)

    def noisy() -> list[float]:
        return [generator.gauss(-0.005, 0.03) for _ in range(30)]

    alone = [verdict_on(noisy(), noisy(), patience=1)[0] for _ in range(100)]
    pooled = [verdict_on(*[noisy() for _ in range(4)])[0] for _ in range(100)]
    assert alone.count("closed") < 65 < 72 < pooled.count("closed")


def test_noise_alone_closes_what_gains_nothing_and_hardly_ever_what_gains_as_much_as_the_threshold_and_its_error() -> None:
    """30 cases with a noise of 0.01 in their differences, of which a mean over three validations has 0.001."""
    generator = random.Random(0)
    for gain, verdict in ((0.0, "closed"), (0.01, "kept")):
        for _ in range(10):
            gains = [[generator.gauss(gain, 0.01) for _ in range(30)] for _ in range(4)]
            assert verdict_on(*gains)[0] == verdict


# ---------------------------------------------------------------------- what it says and keeps
COMPARISON = Comparison(
    epoch=4,
    dimension="kernel",
    choices=2,
    gain=0.0123,
    error=0.00456,
    cases=12,
    parameters=3_000_000,
    macs=6_000_000_000,
    judged=1,
)


def test_a_comparison_can_be_read() -> None:
    said = "kernel, choice 2: +0.0123 ± 0.0046 in 12 cases, +0.0041 per million weights, +0.0020 per GMAC"
    assert str(COMPARISON) == said
    assert str(replace(COMPARISON, verdict="kept")) == said + ": kept"


def test_a_comparison_that_adds_no_weights_does_not_divide_by_them() -> None:
    _, monitor = verdict_on([-0.0123] * 10, dimension="resolution")
    (comparison,) = monitor.history
    assert str(comparison).startswith("resolution, choice 2: -0.0123 ± 0.0000 in 10 cases, -")
    assert "weights" not in str(comparison) and str(comparison).endswith(" per GMAC")


@pytest.mark.parametrize("interrupted", range(1, 30, 3))
def test_a_monitor_that_was_saved_goes_on_alike(interrupted: int) -> None:
    whole, first, second = monitor_of(), monitor_of(), monitor_of()
    gains = {"width": HOPELESS, "depth": (0.001, 0.0001)}
    left = watch(whole, **gains)
    assert counts(left) == counts(SPACE) | {"width": 1, "depth": 1}
    space = SPACE
    for epoch in range(29):
        if epoch == interrupted:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            assert second.history == first.history and second.members(space) == first.members(space)
        closed = observe(first if epoch < interrupted else second, epoch, space, **gains)
        space = space if closed is None else space.without_last(closed)
    assert space == left and second.history == whole.history and second.state_dict() == whole.state_dict()


def test_a_saved_state_is_of_its_own() -> None:
    monitor = monitor_of()
    for epoch in range(3):
        observe(monitor, epoch)
    state = monitor.state_dict()
    kept = json.dumps(state)
    for epoch in range(3, 8):
        observe(monitor, epoch)
    assert json.dumps(state) == kept


def test_scores_that_are_missing_are_named() -> None:
    monitor, space = monitor_of(), only("width", 2)
    observe(monitor, 0, space)
    largest, without = monitor.members(space)
    with pytest.raises(ProXError) as refusal:
        monitor.observe(1, space, {largest: {str(case): 0.5 for case in range(9)}})
    assert str(without) in str(refusal.value)
    assert monitor.history == []


@pytest.mark.parametrize("threshold", ["0.01", None, True, float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused(threshold: Any) -> None:
    with pytest.raises(ProXError) as refusal:
        monitor_of(threshold=threshold)
    assert str(refusal.value) == f"the monitor's threshold is a difference of scores such as 0.005, got {threshold!r}"


@pytest.mark.parametrize("patience", [0, -1, 2.0, "3", None, True])
def test_a_patience_that_is_no_number_of_validations_is_refused(patience: Any) -> None:
    with pytest.raises(ProXError) as refusal:
        monitor_of(patience=patience)
    assert str(refusal.value) == f"the monitor's patience counts validations and is at least 1, got {patience!r}"


@pytest.mark.parametrize(
    ("relative", "correlation", "least", "most"),
    [(1, 0.0, 0.0, 0.1), (1, 0.9, 0.0, 0.25), (-2, 0.5, 0.6, 1.0), (3, 0.5, 0.0, 0.03)],
)
def test_the_rule_errs_as_often_as_its_page_says(relative: int, correlation: float, least: float, most: float) -> None:
    share = closed_share(relative * 0.005, correlation, 0.0, threshold=0.005, validations=3, trials=500)
    assert least <= share <= most
