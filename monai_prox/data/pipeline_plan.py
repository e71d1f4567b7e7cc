"""The plan of a network within a MONAI pipeline, whose data, transforms and metrics are the pipeline's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from monai_prox.data.plan_settings import plan_of_kind
from monai_prox.errors import ProXError
from monai_prox.families.monai_arguments import voxels_of
from monai_prox.families.monai_choices import MONAIChoices
from monai_prox.families.monai_networks import MONAIFamily

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PipelinePlan:
    """What a family of MONAI's networks needs of the pipeline that trains it.

    Args:
        task: name of the pipeline.
        network: the largest network, see ``MONAIFamily``.
        size: voxels per axis of an input, for which costs are counted.
        outputs: names of the network's output channels. There are none if the pipeline does not name them.
    """

    kind: ClassVar[str] = "pipeline"
    task: str
    network: Mapping[str, Any]
    size: tuple[int, ...]
    outputs: tuple[str, ...] = ()

    @property
    def patch_size(self) -> tuple[int, ...]:
        """The size of the input for which the costs of members are counted, in voxels."""
        return self.size

    @property
    def values(self) -> dict[str, int]:
        """The number of each output channel, by its name."""
        return {name: value for value, name in enumerate(self.outputs)}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's input channels, which a pipeline does not tell."""
        return tuple(f"channel {number}" for number in range(self.network["in_channels"]))

    @property
    def images(self) -> str:
        """What the network sees, in words."""
        return f"inputs of {' x '.join(map(str, self.size))} voxels"

    def cached_bytes(self, image: Any, *, trains: bool) -> None:
        """None, because the pipeline's transforms are not known."""

    def regions(self, regions: None = None) -> dict[str, tuple[int, ...]]:
        """The number of each output channel that is evaluated, by its name.

        Args:
            regions: None, because the pipeline's metric says what is evaluated.
        """
        return {name: (value,) for name, value in self.values.items()}

    def family(self, space: Any = None, *, open: Mapping[str, int] | None = None) -> MONAIFamily:
        """The family of the plan's network.

        Args:
            space: "default", or an object with fields of ``MONAIChoices``. None means the default.
            open: number of choices that remain of each dimension whose last choices were closed, see ``SearchSpace.narrow``.

        Raises:
            ProXError: the network cannot be made elastic, nothing is elastic in ``space``, or ``space`` is not valid.
        """
        choices = MONAIChoices.from_json({} if space is None else space)
        family = MONAIFamily(self.network, size=self.size, choices=choices, open=open)
        if not open and family.space.size() == 1:
            raise ProXError(f"{family.space} has one member only, so there is nothing to expand; open smaller widths")
        return family

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, for a JSON file."""
        fields = {"task": self.task, "network": dict(self.network), "size": list(self.size), "outputs": list(self.outputs)}
        return {"format": FORMAT, "kind": self.kind, **fields}

    @classmethod
    def from_json(cls, data: Any) -> PipelinePlan:
        """The plan that ``to_json`` wrote.

        Args:
            data: what ``to_json`` returned.

        Raises:
            ProXError: ``data`` is something else.
        """
        return plan_of_kind(cls, cls.kind, FORMAT, data)


def size_of(size: Any, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """The size of an input, of which a pipeline may give one number for all axes.

    Args:
        size: voxels per axis, or of every axis.
        arguments: those of the network.

    Raises:
        ProXError: it is something else.
    """
    axes = arguments.get("spatial_dims", 3)
    return voxels_of([size] * axes if type(size) is int and type(axes) is int and 1 <= axes <= 3 else size)
