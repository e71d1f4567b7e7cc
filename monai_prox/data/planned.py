"""What configurations ask of a plan, of segmentation or classification, and of its cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_prox.core.family import Family
from monai_prox.data.decathlon import Case, DecathlonTask
from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.oct import Scan
from monai_prox.data.oct_plan import OctPlan


def make_family(plan: Plan | OctPlan, space: Any = None) -> Family:
    """The family of the plan's network, elastic as ``space`` says; see the plan's ``family``."""
    return plan.family(space)


def evaluated_regions(plan: Plan | OctPlan, regions: Mapping[str, Sequence[str]] | None = None) -> dict[str, tuple[int, ...]]:
    """Values of the labels in each region, or class, that is evaluated; see the plan's ``regions``."""
    return plan.regions() if isinstance(plan, OctPlan) else plan.regions(regions)


def training_cases(task: DecathlonTask, validation_cases: int | None = None) -> list[Case]:
    """Those to train on, see ``DecathlonTask.split``."""
    return task.split(validation_cases)[0]


def held_out_cases(task: DecathlonTask, validation_cases: int | None = None) -> list[Case]:
    """Those to validate on, see ``DecathlonTask.split``."""
    return task.split(validation_cases)[1]


def datalist(cases: Sequence[Case | Scan]) -> list[dict[str, Any]]:
    """What MONAI's datasets take: of each case ``image`` and ``label``, with files by their names."""

    def item(value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    return [{"image": item(case.image), "label": item(case.label)} for case in cases]
