"""The order of channels by importance. Narrower members use the first channels of every tensor.

Source: progressive shrinking in Once-for-all (Cai et al., ICLR 2020, section 3.3, elastic width). Channels are sorted whenever
narrower members open. Members that are open already keep their channels. The axes that count the same channels are found in the
network's graph, so sorting does not change the network's function.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import nn

from monai_prox.comparators.channel_ties import Ties
from monai_prox.core.slicing import Permutations, Region, covers, permute
from monai_prox.core.space import SearchSpace
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError


@torch.no_grad()
def sort_channels(
    network: nn.Module, *shallower: nn.Module, narrower: Sequence[Mapping[str, Region]] = ()
) -> dict[nn.Parameter, Permutations]:
    """Sorts the hidden channels of a network in place, the most important first. Its function stays the same up to rounding.

    The importance of a channel is the L1 norm of all weights that read it. These are the weights of convolutions and linear
    layers for this input channel. Weights of depthwise convolutions do not count. Channels of equal importance keep their
    order. Inputs and outputs of the network keep theirs, and channels that are added or multiplied have the same order.
    Gradients and buffers are sorted, too.

    Members with fewer channels or fewer layers become other networks unless they are given. Channels are sorted within the
    channels that a given narrower member has, and within those that it does not have. If a shallower member skips a layer, the
    next layer reads the channels of the layer before, so these have the same order.

    Args:
        network: a network in which all parameters are used. nnU-Net's U-Nets need ``decoder.deep_supervision``.
        shallower: networks with some of the same parameter objects, whose functions have to stay the same, see
            ``shallower_members``.
        narrower: the regions of parameters that narrower members use, whose functions have to stay the same, see
            ``narrower_members``.

    Returns:
        (axis, permutation) pairs for each parameter. A permutation has the former index of each entry, as ``permute`` needs it.

    Raises:
        ProXError: torch.fx cannot trace the network, an operation is not known to keep channels apart, or a parameter is not
            used. Nothing is changed.
    """
    ties = Ties()
    for traced in (network, *shallower):
        ties.follow(traced)
    for name, parameter in network.named_parameters():
        if parameter not in ties.axes:
            raise ProXError(
                f"channels cannot be sorted while {name} takes no part; let all heads run, as with deep supervision on"
            )
    permutations = ties.permutations(ties.widths(dict(network.named_parameters()), narrower))
    for tensor, axes in permutations.items():
        for values in (tensor, tensor.grad):
            if values is not None:
                values.copy_(permute(values, axes))
    return {tensor: axes for tensor, axes in permutations.items() if isinstance(tensor, nn.Parameter)}


def shallower_members(supernet: SuperNet) -> list[nn.Module]:
    """The largest networks with fewer layers, made of the supernet's parameters, for ``sort_channels``.

    There is one network for each smaller choice of a dimension, taken in all slots. Members that are smaller in several
    dimensions, or in some slots only, need no network of their own, because their orders are tied by these networks.

    Args:
        supernet: the supernet.
    """
    space, tensors = supernet.family.space, dict([*supernet.network.named_parameters(), *supernet.network.named_buffers()])
    counts = {dimension: space.choice_count(dimension) for dimension in space.dimensions}
    result = []
    for smaller in [counts | {dimension: n} for dimension, count in counts.items() for n in range(1, count)]:
        members = space.restrict(smaller)
        if not members.size():  # widths that have to differ cannot, if each has one choice
            continue
        subnet = members.largest()
        regions = supernet.regions(subnet)
        if len(regions) == len(tensors) or not all(covers(region, tensors[name].shape) for name, region in regions.items()):
            continue
        with torch.device("meta"):
            network = supernet.family.build(subnet, initialise=False)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            source, _ = supernet.family.locate(name, tuple(tensor.shape), subnet)
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, tensors[source])
        supernet.family.synchronise(network, supernet.network)
        result.append(network)
    return result


def narrower_members(supernet: SuperNet, space: SearchSpace) -> list[dict[str, Region]]:
    """The regions of the largest network that members use, for ``sort_channels``.

    There is one member for each combination of choices, taken in all slots of a dimension. Other members need no regions of
    their own, because the number of a layer's output channels depends on at most one slot of a dimension.

    Args:
        supernet: the supernet.
        space: the search space of the members.
    """
    counts = [[(dimension, n + 1) for n in range(space.choice_count(dimension))] for dimension in space.dimensions]
    parts = (space.restrict(dict(choices)) for choices in product(*counts))
    return [supernet.regions(part.largest()) for part in parts if part.size()]


def sort_channels_of(supernet: SuperNet, trained: SearchSpace | None) -> dict[nn.Parameter, Permutations]:
    """Sorts the channels of a supernet. It is the ``reorder`` of a stage, see ``monai_prox.training.stage``.

    Args:
        supernet: the supernet.
        trained: the search space of the members whose functions have to stay the same, or None.

    Returns:
        The permutations, see ``sort_channels``.

    Raises:
        ProXError: see ``sort_channels``.
    """
    narrower = [] if trained is None else narrower_members(supernet, trained)
    return sort_channels(supernet.network, *shallower_members(supernet), narrower=narrower)


def sort_channels_if_possible(supernet: SuperNet, trained: SearchSpace | None) -> dict[nn.Parameter, Permutations]:
    """As ``sort_channels_of``, but channels that cannot be sorted keep their order, and a line in the log says why.

    Args:
        supernet: the supernet.
        trained: the search space of the members whose functions have to stay the same, or None.

    Returns:
        The permutations, see ``sort_channels``.
    """
    try:
        return sort_channels_of(supernet, trained)
    except ProXError as error:
        logging.getLogger(__name__).warning(f"channels keep their order: {error}")
        return {}
