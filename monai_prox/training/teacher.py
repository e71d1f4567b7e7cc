"""Frozen members that teach the members in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member, SuperNet, finest


class FrozenTeacher:
    """A copy of a member whose weights do not change.

    Args:
        supernet: the supernet.
        subnet: the member.
        network: the member's stock network. It is used, not copied.
    """

    def __init__(self, supernet: SuperNet, subnet: Subnet, network: nn.Module) -> None:
        self.subnet = subnet
        self._member = Member(supernet.family, subnet, network.eval().requires_grad_(False))

    @classmethod
    def extract(cls, supernet: SuperNet, subnet: Subnet, calibrate: Callable[[nn.Module, Subnet], Any] | None) -> FrozenTeacher:
        """A copy of a member with its current weights.

        Args:
            supernet: the supernet.
            subnet: the member.
            calibrate: gives the norms of the copy their own statistics. None if its norms keep no statistics.
        """
        network = supernet.extract(subnet)
        if calibrate is not None:
            calibrate(network, subnet)
        return cls(supernet, subnet, network)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """The teacher's logits, (B, classes, *spatial) at full resolution, or (B, classes).

        Args:
            x: (B, C, *spatial).
        """
        return finest(self._member(x), x)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data and tensors, which load with ``weights_only=True``."""
        return {"subnet": self.subnet.to_json(), "weights": self._member.network.state_dict()}

    @classmethod
    def from_state(cls, supernet: SuperNet, state: Mapping[str, Any]) -> FrozenTeacher:
        """The teacher of a training that is continued.

        Args:
            supernet: the supernet.
            state: what ``state_dict`` returned.
        """
        subnet = Subnet.from_json(state["subnet"])
        network = supernet.extract(subnet)
        network.load_state_dict(state["weights"])
        return cls(supernet, subnet, network)
