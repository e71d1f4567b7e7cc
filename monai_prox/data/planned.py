"""Functions of configurations for plans and cases of segmentation and classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_prox.core.family import Family
from monai_prox.data.decathlon import Case, DecathlonTask
from monai_prox.data.oct import Scan
from monai_prox.data.plans import TrainingPlan


def make_family(plan: TrainingPlan, space: Any = None) -> Family:
    """The family of a plan's network.

    Args:
        plan: the plan.
        space: "default", "paper", or an object with fields of ``UNetChoices``, or of ``MobileNetChoices`` for classification.
            None means the default.

    Raises:
        ProXError: nothing is elastic in ``space``, or ``space`` is not valid.
    """
    return plan.family(space)


def evaluated_regions(plan: TrainingPlan, regions: Mapping[str, Sequence[str]] | None = None) -> dict[str, tuple[int, ...]]:
    """The labels of each region, or class, that is evaluated.

    Args:
        plan: the plan.
        regions: names of labels by the name of the region. None means one region per label or class.

    Returns:
        Values of labels by the name of the region or class.

    Raises:
        ProXError: a name is not a label of the foreground.
    """
    return plan.regions(regions)


def training_cases(task: DecathlonTask, validation_cases: int | None = None) -> list[Case]:
    """The cases for training, see ``DecathlonTask.split``.

    Args:
        task: the task.
        validation_cases: number of cases for validation, which are the last by name. None means a fifth of all.

    Raises:
        ProXError: the number is out of range.
    """
    return task.split(validation_cases)[0]


def held_out_cases(task: DecathlonTask, validation_cases: int | None = None) -> list[Case]:
    """The cases for validation, see ``DecathlonTask.split``.

    Args:
        task: the task.
        validation_cases: number of cases for validation, which are the last by name. None means a fifth of all.

    Raises:
        ProXError: the number is out of range.
    """
    return task.split(validation_cases)[1]


def datalist(cases: Sequence[Case | Scan]) -> list[dict[str, Any]]:
    """Cases as items of MONAI's datasets.

    Args:
        cases: the cases.

    Returns:
        {"image": ..., "label": ...} for each case. Files are given as strings.

    >>> datalist([Case(Path("a.nii.gz"), Path("b.nii.gz"))])
    [{'image': 'a.nii.gz', 'label': 'b.nii.gz'}]
    """

    def item(value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    return [{"image": item(case.image), "label": item(case.label)} for case in cases]
