"""Means and differences with their intervals, by Student's t distribution.

An interval holds the true value with the probability ``level``, if the values are independent and about normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value, and half the width of its interval: infinity if there are too few values to know.

    Args:
        value: the estimate.
        margin: the interval is ``value - margin`` to ``value + margin``.
    """

    value: float
    margin: float


def of_mean(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of what ``values`` are a sample of."""
    array = np.asarray(values, float)
    return _estimate(float(array.mean()), _variance_of_mean(array), len(array) - 1, level)


def of_paired_difference(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], level: float = LEVEL) -> Estimate:
    """By how much more ``after`` is than ``before``, measured on the same cases, each once or several times.

    Value = effect of the case + effect of before or after + error, and the errors of all have one variance (analysis of
    variance of two factors without interaction). With one value of each case this is the paired t interval, and with one
    case that of two samples of equal variance.

    Args:
        before: values by case.
        after: values of the same cases.
        level: of the interval.
    """
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(before, after, strict=True)]
    differences = np.array([b.mean() - a.mean() for a, b in pairs])
    weights = np.array([len(a) * len(b) / (len(a) + len(b)) for a, b in pairs])
    value = float(weights @ differences / weights.sum())
    within = sum(float(((part - part.mean()) ** 2).sum()) for pair in pairs for part in pair)
    residual = within + float(weights @ (differences - value) ** 2)
    freedom = sum(len(a) + len(b) for a, b in pairs) - len(pairs) - 1
    variance = residual / freedom / float(weights.sum()) if freedom else inf
    return _estimate(value, variance, freedom, level)


def of_difference(before: Sequence[float], after: Sequence[float], level: float = LEVEL) -> Estimate:
    """By how much the mean of what ``after`` is a sample of is larger than that of ``before``: Welch's t interval.

    Source: Welch, The generalization of "Student's" problem when several different population variances are involved,
    Biometrika 34 (1947).
    """
    first, second = np.asarray(before, float), np.asarray(after, float)
    value = float(second.mean() - first.mean())
    if min(len(first), len(second)) < 2:
        return Estimate(value, inf)
    parts = [(_variance_of_mean(part), len(part) - 1) for part in (first, second)]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    return _estimate(value, variance, variance**2 / spread if spread else inf, level)


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else inf


def _estimate(value: float, variance: float, freedom: ArrayLike, level: float) -> Estimate:
    if variance in (0, inf):
        return Estimate(value, variance)
    return Estimate(value, float(stdtrit(freedom, (1 + level) / 2)) * sqrt(variance))
