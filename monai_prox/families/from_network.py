"""The family of a network that somebody has made already."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
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
    check_made_with(network, family)
    return SuperNet(family, network)


def check_made_with(network: nn.Module, family: MONAIFamily) -> None:
    """Checks that a network is the largest of a family, with the same layers and their settings.

    Args:
        network: the network.
        family: the family, made of the arguments that the network is said to be made with.

    Raises:
        ProXError: other arguments made the network.
    """
    with torch.device("meta"):
        made = family.build(family.space.largest(), initialise=False)
    if repr(made) != repr(network):  # has shapes and settings without weights, such as that of dropout
        given = {name: value for name, value in family.architecture_of(family.space.largest()).items() if name != TARGET}
        raise ProXError(
            f"{type(network).__name__} was made with other arguments than {given!r:.300}; give all that it was made with, "
            f"of {', '.join(inspect.signature(type(network)).parameters)}"
        )


def _kept(network: nn.Module) -> dict[str, Any]:
    """The arguments that a network shows: in attributes of their names, and in its first convolution."""
    kept = {name: getattr(network, name) for name in inspect.signature(type(network)).parameters if hasattr(network, name)}
    plain = {name: value for name, value in kept.items() if not isinstance(value, nn.Module) and not callable(value)}
    first = next((weight for weight in network.parameters() if weight.ndim > 2), None)
    return plain if first is None else {"spatial_dims": first.ndim - 2, "in_channels": first.shape[1], **plain}
