"""MobileNetV3 for classification: torchvision's own network with another ``inverted_residual_setting`` per member.

The layout is MobileNetV3-Large's (Howard et al., ICCV 2019, table 1), with all stages of the same depth, as Once-for-all
(Cai et al., ICLR 2020) and ProX (Lim et al., Neurocomputing 2024) have it. Every member is plain data, see
``MobileNetFamily.architecture_of``, which is what makes members stock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import _make_divisible
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig, MobileNetV3

from monai_prox.core.layers import Layer, convolution, strided, weightless
from monai_prox.core.slicing import Region, corner
from monai_prox.core.space import Need, SearchSpace, Slot, Subnet, Value
from monai_prox.errors import ProXError
from monai_prox.families.choices import MOST_CHOICES, read_choices

MOST = {"depth": 8, "expansion": 64, "kernel": 63, "resolution": 2048}  # of choices; others are not meant
DIVISOR = 8  # of all widths, torchvision's
STRIDE = 32  # of the whole network
FEATURE = re.compile(r"^features\.(\d+)(.*)$")
HEAD = 2  # the stem and the first block, which is never left out


class _Stage(NamedTuple):
    """width: of the full network; stride: of the first block; squeeze: and excitation; activation: torchvision's name of it."""

    width: int
    stride: int
    squeeze: bool
    activation: str


STEM = 16
STAGES = (
    _Stage(24, 2, False, "RE"),
    _Stage(40, 2, True, "RE"),
    _Stage(80, 2, False, "HS"),
    _Stage(112, 1, True, "HS"),
    _Stage(160, 2, True, "HS"),
)
WIDENED = 6  # times the last stage's width before pooling
LAST = 1280  # features between the two layers of the classifier
SQUEEZE = 4  # of squeeze and excitation: inner channels to those between its two layers


@dataclass(frozen=True, kw_only=True)
class MobileNetChoices:
    """What is elastic. The last of each is the largest member's.

    depth: blocks of a stage, each stage by itself.
    expansion: ratio of a block's inner channels to its input's, above 1, each block by itself.
    kernel: odd sizes of the depthwise convolutions, each block by itself.
    width: fractions of the channels between blocks, ending in 1, each stage by itself, in multiples of 8.
    resolution: pixels per axis at which an image is worked on; images are brought to the last of them.
    """

    depth: tuple[int, ...] = (1, 2, 3)
    expansion: tuple[int, ...] = (3, 4, 6)
    kernel: tuple[int, ...] = (3, 5, 7)
    width: tuple[float, ...] = (0.5, 0.75, 1.0)
    resolution: tuple[int, ...] = (160, 192, 224)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            values = getattr(self, name)
            whole = name == "width" or all(type(value) is int for value in values)
            if not values or not whole or list(values) != sorted(set(values)) or not all(value > 0 for value in values):
                kind = "numbers" if name == "width" else "whole numbers"
                raise ProXError(f"{name} must be positive, ascending {kind}, got {list(values)!s:.80}")
            if name in MOST and values[-1] > MOST[name]:
                raise ProXError(f"{name} can be {MOST[name]} at most, got {list(values)!s:.80}")
            if len(values) > MOST_CHOICES:
                raise ProXError(f"{name} has {len(values)} choices, at most {MOST_CHOICES} are allowed")
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
        """From a name of CHOICES or an object with some of the fields above. Raises ProXError."""
        return read_choices(cls, data, CHOICES, lists=("depth", "expansion", "kernel", "width", "resolution"))


PAPER_CHOICES = MobileNetChoices(width=(0.5, 1.0))
CHOICES: Mapping[str, MobileNetChoices] = {"default": MobileNetChoices(), "paper": PAPER_CHOICES}


class MobileNetFamily:
    """All subnets of a MobileNetV3 with stages of the deepest choice.

    input_channels: 1 or 3. num_classes: at least 2.
    open: of a family whose last choices were closed, how many remain by dimension, see ``SearchSpace.narrow``.

    Raises ProXError for other numbers and for choices that leave no legal member.
    """

    def __init__(
        self,
        *,
        input_channels: int,
        num_classes: int,
        choices: MobileNetChoices = MobileNetChoices(),
        open: Mapping[str, int] | None = None,
    ) -> None:
        if input_channels not in (1, 3):
            raise ProXError(f"images have 1 or 3 channels, got {input_channels}")
        if num_classes < 2:
            raise ProXError(f"there must be 2 classes at least, got {num_classes}")
        self.input_channels, self.num_classes, self.choices = input_channels, num_classes, choices
        self.space = self._space().narrow(open or {})

    # ------------------------------------------------------------------ the space
    def _space(self) -> SearchSpace:
        c = self.choices

        def widths(full: int) -> tuple[Value, ...]:
            return tuple(sorted({InvertedResidualConfig.adjust_channels(full, fraction) for fraction in c.width}))

        def of_block(stage: int, block: int, choices: Sequence[Value]) -> Slot:
            need = Need("depth", stage, block + 1) if block >= c.depth[0] else None
            return Slot(choices=tuple(choices), need=need)

        def between(stage: int) -> Slot:
            # A first block that neither strides nor changes the width would get a residual connection.
            return Slot(choices=widths(STAGES[stage].width), differs=stage if STAGES[stage].stride == 1 else None)

        blocks = [(stage, block) for stage in range(len(STAGES)) for block in range(c.depth[-1])]
        return SearchSpace(
            {
                "resolution": (Slot(choices=c.resolution),),
                "depth": tuple(Slot(choices=c.depth) for _ in STAGES),
                "width": (Slot(choices=widths(STEM)), *map(between, range(len(STAGES)))),
                "expansion": tuple(of_block(stage, block, c.expansion) for stage, block in blocks),
                "kernel": tuple(of_block(stage, block, c.kernel) for stage, block in blocks),
            }
        )

    # ------------------------------------------------------------------ building members
    def architecture_of(self, subnet: Subnet) -> dict[str, Any]:
        """The subnet's network as plain data, for ``build_network``: a block is torchvision's InvertedResidualConfig."""
        self.space.check(subnet)
        stem, *widths = (int(width) for width in subnet["width"])
        blocks: list[list[Any]] = [[stem, 3, stem, stem, False, "RE", 1]]
        channels, deepest = stem, self.choices.depth[-1]
        for index, (stage, depth, width) in enumerate(zip(STAGES, subnet["depth"], widths, strict=True)):
            for block in range(int(depth)):
                slot = index * deepest + block
                inner, kernel = int(channels * subnet["expansion"][slot]), int(subnet["kernel"][slot])
                stride = stage.stride if block == 0 else 1
                blocks.append([channels, kernel, inner, width, stage.squeeze, stage.activation, stride])
                channels = width
        return {
            "network": "MobileNetV3",
            "input_channels": self.input_channels,
            "num_classes": self.num_classes,
            "last_channel": LAST,
            "blocks": blocks,
        }

    def build(self, subnet: Subnet, *, initialise: bool = True) -> nn.Module:
        """The subnet's stock network, initialised as torchvision does, but with residual blocks that start as the identity.

        A block born into a trained network then passes its input on (Goyal et al., 2017, section 5.1).
        """
        if not initialise:  # torchvision's initialisation takes longer than a forward pass
            device = torch.get_default_device()
            with torch.device("meta"):
                network = build_network(self.architecture_of(subnet))
            return network if device.type == "meta" else network.to_empty(device=device)
        network = build_network(self.architecture_of(subnet))
        for block in network.modules():
            if isinstance(block, InvertedResidual) and block.use_res_connect:
                nn.init.zeros_(block.block[-1][1].weight)
        return network

    def layers(self, subnet: Subnet, size: Sequence[int] | None = None) -> Iterator[Layer]:
        """See ``Family``."""
        architecture, whole = self.architecture_of(subnet), self.choices.resolution[-1]
        side = self.input_size((whole, whole) if size is None else size, subnet["resolution"][0])
        channels = self.input_channels

        def pointwise(outputs: int, kept: int = 0) -> Layer:
            return convolution(channels, outputs, (1, 1), side, live=kept + (channels + outputs) * prod(side), norm=True)

        def pooled(inputs: int, outputs: int, kept: int = 0) -> Layer:
            return convolution(inputs, outputs, (1,), (1,), live=kept + inputs + outputs, bias=True)

        before, side, outputs = side, strided(side, (2, 2)), architecture["blocks"][0][0]
        live = channels * prod(before) + outputs * prod(side)
        yield convolution(channels, outputs, (3, 3), side, live=live, norm=True)
        channels = outputs
        for inputs, kernel, inner, outputs, squeeze, _, stride in architecture["blocks"]:
            residual = inputs * prod(side) if stride == 1 and inputs == outputs else 0
            if inner != inputs:
                yield pointwise(inner)  # its input is the residual
                channels = inner
            kept = residual if inner != inputs else 0
            before, side = side, strided(side, (stride, stride))
            live = kept + inner * (prod(before) + prod(side))
            yield convolution(inner, inner, (kernel, kernel), side, live=live, norm=True, groups=inner)
            if squeeze:
                squeezed, kept = _make_divisible(inner // SQUEEZE, DIVISOR), residual + inner * prod(side)
                yield weightless(kept + inner)
                yield pooled(inner, squeezed, kept)
                yield pooled(squeezed, inner, kept)
            yield pointwise(outputs, residual)
            channels = outputs
        yield pointwise(WIDENED * channels)
        channels *= WIDENED
        yield weightless(channels * (prod(side) + 1))
        yield pooled(channels, LAST)
        yield pooled(LAST, self.num_classes)

    def synchronise(self, skeleton: nn.Module, network: nn.Module) -> None:
        """There is nothing to switch."""

    # ------------------------------------------------------------------ where weights live
    @cached_property
    def _largest_depths(self) -> tuple[Value, ...]:
        return self.space.largest()["depth"]

    def _place(self, feature: int, depths: Sequence[Value]) -> tuple[int, int] | None:
        """Stage and block of an entry of ``features`` in a network of these depths; None outside of the stages."""
        feature -= HEAD
        for stage, depth in enumerate(depths):
            if 0 <= feature < depth:
                return stage, feature
            feature -= int(depth)
        return None

    @cached_property
    def _largest_shapes(self) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            network = self.build(self.space.largest(), initialise=False)
        return {name: tuple(tensor.shape) for name, tensor in [*network.named_parameters(), *network.named_buffers()]}

    def locate(self, name: str, shape: tuple[int, ...], subnet: Subnet) -> tuple[str, Region]:
        if (match := FEATURE.match(name)) and int(match[1]) >= HEAD:  # entries shift where blocks are missing
            place = self._place(int(match[1]), subnet["depth"])
            before = self._largest_depths if place is None else self._largest_depths[: place[0]]
            name = f"features.{HEAD + int(sum(before)) + (0 if place is None else place[1])}{match[2]}"
        return name, tuple(corner(name, shape, self._largest_shapes.get(name), subnet))

    def output_axis(self, name: str) -> int:
        return 0

    def passes_through(self, name: str) -> int | None:
        return None

    def group(self, name: str) -> str:
        match = FEATURE.match(name)
        place = match and self._place(int(match[1]), self._largest_depths)
        return f"stage {place[0]}" if place else ".".join(name.split(".")[:2])

    # ------------------------------------------------------------------ running
    @property
    def divisor(self) -> tuple[int, ...]:
        """Any size will do."""
        return (1, 1)

    def input_size(self, size: Sequence[int], resolution: float) -> tuple[int, ...]:
        """The size per axis, in pixels, at which a member of ``resolution`` works on an image of ``size``.

        Raises ProXError where that is less than the network's stride.
        """
        working = tuple(round(length * resolution / self.choices.resolution[-1]) for length in size)
        if min(working) < STRIDE:
            raise ProXError(
                f"an image of {'x'.join(map(str, size))} pixels is worked on at {'x'.join(map(str, working))} by a member of "
                f"resolution {resolution}; the network's stride needs {STRIDE}"
            )
        return working

    def run(self, network: Callable[[Tensor], Any], x: Tensor, subnet: Subnet) -> Any:
        """x: (B, C, H, W) -> logits (B, classes)."""
        working = self.input_size(x.shape[2:], subnet["resolution"][0])
        if working != tuple(x.shape[2:]):
            x = F.interpolate(x, working, mode="bilinear", align_corners=False, antialias=True)
        return network(x)


def build_network(architecture: Mapping[str, Any]) -> nn.Module:
    """torchvision's MobileNetV3 from plain data, see ``MobileNetFamily.architecture_of``. Raises ProXError for other data."""
    try:
        blocks = [
            InvertedResidualConfig(*map(int, of[:4]), bool(of[4]), str(of[5]), int(of[6]), 1, 1.0)
            for of in architecture["blocks"]
        ]
        channels = int(architecture["input_channels"])
        network: nn.Module = MobileNetV3(blocks, int(architecture["last_channel"]), int(architecture["num_classes"]))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ProXError(f"not the architecture of a MobileNetV3: {error!r}, in {architecture!r:.120}") from error
    if channels != 3:  # torchvision's stem is for colour images
        stem: Any = network.get_submodule("features.0")
        stem[0] = nn.Conv2d(channels, stem[0].out_channels, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(stem[0].weight, mode="fan_out")
    return network
