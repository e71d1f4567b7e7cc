"""Members that have been scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from monai_prox.core.space import Subnet
from monai_prox.search.budget import Price
from monai_prox.search.front import front


@dataclass(frozen=True)
class Scored:
    """A member with what it costs, and its scores by case, NaN where there was nothing to score; one is a number at least."""

    subnet: Subnet
    price: Price
    scores: dict[str, float]

    @property
    def _known(self) -> list[float]:
        return [score for score in self.scores.values() if not isnan(score)]

    @property
    def cases(self) -> int:
        """How many the score is of."""
        return len(self._known)

    @property
    def score(self) -> float:
        return float(np.mean(self._known))

    @property
    def standard_error(self) -> float | None:
        """Of the mean over the cases; None of a single case."""
        return float(np.std(self._known, ddof=1) / self.cases**0.5) if self.cases > 1 else None


@dataclass(frozen=True)
class SearchProgress:
    """phase: "members" or "finalists", of which ``done`` of ``total`` are scored."""

    phase: str
    done: int
    total: int
    scored: list[Scored]


def best_so_far(scored: Sequence[Scored], minimise: Sequence[str]) -> list[Scored]:
    """Those that no other beats, from the cheapest on."""
    points = np.array([[-member.score, *(member.price.value(name) for name in minimise)] for member in scored])
    return sorted((scored[index] for index in front(points)), key=lambda member: member.price.value(minimise[0]))
