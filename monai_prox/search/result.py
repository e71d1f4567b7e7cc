"""What a search has found: members, finalists, and what is known of each by case and class."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

import numpy as np

from monai_prox.core.space import Subnet
from monai_prox.search.recorded import ByClass
from monai_prox.search.scored import Scored
from monai_prox.search.settings import SearchSettings


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a search.

    Args:
        search: the settings of the search.
        members: all members, with scores on some cases.
        finalists: the best members, with scores on all cases.
        known: all members, with all scores that are in the storage.
        classes: by member, all scores by class that are in the storage.
        seconds: time that scoring took, in all processes together.
    """

    search: SearchSettings
    members: list[Scored]
    finalists: list[Scored]
    known: list[Scored]
    classes: dict[Subnet, ByClass]
    seconds: float

    @property
    def cases(self) -> list[str]:
        """Names of all cases that can be used."""
        return max((list(member.scores) for member in self.finalists), key=len)

    @property
    def measured(self) -> list[Scored]:
        """The finalists, and the other members whose scores on all cases are known, for example from other searches."""
        finalists, cases = {member.subnet for member in self.finalists}, self.cases
        complete = (member for member in self.known if member.subnet not in finalists and set(cases) <= set(member.scores))
        return self.finalists + [
            Scored(member.subnet, member.price, {name: member.scores[name] for name in cases}) for member in complete
        ]

    def by_class(self, member: Scored) -> dict[str, float | None] | None:
        """A member's mean score by class over the cases that it is scored on, in the order of ``SearchSettings.classes``.

        Args:
            member: the member.

        Returns:
            None for a class that no case has, and instead of everything if scores by class are unknown for one of the cases,
            or known for other classes than those of the task.
        """
        known = self.classes.get(member.subnet, {})
        scored = {case for case, score in member.scores.items() if not isnan(score)}
        if not scored <= {case for of_cases in known.values() for case in of_cases} or not set(known) <= set(
            self.search.classes
        ):
            return None
        found = {name: [known.get(name, {}).get(case) for case in member.scores] for name in self.search.classes}
        scores = {name: [score for score in of_cases if score is not None] for name, of_cases in found.items()}
        return {name: float(np.mean(of_cases)) if of_cases else None for name, of_cases in scores.items()}
