"""What members cost on a device, and what may be spent."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.latency.device import Device

UNITS = {
    "latency_ms": "latency a patch, ms",
    "macs": "MACs a patch",
    "parameters": "parameters",
    "memory_mb": "memory, MB",
    "file_mb": "file, MB",
}
LOOKED_AT = 2000  # random members, before it is said that none is within a budget


def check_costs(names: Sequence[str]) -> None:
    """Raises ProXError for what is none of UNITS."""
    if unknown := [name for name in names if name not in UNITS]:
        raise ProXError(f"{', '.join(unknown)} cannot be minimised; allowed: {', '.join(UNITS)}")


@dataclass(frozen=True)
class Price:
    """Of one member. latency_ms: None where no device was given. See ``monai_prox.core.cost.Cost`` for the others."""

    parameters: int
    macs: int
    memory_mb: float
    file_mb: float
    latency_ms: float | None

    def value(self, name: str) -> float:
        value: float = getattr(self, name)
        return value


@dataclass(frozen=True)
class Prices:
    """Of a family's members for one input of ``size`` voxels at full resolution, on ``device`` if there is one."""

    family: Family
    size: Sequence[int]
    device: Device | None = None

    def price(self, subnet: Subnet) -> Price:
        counted = cost.member_cost(self.family, subnet, self.size)
        latency = None if self.device is None else self.device.latency_ms(subnet)
        return Price(counted.parameters, counted.macs, counted.memory_mb, counted.file_mb, latency)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most of each that a member may cost; None for any."""

    latency_ms: float | None = None
    macs: float | None = None
    parameters: float | None = None
    memory_mb: float | None = None
    file_mb: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            if not limit > 0:
                raise ProXError(f"the most {UNITS[name]} is {limit}; it must be above 0")

    def limits(self) -> dict[str, float]:
        return {name: limit for name, limit in asdict(self).items() if limit is not None}

    def allows(self, price: Price) -> bool:
        return self.excess(price) <= 1

    def excess(self, price: Price) -> float:
        """The largest of the ratios of what is spent to what may be; 0 without limits."""
        return max((price.value(name) / limit for name, limit in self.limits().items()), default=0.0)

    def cheapest(self, prices: Prices) -> Subnet:
        """A member that leaves as much of the budget as any of those looked at.

        Raises ProXError, with the member that comes closest, where none is within it.
        """
        generator, space = random.Random(0), prices.family.space
        candidates = {space.smallest(), *(space.sample(generator) for _ in range(LOOKED_AT))}
        closest, price = min(
            ((subnet, prices.price(subnet)) for subnet in candidates), key=lambda pair: (self.excess(pair[1]), str(pair[0]))
        )
        if not self.allows(price):
            wanted = ", ".join(f"{UNITS[name]} {limit:g}" for name, limit in self.limits().items())
            spent = ", ".join(f"{UNITS[name]} {price.value(name):.4g}" for name in self.limits())
            raise ProXError(f"no member is within the budget ({wanted}); the closest has {spent}: {closest}")
        return closest

    def nearest(self, ranks: Mapping[str, Sequence[int]], prices: Prices) -> Subnet:
        """The member of these ``ranks``, see ``SearchSpace.nearest``; where it costs too much, rank after rank is lowered.

        Which one is drawn, but always the same for the same ranks. What no budget allows becomes the smallest member.
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
