"""A few members with names, which are scored during training and offered after it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from math import log

from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import SearchSpace, Subnet

INTERMEDIATE = ("small", "middle", "large")


def named_members(family: Family, size: Sequence[int], space: SearchSpace | None = None) -> dict[str, Subnet]:
    """The smallest member, the largest, and up to three in between, about equally spaced in the logarithm of their MACs.

    Those in between have an equally large part of their choices in all stages of the network. A random member may have a narrow
    stage between wide ones, which nobody would choose. The result depends on the family, the size and the space only.

    Args:
        family: the family.
        size: voxels per axis of the input for which MACs are counted.
        space: the part of the family's space to choose from. None means the whole space.

    Returns:
        The members by name, from the smallest to the largest: "smallest", "small", "middle", "large", "largest".

    Raises:
        ProXError: the space has no member.

    >>> from monai_prox import MobileNetFamily
    >>> family = MobileNetFamily(input_channels=1, num_classes=2)
    >>> list(named_members(family, (224, 224)))
    ['smallest', 'small', 'middle', 'large', 'largest']
    """
    space = family.space if space is None else space
    smallest, largest = space.smallest(), space.largest()
    if smallest == largest:
        return {"largest": largest}
    steps = [[(dimension, count) for count in range(1, space.choice_count(dimension) + 1)] for dimension in space.dimensions]
    balanced = {space.restrict(dict(opened)).largest() for opened in product(*steps)} - {smallest, largest}
    macs = {subnet: cost.macs(family, subnet, size) for subnet in balanced}
    low, high = cost.macs(family, smallest, size), cost.macs(family, largest, size)
    targets = {name: low * (high / low) ** (place / 4) for place, name in enumerate(INTERMEDIATE, 1)}
    chosen: list[Subnet] = []
    for target in targets.values():
        remaining = [subnet for subnet in macs if subnet not in chosen]
        if remaining:
            chosen.append(min(remaining, key=lambda subnet: (abs(macs[subnet] - target), str(subnet))))
    chosen.sort(key=lambda subnet: (macs[subnet], str(subnet)))

    def distance(names: tuple[str, ...]) -> float:
        return sum(abs(log(macs[subnet] / targets[name])) for name, subnet in zip(names, chosen, strict=True))

    names = min(combinations(INTERMEDIATE, len(chosen)), key=distance)
    return {"smallest": smallest, **dict(zip(names, chosen, strict=True)), "largest": largest}
