"""What is elastic in a family of MobileNetV3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai_prox.errors import ProXError
from monai_prox.families.choices import check_numbers, read_choices

MOST = {"depth": 8, "expansion": 64, "kernel": 63, "resolution": 2048}  # larger choices are mistakes
STRIDE = 32  # of the whole network


@dataclass(frozen=True, kw_only=True)
class MobileNetChoices:
    """What is elastic in a family of MobileNetV3. The last value of each field is the largest member's.

    Args:
        depth: number of blocks, for each stage.
        expansion: ratio of a block's inner channels to its input channels, above 1, for each block.
        kernel: odd sizes of the depthwise convolutions, for each block.
        width: fractions of the channels between blocks, for each stage. The last one is 1. Channels are multiples of 8.
        resolution: pixels per axis of the network's input. Images are resized to the largest one first.

    Raises:
        ProXError: a value is out of range.

    >>> MobileNetChoices(width=(0.5, 1.0), resolution=(32, 64)).resolution
    (32, 64)
    """

    depth: tuple[int, ...] = (1, 2, 3)
    expansion: tuple[int, ...] = (3, 4, 6)
    kernel: tuple[int, ...] = (3, 5, 7)
    width: tuple[float, ...] = (0.5, 0.75, 1.0)
    resolution: tuple[int, ...] = (160, 192, 224)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            values = getattr(self, name)
            check_numbers(name, values)
            integers = name == "width" or all(type(value) is int for value in values)
            if not values or not integers or list(values) != sorted(set(values)) or not all(value > 0 for value in values):
                kind = "numbers" if name == "width" else "whole numbers"
                raise ProXError(f"{name} must be positive, ascending {kind}, got {list(values)!s:.80}")
            if name in MOST and values[-1] > MOST[name]:
                raise ProXError(f"{name} can be {MOST[name]} at most, got {list(values)!s:.80}")
        if self.width[-1] != 1:
            raise ProXError(f"width must be ascending fractions that end in 1, got {list(self.width)}")
        if self.expansion[0] < 2:
            raise ProXError(f"expansion must be at least 2, got {list(self.expansion)}")
        if any(size % 2 == 0 for size in self.kernel):
            raise ProXError(f"kernel sizes must be odd, got {list(self.kernel)}")
        if self.resolution[0] < STRIDE:
            raise ProXError(f"resolution must be at least the network's stride of {STRIDE} pixels, got {list(self.resolution)}")

    @classmethod
    def from_json(cls, data: Any) -> MobileNetChoices:
        """The choices that a configuration asks for.

        Args:
            data: a name of CHOICES, or an object with some of the fields above.

        Raises:
            ProXError: the name is unknown, or a field is unknown, has another type or is out of range.

        >>> MobileNetChoices.from_json("paper").width
        (0.5, 1.0)
        """
        return read_choices(cls, data, CHOICES, lists=("depth", "expansion", "kernel", "width", "resolution"))


PAPER_CHOICES = MobileNetChoices(width=(0.5, 1.0))
CHOICES: Mapping[str, MobileNetChoices] = {"default": MobileNetChoices(), "paper": PAPER_CHOICES}
