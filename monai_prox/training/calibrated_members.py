"""Members whose norms have statistics of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member, SuperNet
from monai_prox.training.calibrate import IMAGES, calibrate

Statistics = dict[str, Tensor]  # a network's buffers


class CalibratedMembers:
    """Members of a supernet whose batch norms have statistics of their own, all from the same training images.

    Args:
        supernet: the supernet.
        data: items of the training set. ``count`` of them are used, evenly spaced.
        transform: makes {"image": (C, *spatial)} from an item, without randomness.
        count: number of images. Those of another shape than the first are left out.
    """

    def __init__(
        self,
        supernet: SuperNet,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Mapping[str, Any]],
        *,
        count: int = IMAGES,
    ) -> None:
        self.supernet, self._data, self._transform, self._count = supernet, data, transform, count

    @cached_property
    def _images(self) -> Tensor:
        count = min(self._count, len(self._data))
        chosen = [self._data[index * len(self._data) // count] for index in range(count)]
        images = [torch.as_tensor(self._transform(dict(item))["image"]) for item in chosen]
        images = [image for image in images if image.shape == images[0].shape]  # which pass through the network in one batch
        return torch.stack(images).to(next(self.supernet.parameters()).device)

    def calibrate(self, network: nn.Module, subnet: Subnet) -> nn.Module:
        """Gives a member's network its statistics, in place.

        Args:
            network: the stock network of the member.
            subnet: the member.

        Returns:
            ``network``.
        """
        return calibrate(network, self._images, lambda x: self.supernet.family.run(network, x, subnet))

    def extract(self, subnet: Subnet) -> nn.Module:
        """The stock network of a member, with copies of its weights.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """
        return self.calibrate(self.supernet.extract(subnet), subnet)

    def member(self, subnet: Subnet) -> Member:
        """As ``extract``, with inputs and outputs at full resolution.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """
        return Member(self.supernet.family, subnet, self.extract(subnet))


def statistics_of(network: nn.Module) -> Statistics:
    """Copies of a network's buffers, on the CPU.

    Args:
        network: the network.
    """
    return {name: buffer.detach().cpu().clone() for name, buffer in network.named_buffers()}
