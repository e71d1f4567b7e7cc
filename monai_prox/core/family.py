"""The interface of a network family: how a member's stock network is built and which part of the largest one it uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from monai_prox.core.layers import Layer
from monai_prox.core.slicing import Region
from monai_prox.core.space import SearchSpace, Subnet


class Family(Protocol):
    """The interface of a kind of network to the core, for example of ``UNetFamily`` and ``MobileNetFamily``.

    Attributes:
        space: the search space. Its largest member is the network that is trained.
        choices: what is elastic, a dataclass of plain data.
    """

    space: SearchSpace
    choices: Any  # what is elastic, a dataclass of plain data

    @property
    def divisor(self) -> tuple[int, ...]:
        """The numbers, one per axis, that the input sizes of the largest network are multiples of."""

    def input_size(self, size: Sequence[int], resolution: float) -> tuple[int, ...]:
        """The size at which a member works on an input.

        Args:
            size: voxels per axis of the input at full resolution.
            resolution: the member's value of the dimension ``resolution``.
        """

    def architecture_of(self, subnet: Subnet) -> dict[str, Any]:
        """The stock network of a member as plain data.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """

    def build(self, subnet: Subnet, *, initialise: bool = True) -> nn.Module:
        """The stock network of a member with new weights.

        Args:
            subnet: the member.
            initialise: whether the weights are initialised. If not, they may have any values.

        Raises:
            ProXError: the subnet is not a member.
        """

    def layers(self, subnet: Subnet, size: Sequence[int] | None = None) -> Iterator[Layer]:
        """The layers of a member's stock network, as numbers that its cost is computed from.

        Args:
            subnet: the member.
            size: voxels per axis of one input at full resolution. None means the planned size.

        Raises:
            ProXError: the subnet is not a member.
        """

    def synchronise(self, skeleton: nn.Module, network: nn.Module) -> None:
        """Copies run-time switches that are not weights, such as deep supervision.

        Args:
            skeleton: a member's stock network, which is changed.
            network: the largest stock network.
        """

    def locate(self, name: str, shape: tuple[int, ...], subnet: Subnet) -> tuple[str, Region]:
        """The place of a member's tensor in the largest network.

        Args:
            name: name of the tensor in the member's stock network.
            shape: its shape.
            subnet: the member.

        Returns:
            The name of the tensor in the largest network, and the region of it that the member uses.

        Raises:
            ProXError: the largest network has no tensor of that name that is as large.
        """

    def run(self, network: Callable[[Tensor], Any], x: Tensor, subnet: Subnet) -> Any:
        """Runs a member's network at the member's resolution.

        Args:
            network: the member's network.
            x: (B, C, *spatial) at full resolution.
            subnet: the member.

        Returns:
            The output of the network, at the resolution of ``x``.
        """

    def output_axis(self, name: str) -> int:
        """The axis of a weight that counts output channels. The other one of the axes 0 and 1 counts input channels.

        Args:
            name: name of the weight in the largest network.
        """

    def passes_through(self, name: str) -> int | None:
        """How a convolution that is inserted between two trained layers can pass its input on unchanged.

        Args:
            name: name of the convolution's weight in the largest network.

        Returns:
            The index of the first input channel that the next layer received before. None if the convolution replaces no
            connection, or is the identity by its stock initialisation.
        """

    def group(self, name: str) -> str:
        """The stage of the network that a tensor belongs to.

        Args:
            name: name of the tensor in the largest network.

        Returns:
            A name of the stage.
        """
