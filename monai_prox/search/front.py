"""Members that no other beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def front(points: Points) -> list[int]:
    """Rows of ``points``, (N, objectives), the less the better, than which no other is as good in all and better in one."""
    return [
        index
        for index, point in enumerate(points)
        if not ((points <= point).all(1) & (points < point).any(1)).any() and not (points[:index] == point).all(1).any()
    ]


def fronts(points: Points, count: int) -> list[int]:
    """``count`` rows: the front, the front of the rest, and so on; of the last front evenly along the last objective.

    Where there is room for one only, that is the best by the first objective.
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
    """Area between the front and the axes: of scores from 0 on, of costs as logarithms up to ``worst``."""
    points = np.array(list(zip([-score for score in scores], np.log(costs), strict=True)))
    best = sorted((points[index] for index in front(points)), key=lambda point: point[1])
    area = 0.0
    for place, (negative, cost) in enumerate(best):
        following = best[place + 1][1] if place + 1 < len(best) else np.log(worst)
        area += -negative * max(0.0, min(following, np.log(worst)) - cost)
    return float(area)
