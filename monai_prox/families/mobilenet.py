"""MobileNetV3 for classification: torchvision's own network with another ``inverted_residual_setting`` per member.

The layout is that of MobileNetV3-Large (Howard et al., ICCV 2019, table 1), but all stages have the same depth, as in
Once-for-all (Cai et al., ICLR 2020) and ProX (Lim et al., Neurocomputing 2024). Every member is plain data, see
``MobileNetFamily.architecture_of``, so every member is a stock network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import _make_divisible
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig, MobileNetV3

from monai_prox.core.initialisation import Uninitialised
from monai_prox.core.layers import Layer, convolution, strided, weightless
from monai_prox.core.slicing import Region, corner
from monai_prox.core.slots import Need, Slot, Value
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.errors import ProXError
from monai_prox.families.mobilenet_choices import STRIDE, MobileNetChoices

DIVISOR = 8  # of all widths, as in torchvision
FEATURE = re.compile(r"^features\.(\d+)(.*)$")
HEAD = 2  # the stem and the first block, which is never left out


class _Stage(NamedTuple):
    """A stage of the full network.

    Args:
        width: output channels.
        stride: of the first block.
        squeeze: whether blocks have squeeze and excitation.
        activation: torchvision's name of the activation.
    """

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
WIDENED = 6  # ratio of the width before pooling to the last stage's width
LAST = 1280  # features between the two layers of the classifier
SQUEEZE = 4  # ratio of a block's inner channels to those between the two layers of squeeze and excitation


class MobileNetFamily:
    """All subnets of a MobileNetV3 whose stages have the deepest choice.

    Args:
        input_channels: 1 or 3.
        num_classes: at least 2.
        choices: what is elastic.
        open: number of choices that remain of each dimension whose last choices were closed, see ``SearchSpace.narrow``. None
            means that all remain.

    Raises:
        ProXError: a number is out of range, or the choices leave no legal member.

    >>> family = MobileNetFamily(input_channels=1, num_classes=4, choices=MobileNetChoices(resolution=(32, 64)))
    >>> network = family.build(family.space.smallest())
    >>> network(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 4])
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

        def block_slot(stage: int, block: int, choices: Sequence[Value]) -> Slot:
            need = Need("depth", stage, block + 1) if block >= c.depth[0] else None
            return Slot(choices=tuple(choices), need=need)

        def width_slot(stage: int) -> Slot:
            # A first block without a stride has another width than its input, or it would get a residual connection.
            return Slot(choices=widths(STAGES[stage].width), differs=stage if STAGES[stage].stride == 1 else None)

        blocks = [(stage, block) for stage in range(len(STAGES)) for block in range(c.depth[-1])]
        return SearchSpace(
            {
                "resolution": (Slot(choices=c.resolution),),
                "depth": tuple(Slot(choices=c.depth) for _ in STAGES),
                "width": (Slot(choices=widths(STEM)), *map(width_slot, range(len(STAGES)))),
                "expansion": tuple(block_slot(stage, block, c.expansion) for stage, block in blocks),
                "kernel": tuple(block_slot(stage, block, c.kernel) for stage, block in blocks),
            }
        )

    # ------------------------------------------------------------------ building members
    def architecture_of(self, subnet: Subnet) -> dict[str, Any]:
        """The network of a member as plain data, for ``build_network``. A block is a torchvision InvertedResidualConfig.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """
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
        """The stock network of a member. Its residual blocks are the identity at the start.

        All other layers are initialised by torchvision. A block that is added to a trained network then passes its input on
        (Goyal et al., 2017, section 5.1).

        Args:
            subnet: the member.
            initialise: whether the weights are initialised. If not, they may have any values.

        Raises:
            ProXError: the subnet is not a member.
        """
        if not initialise:  # torchvision's initialisation takes longer than a forward pass
            device = torch.get_default_device()
            with torch.device("meta"), Uninitialised():
                network = build_network(self.architecture_of(subnet))
            return network if device.type == "meta" else network.to_empty(device=device)
        network = build_network(self.architecture_of(subnet))
        for block in network.modules():
            if isinstance(block, InvertedResidual) and block.use_res_connect:
                nn.init.zeros_(block.block[-1][1].weight)
        return network

    def layers(self, subnet: Subnet, size: Sequence[int] | None = None) -> Iterator[Layer]:
        """The layers of a member's network. See ``Family.layers``."""
        architecture, full = self.architecture_of(subnet), self.choices.resolution[-1]
        side = self.input_size((full, full) if size is None else size, subnet["resolution"][0])
        channels = self.input_channels

        def pointwise(outputs: int, waiting: int = 0) -> Layer:
            return convolution(channels, outputs, (1, 1), side, live=waiting + (channels + outputs) * prod(side), norm=True)

        def pooled(inputs: int, outputs: int, waiting: int = 0) -> Layer:
            return convolution(inputs, outputs, (1,), (1,), live=waiting + inputs + outputs, bias=True)

        side_before, side, outputs = side, strided(side, (2, 2)), architecture["blocks"][0][0]
        live = channels * prod(side_before) + outputs * prod(side)
        yield convolution(channels, outputs, (3, 3), side, live=live, norm=True)
        channels = outputs
        for inputs, kernel, inner, outputs, squeeze, _, stride in architecture["blocks"]:
            residual = inputs * prod(side) if stride == 1 and inputs == outputs else 0
            if inner != inputs:
                yield pointwise(inner)  # its input is the residual
                channels = inner
            waiting = residual if inner != inputs else 0
            side_before, side = side, strided(side, (stride, stride))
            live = waiting + inner * (prod(side_before) + prod(side))
            yield convolution(inner, inner, (kernel, kernel), side, live=live, norm=True, groups=inner)
            if squeeze:
                squeezed, waiting = _make_divisible(inner // SQUEEZE, DIVISOR), residual + inner * prod(side)
                yield weightless(waiting + inner)
                yield pooled(inner, squeezed, waiting)
                yield pooled(squeezed, inner, waiting)
            yield pointwise(outputs, residual)
            channels = outputs
        yield pointwise(WIDENED * channels)
        channels *= WIDENED
        yield weightless(channels * (prod(side) + 1))
        yield pooled(channels, LAST)
        yield pooled(LAST, self.num_classes)

    def synchronise(self, skeleton: nn.Module, network: nn.Module) -> None:
        """Does nothing, because there are no switches. See ``Family.synchronise``."""

    # ------------------------------------------------------------------ where weights live
    @cached_property
    def _largest_depths(self) -> tuple[Value, ...]:
        return self.space.largest()["depth"]

    def _place(self, feature: int, depths: Sequence[Value]) -> tuple[int, int] | None:
        """Stage and block of an entry of ``features`` in a network of these depths; None for an entry outside of the stages."""
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
        """The place of a member's tensor in the largest network. See ``Family.locate``."""
        if (match := FEATURE.match(name)) and int(match[1]) >= HEAD:  # missing blocks shift the numbers of entries
            place = self._place(int(match[1]), subnet["depth"])
            depths_before = self._largest_depths if place is None else self._largest_depths[: place[0]]
            name = f"features.{HEAD + int(sum(depths_before)) + (0 if place is None else place[1])}{match[2]}"
        return name, tuple(corner(name, shape, self._largest_shapes.get(name), subnet))

    def output_axis(self, name: str) -> int:
        """The axis of output channels, which is 0 for all weights. See ``Family.output_axis``."""
        return 0

    def passes_through(self, name: str) -> int | None:
        """None, because residual blocks are the identity at the start. See ``Family.passes_through``."""
        return None

    def group(self, name: str) -> str:
        """The stage that a tensor belongs to. See ``Family.group``."""
        match = FEATURE.match(name)
        place = match and self._place(int(match[1]), self._largest_depths)
        return f"stage {place[0]}" if place else ".".join(name.split(".")[:2])

    # ------------------------------------------------------------------ running
    @property
    def divisor(self) -> tuple[int, ...]:
        """One per axis, because images may have any size."""
        return (1, 1)

    def input_size(self, size: Sequence[int], resolution: float) -> tuple[int, ...]:
        """The size at which a member works on an image.

        Args:
            size: pixels per axis of the image.
            resolution: the member's value of the dimension ``resolution``.

        Raises:
            ProXError: the result is less than the network's stride of 32.
        """
        working = tuple(round(length * resolution / self.choices.resolution[-1]) for length in size)
        if min(working) < STRIDE:
            raise ProXError(
                f"an image of {'x'.join(map(str, size))} pixels is worked on at {'x'.join(map(str, working))} by a member of "
                f"resolution {resolution}; the network's stride needs {STRIDE}"
            )
        return working

    def run(self, network: Callable[[Tensor], Any], x: Tensor, subnet: Subnet) -> Any:
        """Runs a member's network at the member's resolution.

        Args:
            network: the member's network.
            x: (B, C, H, W).
            subnet: the member.

        Returns:
            Logits (B, classes).

        Raises:
            ProXError: the images are too small.
        """
        working = self.input_size(x.shape[2:], subnet["resolution"][0])
        if working != tuple(x.shape[2:]):
            x = F.interpolate(x, working, mode="bilinear", align_corners=False, antialias=True)
        return network(x)


def build_network(architecture: Mapping[str, Any]) -> nn.Module:
    """torchvision's MobileNetV3 from plain data.

    Args:
        architecture: what ``MobileNetFamily.architecture_of`` returned.

    Raises:
        ProXError: the data is something else.
    """
    try:
        blocks = [
            InvertedResidualConfig(*map(int, block[:4]), bool(block[4]), str(block[5]), int(block[6]), 1, 1.0)
            for block in architecture["blocks"]
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
