"""What is elastic in a family of nnU-Net's U-Nets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai_prox.errors import ProXError
from monai_prox.families.choices import QUARTERS, check_fractions, check_numbers, read_choices, width_fractions

LARGEST_KERNEL = 15


@dataclass(frozen=True, kw_only=True)
class UNetChoices:
    """What is elastic in a family of U-Nets, relative to a plan: by default the width alone, in quarters of the plan's.

    The largest member is the plan's own network, unless a kernel is larger than the plan's.

    Args:
        depth: number of blocks per stage. "thirds" stands for a third, two thirds and all of the plan's blocks, "all" for every
            number from one, "full" for the plan's number only.
        width: fractions of the plan's features per stage, ascending. The last one is 1. None means 1/2, 3/4 and 1, and 1/4 if
            that leaves at least 4 features in the first stage.
        kernel: odd kernel sizes, ascending. The last one is the plan's or larger. None means the plan's only. Axes with a
            planned kernel of 1 keep it. In 3D a kernel of 5 costs 4.6 times the MACs of a kernel of 3.
        levels: number of lowest U-Net levels that may be missing. At least two levels stay.
        resolution: fractions of the plan's resolution, ascending. The last one is 1. Axes with a first kernel of 1, those of
            thick slices, keep their resolution.

    Raises:
        ProXError: a value is out of range.

    >>> UNetChoices(depth="thirds", width=(0.5, 1.0)).resolution
    (1.0,)
    """

    depth: str = "full"
    width: tuple[float, ...] | None = None
    kernel: tuple[int, ...] | None = None
    levels: int = 0
    resolution: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.depth not in ("thirds", "all", "full"):
            raise ProXError(f"depth is {self.depth!r:.80}; allowed: 'thirds', 'all', 'full'")
        for name, values in {"width": QUARTERS if self.width is None else self.width, "resolution": self.resolution}.items():
            check_fractions(name, values)
        if self.kernel is not None:
            check_numbers("kernel", self.kernel)
        if self.kernel is not None and (not self.kernel or any(k % 2 != 1 or k < 1 for k in self.kernel)):
            raise ProXError(f"kernel sizes must be odd, got {list(self.kernel)!s:.80}")
        if self.kernel is not None and max(self.kernel) > LARGEST_KERNEL:
            raise ProXError(f"kernel sizes can be {LARGEST_KERNEL} at most, got {list(self.kernel)!s:.80}")
        if not isinstance(self.levels, int) or self.levels < 0:
            raise ProXError(f"levels counts the levels that may be missing, got {self.levels!s:.80}")

    def fractions(self, features: int) -> tuple[float, ...]:
        """The fractions of the plan's features, ascending.

        Args:
            features: the plan's features in the first stage.

        >>> UNetChoices().fractions(32), UNetChoices().fractions(8)
        ((0.25, 0.5, 0.75, 1.0), (0.5, 0.75, 1.0))
        """
        return width_fractions(self.width, features)

    @classmethod
    def from_json(cls, data: Any) -> UNetChoices:
        """The choices that a configuration asks for.

        Args:
            data: a name of CHOICES, or an object with some of the fields above.

        Raises:
            ProXError: the name is unknown, or a field is unknown, has another type or is out of range.

        >>> UNetChoices.from_json({"width": [0.5, 1], "levels": 1}).width
        (0.5, 1)
        """
        return read_choices(cls, data, CHOICES, lists=("width", "kernel", "resolution"))


PAPER_CHOICES = UNetChoices(depth="all", width=(0.5, 1.0), kernel=(3, 5))
CHOICES: Mapping[str, UNetChoices] = {"default": UNetChoices(), "paper": PAPER_CHOICES}
