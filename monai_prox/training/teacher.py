"""A frozen member that teaches those in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member, SuperNet, finest


class FrozenTeacher:
    """A copy of a member, which stays as it is.

    network: its stock network; it is used, not copied.
    """

    def __init__(self, supernet: SuperNet, subnet: Subnet, network: nn.Module) -> None:
        self.subnet = subnet
        self._member = Member(supernet.family, subnet, network.eval().requires_grad_(False))

    @classmethod
    def of(cls, supernet: SuperNet, subnet: Subnet, calibrate: Callable[[nn.Module, Subnet], Any] | None) -> FrozenTeacher:
        """The member as it is now. calibrate: gives its norms statistics of their own, if they keep any."""
        network = supernet.extract(subnet)
        if calibrate is not None:
            calibrate(network, subnet)
        return cls(supernet, subnet, network)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """x: (B, C, *spatial) -> (B, classes, *spatial) at full resolution, or (B, classes)."""
        return finest(self._member(x))

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors; loads with ``weights_only=True``."""
        return {"subnet": self.subnet.to_json(), "weights": self._member.network.state_dict()}

    @classmethod
    def from_state(cls, supernet: SuperNet, state: Mapping[str, Any]) -> FrozenTeacher:
        subnet = Subnet.from_json(state["subnet"])
        network = supernet.extract(subnet)
        network.load_state_dict(state["weights"])
        return cls(supernet, subnet, network)
