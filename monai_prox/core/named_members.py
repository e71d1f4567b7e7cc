"""A few members with names, watched during training and offered after it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import SearchSpace, Subnet

INTERMEDIATE = ("small", "middle", "large")


def named_members(family: Family, size: Sequence[int], space: SearchSpace | None = None) -> dict[str, Subnet]:
    """Smallest, largest and up to three members between, as equally spaced in the logarithm of their MACs as there are.

    Those between are even: each dimension is as far open in all stages of the network. What a random member has by chance,
    a bottleneck of width between wide stages, nobody would choose.

    size: input voxels per axis for which MACs are counted. space: the whole one if None. The choice is a function of the space
    alone.
    """
    space = family.space if space is None else space
    smallest, largest = space.smallest(), space.largest()
    if smallest == largest:
        return {"largest": largest}
    steps = [[(dimension, count) for count in range(1, space.choice_count(dimension) + 1)] for dimension in space.dimensions]
    balanced = {space.restrict(dict(opened)).largest() for opened in product(*steps)} - {smallest, largest}
    macs = {subnet: cost.macs(family, subnet, size) for subnet in balanced}
    low, high = cost.macs(family, smallest, size), cost.macs(family, largest, size)
    chosen: list[Subnet] = []
    for number in range(1, len(INTERMEDIATE) + 1):
        target = low * (high / low) ** (number / (len(INTERMEDIATE) + 1))
        remaining = [subnet for subnet in macs if subnet not in chosen]
        if remaining:
            chosen.append(min(remaining, key=lambda subnet: (abs(macs[subnet] - target), str(subnet))))
    chosen.sort(key=lambda subnet: (macs[subnet], str(subnet)))
    return {"smallest": smallest, **dict(zip(INTERMEDIATE, chosen, strict=False)), "largest": largest}
