"""The family that a plan asks for, before any training: its members run as trained ones do, with weights of no use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError, refusing
from monai_prox.nnunet.plan_entry import PlannedTraining
from monai_prox.runtime.description import Description
from monai_prox.runtime.grid import ImageSize
from monai_prox.runtime.kinds import SEGMENTATION, Kind
from monai_prox.trained.nnunet_files import read_dataset, read_plans
from monai_prox.trained.nnunet_plans import median_image_of, member_configuration
from monai_prox.trained.nnunet_source import describe
from monai_prox.trained.source import UNNAMED


@dataclass(frozen=True)
class PlannedFamily:
    """The members that a plan's configuration asks for. See ``monai_prox.trained.source.Members``.

    Args:
        planned: what would be trained.
    """

    planned: PlannedTraining
    kind: Kind = SEGMENTATION

    @cached_property
    def supernet(self) -> SuperNet:
        """With weights as before a training."""
        family = self.planned.engine.supernet.family
        return SuperNet(family, family.build(family.space.largest())).eval()

    @property
    def size(self) -> Sequence[int]:
        """Voxels of the plan's patch."""
        patch: Sequence[int] = self.planned.configuration["patch_size"]
        return patch

    @property
    def median_image(self) -> ImageSize | None:
        """As the plan tells it."""
        with refusing(f"{self.planned.plans_file} cannot be used"):
            return median_image_of(self._plans)

    def network(self, which: str | Subnet) -> nn.Module:
        """A member as a stock network.

        Args:
            which: name or subnet.

        Raises:
            ProXError: there is no such member.
        """
        return self.supernet.extract(self._member(which)[1])

    def describe(self, which: str | Subnet, *, name: str = UNNAMED) -> Description:
        """What prediction with a member needs beside the network.

        Args:
            which: name or subnet.
            name: of a subnet.

        Raises:
            ProXError: there is no such member, or the plan asks for what the runtime cannot repeat.
        """
        named, subnet = self._member(which)
        configuration, family = self.planned.configuration_name, self.planned.engine.supernet.family
        with refusing(f"{self.planned.plans_file} cannot be used"):
            plans = deepcopy(dict(self._plans))
            plans["configurations"] = {
                configuration: member_configuration(
                    self.planned.configuration,
                    family,
                    subnet,
                    data_identifier=f"{self.planned.plans_file.stem}_{configuration}",
                )
            }
            return describe(
                plans,
                configuration,
                read_dataset(self.planned.plans_file.with_name("dataset.json")),
                member=named or name,
                subnet=subnet.to_json(),
                source=f"{self.planned.trainer.__name__}, {configuration}, not trained",
            )

    def _member(self, which: str | Subnet) -> tuple[str, Subnet]:
        """Name and subnet. The name of a subnet is empty."""
        if isinstance(which, Subnet):
            return "", self.planned.engine.supernet.family.space.check(which)
        found = {member.name: member.subnet for member in self.planned.members}
        if which not in found:
            raise ProXError(f"the member {which!r:.80} is not known; known: {', '.join(found)}")
        return which, found[which]

    @cached_property
    def _plans(self) -> Mapping[str, Any]:
        return read_plans(self.planned.plans_file)
