"""What a case would take by the named members of a plan, on a device that was measured before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from monai_prox.cli.terminal import console, say

if TYPE_CHECKING:
    from monai_prox.latency.case import CaseCosts
    from monai_prox.nnunet.plan_entry import PlannedTraining
    from monai_prox.runtime.grid import ImageSize
    from monai_prox.search.budget import Budget
    from monai_prox.trained.family_file import NamedMember


@dataclass(frozen=True)
class PlannedCases:
    """The costs of a case by the members of a plan, and what they may be."""

    costs: CaseCosts
    budget: Budget

    @classmethod
    def read(
        cls,
        planned: PlannedTraining,
        profile: Path,
        size: ImageSize | None,
        *,
        max_seconds: float | None,
        max_ram_gb: float | None,
    ) -> PlannedCases:
        """size: of the case, None for the plan's median.

        Raises ProXError for a device's file that is none, is of another family, or does not have what is asked for, and for a
        limit that is not above 0.
        """
        from monai_prox.latency.case import CaseCosts
        from monai_prox.latency.device import Device
        from monai_prox.nnunet.planned_family import PlannedFamily
        from monai_prox.search.budget import Budget

        budget, source = Budget(seconds=max_seconds, ram_gb=max_ram_gb), PlannedFamily(planned)
        device = Device.read(profile, planned.engine.supernet.family, source.size)
        costs = CaseCosts.of(source, device, size)
        costs.check_known(budget.limits())
        return cls(costs, budget)

    def show(self, members: Sequence[NamedMember]) -> None:
        """Prints a table of the members, and which of them are within the budget."""
        from monai_prox.search.budget import UNITS, Prices

        device, limited = self.costs.device, bool(self.budget.limits())
        prices, within = Prices(device.family, device.size, device, self.costs), list[str]()
        table = Table(title=f"A case of {self.costs.size}")
        table.add_column("member", no_wrap=True)
        for heading in ("tiles", UNITS["latency_ms"], UNITS["seconds"], UNITS["ram_gb"], *["within"] * limited):
            table.add_column(heading, justify="right")
        for member in members:
            price = prices.price(member.subnet)
            allowed = self.budget.allows(price)
            costs = ["-" if cost is None else f"{cost:.3g}" for cost in (price.latency_ms, price.seconds, price.ram_gb)]
            table.add_row(member.name, str(self.costs.tiles(member.subnet)), *costs, *["yes" if allowed else "no"] * limited)
            within += [member.name] * allowed
        console.print(table)
        if limited:
            say(f"Within the budget: {', '.join(within) or 'none of these members'}")
        say(
            f"{device.name}: latency predicted within {device.held_out_error:.1%} (median, of members left out), beside the "
            f"network within {self.costs.parts.held_out_error:.1%} (median, of sizes left out)"
        )
