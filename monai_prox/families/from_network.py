"""The family of a network that somebody has made already."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.families.monai_arguments import TARGET
from monai_prox.families.monai_choices import MONAIChoices
from monai_prox.families.monai_networks import MONAIFamily


def supernet_of(
    network: nn.Module, *, size: Sequence[int], choices: MONAIChoices = MONAIChoices(), **arguments: Any
) -> SuperNet:
    """A supernet whose largest member is a network of MONAI, with its weights.

    Args:
        network: the network. It is used, not copied.
        size: voxels per axis of an input that the network takes.
        choices: what is elastic.
        arguments: those that the network was made with. MONAI's networks keep some of them, which need not be given.

    Raises:
        ProXError: the network cannot be made elastic, or other arguments would make another network.

    >>> from monai.networks.nets import UNet
    >>> network = UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16), strides=(2,))
    >>> print(supernet_of(network, size=(32, 32)).family.space)
    width {4, 6, 8} {8, 12, 16}
    """
    known = _kept(network) | arguments
    family = MONAIFamily({TARGET: type(network).__name__, **known}, size=size, choices=choices)
    made = family.build(family.space.largest(), initialise=False)
    if repr(made) != repr(network):
        others = [name for name in inspect.signature(type(network)).parameters if name not in arguments]
        raise ProXError(
            f"{type(network).__name__} was made with other arguments than {known!r:.300}; give those that it was made with, "
            f"of {', '.join(others)}"
        )
    return SuperNet(family, network)


def _kept(network: nn.Module) -> dict[str, Any]:
    """The arguments that a network shows: in attributes of their names, and in its first convolution."""
    kept = {name: getattr(network, name) for name in inspect.signature(type(network)).parameters if hasattr(network, name)}
    plain = {name: value for name, value in kept.items() if not isinstance(value, nn.Module) and not callable(value)}
    first = next((weight for weight in network.parameters() if weight.ndim > 2), None)
    return plain if first is None else {"spatial_dims": first.ndim - 2, "in_channels": first.shape[1], **plain}
