"""The settings that training and prediction share, for networks of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from monai_prox.core.family import Family
from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.oct_plan import OctPlan
from monai_prox.data.pipeline_plan import PipelinePlan


class TrainingPlan(Protocol):
    """The interface of a plan of any kind.

    Attributes:
        kind: name of a kind of networks, see ``monai_prox.runtime.kinds``, or "pipeline".
        task: name of the data.
        patch_size: voxels or pixels per axis of the input for which costs are counted, at full resolution.
    """

    @property
    def kind(self) -> str: ...

    @property
    def task(self) -> str: ...

    @property
    def patch_size(self) -> Sequence[int]: ...

    @property
    def values(self) -> dict[str, int]:
        """The value of each label or class, by its name."""

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, for a JSON file."""

    def family(self, space: Any = None, *, open: Mapping[str, int] | None = None) -> Family:
        """The family of the plan's network.

        Args:
            space: a name of the choices, or an object with their fields. None means the default.
            open: number of choices that remain of each dimension whose last choices were closed.

        Raises:
            ProXError: nothing is elastic in ``space``, or it is not valid.
        """

    @property
    def inputs(self) -> Sequence[str]:
        """The names of the network's input channels."""

    @property
    def images(self) -> str:
        """What the network sees, in words."""

    def cached_bytes(self, image: Any, *, trains: bool) -> int | None:
        """Memory of a preprocessed image with its label, in bytes, or None if it is not known."""

    def regions(self, regions: Any = None) -> dict[str, tuple[int, ...]]:
        """The values of labels of each region that is evaluated, by its name.

        Args:
            regions: names of labels by the name of the region. None means one region per label or class.
        """


PLANS: Mapping[str, type[Plan] | type[OctPlan] | type[PipelinePlan]] = {
    plan.kind: plan for plan in (Plan, OctPlan, PipelinePlan)
}


def read_plan(data: Any) -> Any:
    """The plan of any kind that ``to_json`` wrote.

    Args:
        data: what ``to_json`` returned.

    Raises:
        ProXError: ``data`` is something else.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    return (PLANS[kind] if kind in tuple(PLANS) else Plan).from_json(data)
