"""A few members with names, watched during training and offered after it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from monai_prox import cost
from monai_prox.space import Subnet
from monai_prox.supernet import SuperNet

BETWEEN = ("small", "middle", "large")
CANDIDATES = 64


def choose_probes(supernet: SuperNet, size: Sequence[int]) -> dict[str, Subnet]:
    """Smallest, largest and up to three members between, equally spaced in the logarithm of their MACs.

    size: input voxels per axis for which MACs are counted. The choice is a function of the space alone.
    """
    space = supernet.family.space
    smallest, largest = space.smallest(), space.largest()
    if smallest == largest:
        return {"largest": largest}
    generator = random.Random(0)
    candidates = {space.sample(generator) for _ in range(CANDIDATES)} - {smallest, largest}
    macs = {subnet: cost.macs(supernet, subnet, size) for subnet in candidates}
    low, high = cost.macs(supernet, smallest, size), cost.macs(supernet, largest, size)
    between: dict[str, Subnet] = {}
    for number, name in enumerate(BETWEEN, start=1):
        target = low * (high / low) ** (number / (len(BETWEEN) + 1))
        left = [subnet for subnet in macs if subnet not in between.values()]
        if left:
            between[name] = min(left, key=lambda subnet: (abs(macs[subnet] - target), str(subnet)))
    ordered = sorted(between.values(), key=lambda subnet: (macs[subnet], str(subnet)))
    return {"smallest": smallest, **dict(zip(between, ordered, strict=True)), "largest": largest}
