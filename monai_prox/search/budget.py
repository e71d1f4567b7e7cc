"""Costs of members on a device, and limits of these costs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.latency.case import CaseCosts
from monai_prox.latency.device import Device

UNITS = {
    "latency_ms": "latency a patch, ms",
    "macs": "MACs a patch",
    "parameters": "parameters",
    "memory_mb": "memory, MB",
    "file_mb": "file, MB",
    "seconds": "time a case, s",
    "ram_gb": "memory a case, GB",
}
OF_A_CASE = ("seconds", "ram_gb")  # known with a device's file that has the parts of a case
LOOKED_AT = 2000  # random members that are tried to find one within the budget


def check_costs(names: Sequence[str]) -> None:
    """Checks names of costs.

    Args:
        names: the names.

    Raises:
        ProXError: a name is not one of UNITS.
    """
    if unknown := [name for name in names if name not in UNITS]:
        raise ProXError(f"{', '.join(unknown)} cannot be minimised; allowed: {', '.join(UNITS)}")


@dataclass(frozen=True)
class Price:
    """The costs of a member, see ``monai_prox.core.cost.Cost``.

    Args:
        parameters: number of weights.
        macs: multiply-accumulates for one input.
        memory_mb: megabytes of weights and feature maps.
        file_mb: megabytes of the weights.
        latency_ms: milliseconds for one input, or None if no device is given.
        seconds: seconds of a case, or None if they are not known.
        ram_gb: gigabytes of memory of a case, or None if they are not known.
    """

    parameters: int
    macs: int
    memory_mb: float
    file_mb: float
    latency_ms: float | None
    seconds: float | None = None
    ram_gb: float | None = None

    def value(self, name: str) -> float:
        """One of the costs.

        Args:
            name: one of UNITS.
        """
        value: float = getattr(self, name)
        return value


@dataclass(frozen=True)
class Prices:
    """The costs of all members of a family.

    Args:
        family: the family.
        size: voxels per axis of one input at full resolution.
        device: the device for latencies, or None.
        case: the costs of a case on the device, or None.
    """

    family: Family
    size: Sequence[int]
    device: Device | None = None
    case: CaseCosts | None = None

    def price(self, subnet: Subnet) -> Price:
        """The costs of a member.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """
        if subnet not in self._known:
            self._known[subnet] = self._counted(subnet)
        return self._known[subnet]

    @cached_property
    def _known(self) -> dict[Subnet, Price]:
        return {}  # a search asks for the same members again and again

    def _counted(self, subnet: Subnet) -> Price:
        counted = cost.member_cost(self.family, subnet, self.size)
        latency = None if self.device is None else self.device.latency_ms(subnet)
        of_case = (None, None) if self.case is None else (self.case.seconds(subnet), self.case.ram_gb(subnet))
        return Price(counted.parameters, counted.macs, counted.memory_mb, counted.file_mb, latency, *of_case)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits of the costs of a member. None means no limit.

    Args:
        latency_ms: milliseconds for one input.
        macs: multiply-accumulates for one input.
        parameters: number of weights.
        memory_mb: megabytes of weights and feature maps.
        file_mb: megabytes of the weights.
        seconds: seconds of a case.
        ram_gb: gigabytes of memory of a case.

    Raises:
        ProXError: a limit is not above 0.
    """

    latency_ms: float | None = None
    macs: float | None = None
    parameters: float | None = None
    memory_mb: float | None = None
    file_mb: float | None = None
    seconds: float | None = None
    ram_gb: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            if not limit > 0:
                raise ProXError(f"the most {UNITS[name]} is {limit}; it must be above 0")

    def limits(self) -> dict[str, float]:
        """The limits by the name of the cost, without those that are None."""
        return {name: limit for name, limit in asdict(self).items() if limit is not None}

    def allows(self, price: Price) -> bool:
        """Whether a member's costs are within the limits.

        Args:
            price: the costs of the member.
        """
        return self.excess(price) <= 1

    def excess(self, price: Price) -> float:
        """The largest ratio of a cost to its limit. It is 0 without limits.

        Args:
            price: the costs of a member.
        """
        return max((price.value(name) / limit for name, limit in self.limits().items()), default=0.0)

    def cheapest(self, prices: Prices) -> Subnet:
        """The member that leaves the largest part of the budget, among the smallest member and random ones.

        Args:
            prices: the costs of the members.

        Raises:
            ProXError: none of them is within the budget. The message has the closest one.
        """
        generator, space = random.Random(0), prices.family.space
        candidates = {space.smallest(), *(space.sample(generator) for _ in range(LOOKED_AT))}
        closest, price = min(
            ((subnet, prices.price(subnet)) for subnet in candidates), key=lambda pair: (self.excess(pair[1]), str(pair[0]))
        )
        if not self.allows(price):
            limits = ", ".join(f"{UNITS[name]} {limit:g}" for name, limit in self.limits().items())
            costs = ", ".join(f"{UNITS[name]} {price.value(name):.4g}" for name in self.limits())
            raise ProXError(f"no member is within the budget ({limits}); the closest has {costs}: {closest}")
        return closest

    def nearest(self, ranks: Mapping[str, Sequence[int]], prices: Prices) -> Subnet:
        """The member with the given choices, or a member within the budget whose choices are smaller.

        Random choices are lowered one after the other until the member is within the budget. Equal ranks give the equal member.
        If no member is within the budget, the result is the smallest member.

        Args:
            ranks: see ``SearchSpace.nearest``.
            prices: the costs of the members.
        """
        space, generator = prices.family.space, random.Random(str(ranks))
        lowered = {name: list(indices) for name, indices in ranks.items()}
        subnet = space.nearest(lowered)
        while not self.allows(prices.price(subnet)):
            slots = [(name, index) for name, indices in lowered.items() for index, rank in enumerate(indices) if rank > 0]
            if not slots:
                break
            name, index = generator.choice(slots)
            lowered[name][index] -= 1
            subnet = space.nearest(lowered)
        return subnet
