"""What a storage holds of a member that was scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.errors import ProXError
from monai_prox.typed import check_types

RECORDED = {"subnet": Mapping[str, tuple[float, ...]], "scores": Mapping}
CLASSES = "classes"  # by class, a score or None for each case of "scores"; 0.1.0 did not record it
DIGITS = 6  # of a score by class
FINALIST = "finalist"  # the beginning of the names of attributes with scores on all cases

ByClass = dict[str, dict[str, float]]  # scores by class, then by case; a case is missing if it has nothing of the class


def read_recorded(attributes: Any, source: str, cases: Sequence[str], space: SearchSpace) -> tuple[Subnet, dict[str, float]]:
    """The member and its scores by case.

    Args:
        attributes: what is recorded of a trial or a finalist.
        source: beginning of the error message.
        cases: names of the held-out cases.
        space: the search space.

    Raises:
        ProXError: the member or the scores are not of this family.
    """
    check_types(attributes, RECORDED, source)
    scores = attributes["scores"]
    numbers = all(type(score) in (int, float) and not score > 1 for score in scores.values())
    if not set(scores) <= set(cases) or not numbers or all(map(isnan, scores.values())):
        raise ProXError(f"{source}: scores are numbers up to 1, of cases that were held out, got {scores!r:.120}")
    check_types(attributes, {CLASSES: Mapping[str, tuple[float | None, ...]]}, source, missing=True)
    for name, of_cases in attributes.get(CLASSES, {}).items():
        if len(of_cases) != len(scores) or any(score is not None and score > 1 for score in of_cases):
            raise ProXError(
                f"{source}: the scores of {name!r:.80} are numbers up to 1 or null, one for each of {len(scores)} cases, "
                f"got {of_cases!r:.120}"
            )
    return space.check(Subnet.from_json(attributes["subnet"])), scores
