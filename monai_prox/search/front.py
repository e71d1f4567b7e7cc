"""Pareto fronts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def front(points: Points) -> list[int]:
    """The points of the Pareto front: no other point is as good in all objectives and better in one. Equal points count once.

    Args:
        points: (N, objectives). Smaller values are better.

    Returns:
        Indices of points.

    >>> front(np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 2.0]]))
    [0, 1]
    """
    return [
        index
        for index, point in enumerate(points)
        if not ((points <= point).all(1) & (points < point).any(1)).any() and not (points[:index] == point).all(1).any()
    ]


def fronts(points: Points, count: int) -> list[int]:
    """The best points: those of the Pareto front, then those of the front of the remaining points, and so on.

    If a front has too many points, those that are evenly spaced along the last objective are taken. A single point is the best
    one by the first objective.

    Args:
        points: (N, objectives). Smaller values are better.
        count: number of points.

    Returns:
        Indices of at most ``count`` points.
    """
    remaining, chosen = list(range(len(points))), list[int]()
    while remaining and len(chosen) < count:
        best = [remaining[index] for index in front(points[remaining])]
        best.sort(key=lambda index: points[index, -1])
        room = count - len(chosen)
        if room == 1:
            best = [min(best, key=lambda index: points[index, 0])]
        elif len(best) > room:
            best = [best[round(step)] for step in np.linspace(0, len(best) - 1, room)]
        chosen += best
        remaining = [index for index in remaining if index not in best]
    return chosen


def hypervolume(scores: Sequence[float], costs: Sequence[float], worst: float) -> float:
    """The area between the Pareto front and the axes, over scores and logarithms of costs.

    Args:
        scores: scores from 0. Larger scores are better.
        costs: one cost per score.
        worst: cost at which the area ends.
    """
    points = np.array(list(zip([-score for score in scores], np.log(costs), strict=True)))
    best = sorted((points[index] for index in front(points)), key=lambda point: point[1])
    area = 0.0
    for place, (negative, cost) in enumerate(best):
        following = best[place + 1][1] if place + 1 < len(best) else np.log(worst)
        area += -negative * max(0.0, min(following, np.log(worst)) - cost)
    return float(area)
