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
    """A member with its costs and scores.

    Args:
        subnet: the member.
        price: its costs.
        scores: its score by case. NaN means that the case has nothing to score. At least one score is a number.
    """

    subnet: Subnet
    price: Price
    scores: dict[str, float]

    @property
    def _known(self) -> list[float]:
        return [score for score in self.scores.values() if not isnan(score)]

    @property
    def cases(self) -> int:
        """The number of cases with a score."""
        return len(self._known)

    @property
    def score(self) -> float:
        """The mean score over the cases."""
        return float(np.mean(self._known))

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean score over the cases, or None for a single case."""
        return float(np.std(self._known, ddof=1) / self.cases**0.5) if self.cases > 1 else None


@dataclass(frozen=True)
class SearchProgress:
    """The progress of a search.

    Args:
        phase: "members" or "finalists".
        done: number of those that are scored.
        total: number of all.
        scored: those that are scored.
    """

    phase: str
    done: int
    total: int
    scored: list[Scored]


def best_so_far(scored: Sequence[Scored], minimise: Sequence[str]) -> list[Scored]:
    """The members of the Pareto front, the cheapest first.

    Args:
        scored: members.
        minimise: names of the costs, from UNITS.
    """
    points = np.array([[-member.score, *(member.price.value(name) for name in minimise)] for member in scored])
    return sorted((scored[index] for index in front(points)), key=lambda member: member.price.value(minimise[0]))
