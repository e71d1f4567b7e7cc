"""The network of a member without weights, which runs with those of the largest network."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from monai_prox.core.slicing import Region


class Skeleton(NamedTuple):
    """A subnet's stock network without weights, and the place of each of its tensors in the largest network."""

    module: nn.Module  # on the meta device
    sources: dict[str, tuple[str, Region]]
    cuts: dict[str, Region]  # of tensors that are not used whole; of transformed kernels only the channels are cut
    outputs: list[tuple[list[Tensor], list[Tensor]]]  # see ``outputs_within``

    def forget_outputs(self) -> None:
        """Removes what a run has left in the network, which would stay on the device as long as the skeleton."""
        for outputs, before in self.outputs:
            outputs[:] = before


def outputs_within(network: nn.Module) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The lists in which runs of a network leave outputs, with what they had before, as MONAI's DynUNet does with its heads.

    Args:
        network: the network. No list of tensors in it is of weights.
    """
    lists = [value for part in network.modules() for value in vars(part).values() if isinstance(value, list)]
    tensors = {id(of): of for of in lists if any(isinstance(value, Tensor) for value in of)}
    return [(of, list(of)) for of in tensors.values()]


def call_with(network: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Any:
    """Runs a network with other tensors than its own.

    Stock U-Nets register modules twice (the encoder inside the decoder), but no parameter in two modules. So no weights are
    tied. With tie_weights torch would restore aliases in the wrong order, and these weights would stay in the network.

    Args:
        network: the network.
        weights: its parameters and buffers by name.
        x: (B, C, *spatial).
    """
    return functional_call(network, weights, (x,), tie_weights=False)
