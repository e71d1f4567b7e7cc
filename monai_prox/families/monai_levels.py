"""Fewer levels of MONAI's networks: which arguments list them, and what a member's layers are called in the largest network.

The classes are those whose lowest level can be left out such that the others stay what they are. In UNet and AttentionUnet the
lowest level is of another kind, and BasicUNet always has five.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from monai_prox.core.slots import Slot
from monai_prox.errors import ProXError
from monai_prox.families.monai_arguments import DEPTH, blocks_of


class _Lists(NamedTuple):
    """Arguments that list something of each level, beside the features.

    levels: of all levels. steps: of the steps between levels. Both from the top. ascents: of the steps, from the lowest.
    fewest: number of levels that the class needs.
    """

    levels: tuple[str, ...]
    steps: tuple[str, ...] = ()
    ascents: tuple[str, ...] = ()
    fewest: int = 2


_SEGRESNET = _Lists(levels=("blocks_down",), ascents=("blocks_up",))
LISTS: Mapping[str, _Lists] = {
    "DynUNet": _Lists(levels=("kernel_size", "strides"), steps=("upsample_kernel_size",), fewest=3),
    "SegResNet": _SEGRESNET,
    "SegResNetDS": _SEGRESNET,
}
_ASCENT = re.compile(r"^(up_layers\.|up_samples\.|upsamples\.)(\d+)(?=\.)")
_LOWEST = re.compile(r"^bottleneck(?=\.)")


def level_slots(name: str, arguments: Mapping[str, Any], missing: int) -> tuple[Slot, ...]:
    """The choices of how many levels there are: one slot, or none if no level may be missing.

    Args:
        name: of the class.
        arguments: all of the largest network.
        missing: number of levels that may be missing.

    Raises:
        ProXError: the class has not as many levels that can be left out, or a level has no block.
    """
    if not missing:
        return ()
    most = full = 0
    if name in LISTS:
        for blocks in DEPTH.get(name, ()):
            blocks_of(arguments[blocks], f"{blocks} of {name}")
        full = len(arguments[LISTS[name].levels[0]])
        most = max(0, full - LISTS[name].fewest)
    if missing > most:
        raise ProXError(f"levels is {missing}; {name} may lack at most {most}, and {', '.join(LISTS)} alone lack any")
    return (Slot(choices=tuple(range(full - missing, full + 1))),)


def fewer_levels(name: str, arguments: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The arguments that a network of the highest levels has in the place of others.

    Args:
        name: of the class, one of ``LISTS``.
        arguments: all of the largest network.
        count: number of levels.
    """
    lists = LISTS[name]
    full = len(arguments[lists.levels[0]])
    changed: dict[str, Any] = {argument: list(arguments[argument])[:count] for argument in lists.levels}
    # DynUNet takes the last ones of a list that is longer
    changed |= {argument: list(arguments[argument])[1 - full :][: count - 1] for argument in lists.steps}
    for argument in lists.ascents:
        if ascents := list(arguments[argument] or ()):  # SegResNetDS may have none
            changed[argument] = ascents[len(ascents) - count + 1 :]
    # DynUNet's heads are those of the levels between the highest and the lowest
    if arguments.get("deep_supr_num", 0) > count - 2:
        changed["deep_supr_num"] = count - 2
    return changed


def in_largest(name: str, count: int, full: int) -> str:
    """What a member's tensor is called in the largest network, where another level is the lowest and the way up is longer.

    Args:
        name: of the tensor in the member.
        count: number of the member's levels.
        full: number of the largest network's.

    >>> in_largest("upsamples.0.conv.weight", 3, 5), in_largest("bottleneck.conv.weight", 3, 5)
    ('upsamples.2.conv.weight', 'downsamples.1.conv.weight')
    """
    if count == full:
        return name
    name = _LOWEST.sub(f"downsamples.{count - 2}", name)
    return _ASCENT.sub(lambda found: f"{found[1]}{int(found[2]) + full - count}", name)
