"""The most important channels first, because narrower members use the first ones of every tensor.

After progressive shrinking in Once-for-all (Cai et al., ICLR 2020, section 3.3, elastic width), which sorts anew whenever
narrower members open, so that those open already keep their channels. Which axes of which tensors
count the same channels is read off the network's graph, so that sorting only renames channels.
"""

from __future__ import annotations

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
    """Sorts hidden channels of ``network`` in place, the most important first; its function stays up to rounding.

    A channel's importance is the L1 norm of all weights that read it, those of convolutions and linear layers over all axes
    but that of input channels. Depthwise convolutions read nothing, they belong to their channels. Channels of equal
    importance keep their order. Inputs and outputs keep theirs, and what a sum or a product ties shares one. Gradients
    and buffers are sorted too.

    Members with fewer channels become other networks, unless they are given: then channels are sorted within what one of
    them has and within what none has. Members with fewer layers become others too unless they are given: where they skip a
    layer, the next one reads channels in the order of the one before.

    network: one in which all parameters take part; nnU-Net's U-Nets need ``decoder.deep_supervision`` for that.
    shallower: networks made of some of its parameters, the very same objects, whose functions are to stay as well, see
        ``shallower_members``.
    narrower: what members that are to stay use of its parameters, by their names, see ``narrower_members``.

    Returns what was permuted, for an optimizer's state to follow with ``permute``. For each parameter pairs of an axis and
    a permutation (length of that axis,), which holds the old index of every new one.

    Raises ProXError, before anything is changed, for networks that torch.fx cannot trace, for operations that are not known
    to keep channels apart and for parameters that take no part.
    """
    ties = Ties()
    for each in (network, *shallower):
        ties.follow(each)
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
    """Stock networks of fewer layers, otherwise the largest, in the supernet's own parameters; for ``sort_channels``.

    One for each smaller choice of a dimension, made in all slots at once. That is enough for members that are smaller in
    several dimensions or in some slots only: orders that are tied in two of these networks are tied through both.
    """
    space, tensors = supernet.family.space, dict([*supernet.network.named_parameters(), *supernet.network.named_buffers()])
    every = {dimension: space.choice_count(dimension) for dimension in space.dimensions}
    result = []
    for smaller in [every | {dimension: n} for dimension, count in every.items() for n in range(1, count)]:
        members = space.restrict(smaller)
        if not members.size():  # widths that have to differ may not, if there is only one of each
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
    """What members of ``space`` use of the largest network; for ``sort_channels``.

    One for each combination of choices, made in all slots of a dimension at once. That is enough for all of ``space``, for how
    many channels a layer puts out depends on one slot of a dimension at most.
    """
    counts = [[(dimension, n + 1) for n in range(space.choice_count(dimension))] for dimension in space.dimensions]
    evenly = (space.restrict(dict(choices)) for choices in product(*counts))
    return [supernet.regions(members.largest()) for members in evenly if members.size()]


def sort_channels_of(supernet: SuperNet, trained: SearchSpace | None) -> dict[nn.Parameter, Permutations]:
    """Sorts the channels of ``supernet``'s network such that the members of ``trained`` stay what they are, None for no member.

    It is the ``reorder`` of a stage, see ``monai_prox.training.stage``. Raises ProXError as ``sort_channels`` does.
    """
    narrower = [] if trained is None else narrower_members(supernet, trained)
    return sort_channels(supernet.network, *shallower_members(supernet), narrower=narrower)
