"""What trainings and prediction have in common, whatever the networks do with images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from monai_prox.core.family import Family
from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.oct_plan import OctPlan


class TrainingPlan(Protocol):
    """What the plans of all kinds have.

    kind: the name of one, see ``monai_prox.runtime.kinds``. task: the data's name. patch_size: of the input that costs are
    counted for, at full resolution.
    """

    @property
    def kind(self) -> str: ...

    @property
    def task(self) -> str: ...

    @property
    def patch_size(self) -> Sequence[int]: ...

    @property
    def values(self) -> dict[str, int]:
        """Of the labels or classes, by their names."""

    def to_json(self) -> dict[str, Any]: ...

    def family(self, space: Any = None, *, open: Mapping[str, int] | None = None) -> Family:
        """The family of the network. open: by dimension, the choices that remain. Raises ProXError for what is none."""

    def regions(self) -> dict[str, tuple[int, ...]]:
        """What is evaluated, with the values of its labels."""


PLANS: Mapping[str, type[Plan] | type[OctPlan]] = {plan.kind: plan for plan in (Plan, OctPlan)}


def read_plan(data: Any) -> Any:
    """The plan, of whatever kind, that ``to_json`` has given. Raises ProXError where ``data`` is none."""
    kind = data.get("kind") if isinstance(data, dict) else None
    return (PLANS[kind] if kind in tuple(PLANS) else Plan).from_json(data)
