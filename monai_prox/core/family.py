"""Network families: how a subnet's stock network is built and where its weights live in the largest one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from monai_prox.core.layers import Layer
from monai_prox.core.slicing import Region
from monai_prox.core.space import SearchSpace, Subnet


class Family(Protocol):
    """What the core asks of a kind of network. ``monai_prox.families.unet`` is an example."""

    space: SearchSpace
    choices: Any  # what is elastic, a dataclass of plain data

    @property
    def divisor(self) -> tuple[int, ...]:
        """Of which sizes of an input are multiples, an axis each, where the largest network takes it as it is."""

    def input_size(self, size: Sequence[int], resolution: float) -> tuple[int, ...]:
        """The size per axis at which a member of ``resolution`` works on an input of ``size``."""

    def architecture_of(self, subnet: Subnet) -> dict[str, Any]:
        """The subnet's stock network as plain data."""

    def build(self, subnet: Subnet, *, initialise: bool = True) -> nn.Module:
        """The subnet's stock network with freshly initialised weights, or any if not ``initialise``."""

    def layers(self, subnet: Subnet, size: Sequence[int] | None = None) -> Iterator[Layer]:
        """The subnet's stock network, for one input of ``size`` voxels at full resolution, or as planned if None."""

    def synchronise(self, skeleton: nn.Module, network: nn.Module) -> None:
        """Copies run-time switches that are no weights, such as deep supervision, from ``network``."""

    def locate(self, name: str, shape: tuple[int, ...], subnet: Subnet) -> tuple[str, Region]:
        """The largest network's tensor, and the region of it, that is the subnet's tensor ``name`` of ``shape``."""

    def run(self, network: Callable[[Tensor], Any], x: Tensor, subnet: Subnet) -> Any:
        """Runs a subnet's network on ``x`` at the subnet's resolution; outputs are at the resolution of ``x``."""

    def output_axis(self, name: str) -> int:
        """The axis of the weight ``name`` that counts output channels; the other of 0 and 1 counts input channels."""

    def passes_through(self, name: str) -> int | None:
        """For a convolution born into a chain: index of its first input channel whose value the next layer had seen.

        None where a new layer does not replace anything, or is the identity by its stock initialisation.
        """

    def group(self, name: str) -> str:
        """Name of the stage that the tensor ``name`` belongs to."""
