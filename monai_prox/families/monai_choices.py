"""What is elastic in a family of MONAI's networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from monai_prox.errors import ProXError
from monai_prox.families.choices import check_fractions, check_numbers, read_choices


@dataclass(frozen=True, kw_only=True)
class MONAIChoices:
    """What is elastic in a family of MONAI's networks: by default the features of each level, and nothing else.

    Args:
        width: fractions of the network's features, ascending. The last one is 1. None means 1/2, 3/4 and 1, and 1/4 if that
            leaves at least 4 features in the first level.
        depth: "full", or "all" for 1 block to as many as the network has: ``num_res_units`` of UNet, ``blocks_down`` and
            ``blocks_up`` of SegResNet and SegResNetDS.
        levels: number of lowest levels that may be missing, of DynUNet, SegResNet and SegResNetDS. At least two
            levels stay, and of DynUNet three.
        kernel: odd sizes, ascending, that cut the kernels in ``kernel_size``. The last one is the largest that the network has.
            None means that kernels have one size.

    Raises:
        ProXError: a value is out of range.

    >>> MONAIChoices(width=(0.5, 1))
    MONAIChoices(width=(0.5, 1), depth='full', levels=0, kernel=None)
    """

    width: tuple[float, ...] | None = None
    depth: Literal["full", "all"] = "full"
    levels: int = 0
    kernel: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.width is not None:
            check_fractions("width", self.width)
        if self.depth not in ("full", "all"):
            raise ProXError(f"depth is {self.depth!r:.80}; allowed: full, all")
        if type(self.levels) is not int or self.levels < 0:
            raise ProXError(f"levels counts the levels that may be missing, got {self.levels!r:.80}")
        if self.levels and self.depth == "all":
            raise ProXError("either levels or depth can be elastic, not both")
        if self.kernel is not None:
            check_numbers("kernel", self.kernel)
            odd = all(type(size) is int and size > 0 and size % 2 for size in self.kernel)
            if not self.kernel or not odd or list(self.kernel) != sorted(set(self.kernel)):
                raise ProXError(f"kernel is {list(self.kernel)!s:.80}; it must be ascending odd numbers")

    @classmethod
    def from_json(cls, data: Any) -> MONAIChoices:
        """The choices that a configuration asks for.

        Args:
            data: "default", or an object with some of the fields above.

        Raises:
            ProXError: the name is unknown, or a field is unknown, has another type or is out of range.
        """
        return read_choices(cls, data, {"default": cls()}, lists=("width", "kernel"))
