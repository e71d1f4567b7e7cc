"""What is elastic in a family of nnU-Net's U-Nets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai_prox.errors import ProXError
from monai_prox.families.choices import MOST_CHOICES, read_choices

LARGEST_KERNEL = 15


@dataclass(frozen=True, kw_only=True)
class UNetChoices:
    """What is elastic, relative to a plan. The defaults' largest member is the plan's own network.

    depth: "thirds" for a third, two thirds and all of each stage's blocks (ResEnc plans have up to six), "all" for every
        number from one, "full" for the plan's own only.
    width: fractions of the plan's features per stage, ending in 1.
    kernel: odd kernel sizes, ending in the plan's or more; None for the plan's own only. Axes on which the plan's kernel is
        1 stay at 1. Five instead of three everywhere costs 4.6 times the MACs in 3D.
    levels: how many of the lowest U-Net levels may be missing, e.g. 1 for {n - 1, n}; 0 for none. At least two stay.
    resolution: fractions of the plan's resolution, ending in 1. Axes on which the plan's first kernel is 1, those of thick
        slices, keep theirs.
    """

    depth: str = "thirds"
    width: tuple[float, ...] = (0.5, 0.75, 1.0)
    kernel: tuple[int, ...] | None = None
    levels: int = 1
    resolution: tuple[float, ...] = (0.75, 1.0)

    def __post_init__(self) -> None:
        if self.depth not in ("thirds", "all", "full"):
            raise ProXError(f"depth is {self.depth!r:.80}; allowed: 'thirds', 'all', 'full'")
        for name in ("width", "resolution"):
            values = getattr(self, name)
            in_order = list(values) == sorted(set(values)) and all(0 < value <= 1 for value in values)
            if not values or not in_order or values[-1] != 1:
                raise ProXError(f"{name} must be ascending fractions that end in 1, got {list(values)!s:.80}")
            if len(values) > MOST_CHOICES:
                raise ProXError(f"{name} has {len(values):,} choices, at most {MOST_CHOICES} are allowed")
        if self.kernel is not None and (not self.kernel or any(k % 2 != 1 or k < 1 for k in self.kernel)):
            raise ProXError(f"kernel sizes must be odd, got {list(self.kernel)!s:.80}")
        if self.kernel is not None and max(self.kernel) > LARGEST_KERNEL:
            raise ProXError(f"kernel sizes can be {LARGEST_KERNEL} at most, got {list(self.kernel)!s:.80}")
        if not isinstance(self.levels, int) or self.levels < 0:
            raise ProXError(f"levels counts the levels that may be missing, got {self.levels!s:.80}")

    @classmethod
    def from_json(cls, data: Any) -> UNetChoices:
        """From a name of CHOICES or an object with some of the fields above, as a plan may carry it. Raises ProXError."""
        return read_choices(cls, data, CHOICES, lists=("width", "kernel", "resolution"))


PAPER_CHOICES = UNetChoices(depth="all", width=(0.5, 1.0), kernel=(3, 5), levels=0, resolution=(1.0,))
CHOICES: Mapping[str, UNetChoices] = {"default": UNetChoices(), "paper": PAPER_CHOICES}
