"""Intervals against values by hand, SciPy's, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from monai_prox.certificate.estimates import Estimate, of_difference, of_mean, of_paired_difference

T_2, T_1 = 4.302653, 12.706205  # of Student's t with 2 degrees of freedom and with 1, for 95 %


def test_the_interval_of_a_mean_by_hand() -> None:
    """Of 1, 2 and 3 the standard deviation is 1, and the mean's error 1 / sqrt(3)."""
    found = of_mean([1.0, 2.0, 3.0])
    assert found.value == 2 and found.margin == pytest.approx(T_2 / 3**0.5, rel=1e-6)
    assert of_mean([5.0]) == Estimate(5.0, np.inf)
    assert of_mean([5.0, 5.0]) == Estimate(5.0, 0.0)


def test_pairs_by_hand() -> None:
    """Differences of 1, 2 and 3, each case measured once: the paired t interval, whatever the cases are."""
    found = of_paired_difference([[10.0], [200.0], [-3.0]], [[11.0], [202.0], [0.0]])
    assert found.value == pytest.approx(2) and found.margin == pytest.approx(T_2 / 3**0.5, rel=1e-6)
    assert of_paired_difference([[1.0]], [[2.0]]) == Estimate(1.0, np.inf)
    assert of_paired_difference([[1.0], [2.0]], [[1.0], [2.0]]) == Estimate(0.0, 0.0)


def test_one_case_is_compared_by_its_repeats() -> None:
    before, after = [1.0, 1.4, 1.2, 1.1], [1.9, 1.6, 1.5]
    found = of_paired_difference([before], [after])
    wanted = stats.ttest_ind(after, before).confidence_interval()
    assert (found.value - found.margin, found.value + found.margin) == pytest.approx((wanted.low, wanted.high))


def test_repeats_of_several_cases_are_least_squares() -> None:
    """Of an effect of each case and one of what comes after, with as many repeats as there happen to be."""
    generator = np.random.default_rng(0)
    before = [generator.normal(size=count).tolist() for count in (1, 3, 2, 4)]
    after = [generator.normal(size=count).tolist() for count in (2, 1, 5, 4)]
    rows = [(case, late, y) for late, side in enumerate((before, after)) for case, of in enumerate(side) for y in of]
    design = np.array([[*(case == number for number in range(4)), late] for case, late, _ in rows], float)
    values = np.array([y for *_, y in rows])
    solved, (residual,), *_ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(rows) - 5
    error = np.sqrt(residual / freedom * np.linalg.inv(design.T @ design)[4, 4])
    found = of_paired_difference(before, after, 0.9)
    assert found.value == pytest.approx(solved[4])
    assert found.margin == pytest.approx(stats.t.ppf(0.95, freedom) * error)


@pytest.mark.parametrize("level", [0.95, 0.99])
def test_other_cases_are_compared_as_welch_does(level: float) -> None:
    generator = np.random.default_rng(1)
    before, after = generator.normal(size=7), generator.normal(1, 5, size=4)
    found = of_difference(before.tolist(), after.tolist(), level)
    wanted = stats.ttest_ind(after, before, equal_var=False).confidence_interval(level)
    assert (found.value - found.margin, found.value + found.margin) == pytest.approx((wanted.low, wanted.high))


def test_too_few_values_tell_nothing() -> None:
    assert of_difference([1.0], [2.0, 3.0]) == Estimate(1.5, np.inf)
    assert of_difference([1.0, 1.0], [2.0, 2.0]) == Estimate(1.0, 0.0)
    one_varies = of_difference([1.0, 1.0], [2.0, 4.0])
    assert one_varies.value == 2 and one_varies.margin == pytest.approx(T_1, rel=1e-6)  # of the error 1


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 2,000 comparisons of three cases, each measured twice, with a true difference of 0.5."""
    generator, cases = np.random.default_rng(2), np.array([[0.0], [50.0], [-9.0]])
    held = 0
    for _ in range(2_000):
        before = cases + generator.normal(size=(3, 2))
        after = cases + 0.5 + generator.normal(size=(3, 2))
        found = of_paired_difference(before.tolist(), after.tolist())
        held += abs(found.value - 0.5) <= found.margin
    assert held / 2_000 == pytest.approx(0.95, abs=0.015)
