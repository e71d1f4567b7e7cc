"""From scores to Dice that is to be expected: lines, intervals and rank correlations whose values are known."""

import json
from dataclasses import replace
from math import isnan
from typing import Any

import numpy as np
import pytest
from helpers.refusals import refused
from scipy.stats import spearmanr

from monai_prox.runtime.calibration import (
    COVERAGE,
    FEWEST,
    Calibration,
    line,
    parse_calibration,
    rank_correlation,
)


def calibration(scores: Any, dice: Any) -> Calibration:
    return Calibration(tuple(map(float, scores)), tuple(map(float, dice)), step=0.5, mirror=False, postprocess=True)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = generator.uniform(0.3, 0.9, count)
    return scores, (0.3 + 0.6 * scores + generator.normal(0, 0.05, count)).clip(0, 1)


def test_a_line_is_that_of_least_squares_unless_it_falls() -> None:
    scores, dice = drawn(15, 0)
    slope, intercept = line(scores, dice)
    np.testing.assert_allclose([slope, intercept], np.polyfit(scores, dice, 1))
    slope, intercept = line(scores, 1 - dice)
    assert slope == 0 and intercept == pytest.approx(1 - dice.mean())
    slope, intercept = line(np.full(12, 0.7), np.linspace(0, 1, 12))
    assert slope == 0 and intercept == pytest.approx(0.5)


def test_scores_on_a_line_are_expected_without_any_error() -> None:
    scores = np.linspace(0.2, 0.8, 13)
    found = calibration(scores, 0.1 + scores).expected(0.5)
    np.testing.assert_allclose(found, 0.6)
    np.testing.assert_allclose(calibration(scores, 0.1 + scores).expected(1.0), 1.0)
    np.testing.assert_allclose(calibration(scores, scores - 0.2).expected(0.1), 0.0, atol=1e-12)


@pytest.mark.parametrize("count", [9, 10, 19, 29, 40])
def test_the_interval_is_that_of_the_jackknife(count: int) -> None:
    """By its definition, a line at a time."""
    scores, dice = drawn(count + 1, count)
    if count % 2:
        dice[:4] = 1 - dice[:4]
    new, scores, dice = scores[-1], scores[:-1], dice[:-1]
    below, above = [], []
    for index in range(count):
        kept = np.arange(count) != index
        slope, intercept = np.polyfit(scores[kept], dice[kept], 1)
        if slope < 0:
            slope, intercept = 0.0, dice[kept].mean()
        error = abs(dice[index] - np.clip(slope * scores[index] + intercept, 0, 1))
        here = np.clip(slope * new + intercept, 0, 1)
        below.append(here - error)
        above.append(here + error)
    rank = -(-(count + 1) * 9 // 10)  # the smallest number that is at least nine tenths
    wanted = sorted(below, reverse=True)[rank - 1], sorted(above)[rank - 1]
    if count < FEWEST:
        refused("a calibration has 9 cases; an interval of 90% takes 10 to 2,000", calibration, scores, dice)
        return
    found = calibration(scores, dice).expected(new)
    np.testing.assert_allclose([found.lower, found.upper], np.clip(wanted, 0, 1))
    assert found.lower <= found.dice <= found.upper


def test_nine_of_ten_new_cases_are_in_their_intervals() -> None:
    inside = []
    for seed in range(300):
        scores, dice = drawn(41, 1_000 + seed)
        found = calibration(scores[:-1], dice[:-1]).expected(scores[-1])
        inside.append(found.lower <= dice[-1] <= found.upper)
    assert abs(np.mean(inside) - COVERAGE) < 0.05  # three standard errors


def test_the_summary_leaves_each_case_out() -> None:
    scores, dice = drawn(30, 5)
    known = calibration(scores, dice)
    summary, errors, inside, constant = known.summary(), [], [], []
    for index in range(30):
        kept = np.arange(30) != index
        found = calibration(scores[kept], dice[kept]).expected(scores[index])
        errors.append(abs(found.dice - dice[index]))
        constant.append(abs(dice[kept].mean() - dice[index]))
        inside.append(found.lower <= dice[index] <= found.upper)
    assert summary["left_out"]["mean_absolute_error"] == pytest.approx(np.mean(errors))
    assert summary["left_out"]["error_of_mean"] == pytest.approx(np.mean(constant))
    assert summary["left_out"]["coverage"] == pytest.approx(np.mean(inside))
    assert summary["cases"] == 30 and summary["coverage"] == {"nominal": 0.9, "guaranteed": 0.8}
    assert summary["line"]["slope"] == pytest.approx(np.polyfit(scores, dice, 1)[0])


def test_the_rank_correlation_is_spearmans_with_ties() -> None:
    assert rank_correlation([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.9])[0] == pytest.approx(1)
    assert rank_correlation([1, 2, 2, 3], [3, 1, 2, 0])[0] == pytest.approx(spearmanr([1, 2, 2, 3], [3, 1, 2, 0]).statistic)
    assert rank_correlation([1, 2, 2, 3], [3, 1, 2, 0])[0] == pytest.approx(-0.9486833)  # -1.5 / sqrt(2.5)
    scores, dice = drawn(60, 3)
    value, lower, upper = rank_correlation(scores, dice)
    assert lower < value < upper < 1 and rank_correlation(scores, dice) == (value, lower, upper)
    assert upper - lower == pytest.approx(2 * 1.645 * (1 - value**2) / np.sqrt(60), rel=0.5)  # the normal approximation
    assert all(map(isnan, rank_correlation([0.5] * 12, dice[:12])))


def test_scores_that_are_all_equal_let_expect_the_mean() -> None:
    """Without the highest case the mean is 0.65, which is 0.3 below it; without the lowest it is 0.7, which is 0.3 above it."""
    known = calibration([0.8] * 12, np.linspace(0.4, 0.95, 12))
    np.testing.assert_allclose(known.expected(0.2), [0.675, 0.35, 1.0])
    assert isnan(known.summary()["rank_correlation"]["spearman"])


def content(**changes: Any) -> dict[str, Any]:
    scores, dice = drawn(12, 0)
    return {
        "format": 1,
        "model": {"member": "largest", "digest": "1"},
        "second_opinions": [{"member": "smallest", "digest": "3"}, {"member": "middle", "digest": "2"}],
        "options": {"step_size": 0.5, "mirror": False, "postprocessing": True},
        "scores": scores.tolist(),
        "dice": dice.tolist(),
    } | changes


def test_a_file_is_read_or_refused_in_a_line() -> None:
    read, digests = parse_calibration(json.loads(json.dumps(content())), "quality.json")
    scores, dice = drawn(12, 0)
    assert read == calibration(scores, dice) and digests == ["1", "2", "3"]
    assert (
        replace(read, mirror=True)
        == parse_calibration(content(options={"step_size": 0.5, "mirror": True, "postprocessing": True}), "quality.json")[0]
    )
    start = "quality.json is no file of monai-prox calibrate: "
    for changes, words in (
        ({"format": 2}, "'format' must be of type Literal[1], got 2"),
        ({"scores": scores.tolist()[:-1]}, "a calibration has 11 scores, and Dice of 12 cases"),
        ({"scores": [0.5] * 3, "dice": [0.5] * 3}, "a calibration has 3 cases; an interval of 90% takes 10 to 2,000"),
        ({"dice": [1.5, *dice.tolist()[1:]]}, "a calibration has scores and Dice from 0 to 1, and one of these is not"),
        ({"dice": [True, *dice.tolist()[1:]]}, "'dice' must be of type"),
        ({"model": "largest"}, "'model' must be an object"),
        ({"second_opinions": [3]}, "second_opinions"),
        ({"second_opinions": [{"member": "a"}]}, "a second opinion has no 'digest'"),
        ({"options": {}}, "has no 'step_size'"),
    ):
        assert words in refused(start, parse_calibration, content(**changes), "quality.json")
    refused(start, parse_calibration, [], "quality.json")
