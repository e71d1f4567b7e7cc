"""nnU-Net's U-Nets: PlainConvUNet and ResidualEncoderUNet, 2D and 3D, isotropic and anisotropic.

The family is derived from the ``architecture`` entry of an nnU-Net plan. Every member is again such an entry, see
``UNetFamily.architecture_of``, so every member is a stock network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_prox.core.initialisation import Uninitialised
from monai_prox.core.layers import Layer
from monai_prox.core.slicing import Region, corner, halves
from monai_prox.core.slots import Need, Slot, Value
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.errors import ProXError, refusing
from monai_prox.families.architecture import DEPTH_KEY, WHOLE, build_network, checked, kind_of
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.families.unet_layers import unet_layers

STAGE = re.compile(r"^(decoder\.(?:stages|transpconvs|seg_layers)\.)(\d+)(.*)$")
FIRST_DECODER_CONV = re.compile(r"^decoder\.stages\.\d+\.convs\.0\.conv\.weight$")
LATER_CONV = re.compile(r"\.convs\.[1-9]\d*\.conv\.weight$")
MOST_VOXELS = 2**26  # of a patch, 406 per axis; larger values are mistakes


class UNetFamily:
    """All subnets of the network of an nnU-Net plan.

    Args:
        architecture: the plan's ``architecture`` entry (``network_class_name``, ``arch_kwargs``, ``_kw_requires_import``).
        input_channels: number of input channels.
        num_classes: number of output channels as nnU-Net counts them. Regions are included, an ignore label is not.
        patch_size: voxels per axis at full resolution, as in the plan; 2 or 3 axes.
        choices: what is elastic.
        open: number of choices that remain of each dimension whose last choices were closed, see ``SearchSpace.narrow``. None
            means that all remain. Members keep their networks and their resolutions. Only the largest member is another.

    Raises:
        ProXError: the architecture is not one of nnU-Net's two U-Nets, or the choices leave no legal member.

    >>> architecture = {
    ...     "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    ...     "arch_kwargs": {
    ...         "n_stages": 3,
    ...         "features_per_stage": [4, 8, 16],
    ...         "conv_op": "torch.nn.modules.conv.Conv2d",
    ...         "kernel_sizes": [3, 3, 3],
    ...         "strides": [1, 2, 2],
    ...         "n_conv_per_stage": [2, 2, 2],
    ...         "n_conv_per_stage_decoder": [2, 2],
    ...         "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
    ...         "nonlin": "torch.nn.LeakyReLU",
    ...     },
    ...     "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    ... }
    >>> family = UNetFamily(architecture, input_channels=1, num_classes=2, patch_size=(32, 32))
    >>> network = family.build(family.space.largest())
    >>> network(torch.zeros(1, 1, 32, 32)).shape
    torch.Size([1, 2, 32, 32])
    """

    def __init__(
        self,
        architecture: Mapping[str, Any],
        *,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        choices: UNetChoices = UNetChoices(),
        open: Mapping[str, int] | None = None,
    ) -> None:
        self.input_channels, self.num_classes = input_channels, num_classes
        self.choices = choices
        with refusing("the plan's architecture is malformed"):
            self._read(architecture, patch_size)
        self.space = self._space()
        self._check_feature_maps()
        self.space = self.space.narrow(open or {})
        with torch.device("meta"):  # finds arguments that torch's layers refuse
            largest = self.build(self.space.largest(), initialise=False)
        self._largest_shapes = {name: tuple(parameter.shape) for name, parameter in largest.named_parameters()}

    # ------------------------------------------------------------------ reading the plan
    def _read(self, architecture: Mapping[str, Any], patch_size: Sequence[int]) -> None:
        if not isinstance(patch_size, Sequence):
            raise ProXError(f"patch_size is {patch_size!r:.80}; it must be two or three positive whole numbers")
        self.patch_size = tuple(patch_size)
        positive = all(isinstance(size, WHOLE) and not isinstance(size, bool) and size > 0 for size in self.patch_size)
        if len(self.patch_size) not in (2, 3) or not positive or prod(self.patch_size) > MOST_VOXELS:
            raise ProXError(
                f"patch_size is {list(patch_size)!s:.80}; it must be two or three positive whole numbers, at most "
                f"{MOST_VOXELS:,} voxels together"
            )
        self._architecture = checked(architecture, len(self.patch_size))
        self.kind = kind_of(self._architecture)
        self._kwargs = kwargs = self._architecture["arch_kwargs"]
        self._levels = kwargs["n_stages"]
        self._features = kwargs["features_per_stage"]
        self._strides = [tuple(stride) for stride in kwargs["strides"]]
        self._kernels = [tuple(kernel) for kernel in kwargs["kernel_sizes"]]
        self._depths = kwargs[DEPTH_KEY[self.kind]]
        self._decoder_depths = kwargs["n_conv_per_stage_decoder"][::-1]  # top level first
        for level, kernel in enumerate(self._kernels):
            if len(set(kernel) - {1}) > 1:
                raise ProXError(f"the plan's kernel at level {level} is {list(kernel)}; axes other than 1 must agree")

    @cached_property
    def divisor(self) -> tuple[int, ...]:
        """The product of the strides per axis. Input sizes are multiples of it."""
        return tuple(prod(stride[axis] for stride in self._strides) for axis in range(len(self.patch_size)))

    def input_size(self, size: Sequence[int], resolution: float) -> tuple[int, ...]:
        """The size at which a member works on an input.

        Args:
            size: voxels per axis of the input at full resolution.
            resolution: the member's value of the dimension ``resolution``.

        Raises:
            ProXError: the size has another number of axes than the plan's patch.
        """
        if len(size) != len(self.patch_size):
            raise ProXError(f"the size is {list(size)!s:.80}; inputs of this family have {len(self.patch_size)} axes")

        def axis_size(length: int, divisor: int, kernel: int) -> int:
            if resolution == 1 or kernel == 1:
                return length
            return max(1, int(length * resolution / divisor + 0.5)) * divisor

        return tuple(map(axis_size, size, self.divisor, self._kernels[0]))

    def _kernel_value(self, level: int) -> int:
        return int(max(self._kernels[level]))

    # ------------------------------------------------------------------ the space
    def _space(self) -> SearchSpace:
        c, top = self.choices, self._levels
        fewest = max(min(2, top), top - c.levels)

        def slot(level: int, choices: Sequence[Value], levels_needed: int, **ties: int | None) -> Slot:
            need = Need("levels", 0, levels_needed) if levels_needed > fewest else None
            return Slot(choices=tuple(choices), need=need, **ties)

        def depths(full: int) -> list[int]:
            if c.depth == "full":
                return [full]
            return list(range(1, full + 1)) if c.depth == "all" else sorted({-(-full // 3), -(-2 * full // 3), full})

        def widths(level: int) -> list[int]:
            return sorted({max(1, round(fraction * self._features[level])) for fraction in c.fractions(self._features[0])})

        def width_ties(level: int) -> dict[str, int | None]:
            # A residual stage projects its input if, and only if, its width differs from that of the stage above.
            if self.kind != "ResidualEncoderUNet" or level == 0:
                return {}
            equal = self._features[level] == self._features[level - 1]
            return {"equals": level - 1} if equal else {"differs": level - 1}

        def kernels(level: int) -> list[int]:
            planned = self._kernel_value(level)
            if c.kernel is None or planned == 1:
                return [planned]
            if max(c.kernel) < planned:
                raise ProXError(f"kernel {list(c.kernel)} would make the largest member smaller than the plan's, {planned}")
            return sorted(set(c.kernel))

        sizes: dict[tuple[int, ...], float] = {}
        for fraction in c.resolution:  # rounding to the divisor can make two resolutions one
            sizes[self.input_size(self.patch_size, fraction)] = fraction
        return SearchSpace(
            {
                "levels": (Slot(choices=tuple(range(fewest, top + 1))),),
                "resolution": (Slot(choices=tuple(sorted(sizes.values()))),),
                "depth": tuple(slot(s, depths(self._depths[s]), s + 1) for s in range(top)),
                "decoder_depth": tuple(slot(s, depths(self._decoder_depths[s]), s + 2) for s in range(top - 1)),
                "width": tuple(slot(s, widths(s), s + 1, **width_ties(s)) for s in range(top)),
                "kernel": tuple(slot(s, kernels(s), s + 1) for s in range(top)),
            }
        )

    def _check_feature_maps(self) -> None:
        lowest = self.space.dimensions["resolution"][0].choices[0]
        size = list(self.input_size(self.patch_size, lowest))
        for level in range(self._levels):
            size = [length // stride for length, stride in zip(size, self._strides[level], strict=True)]
            largest = self.space.dimensions["kernel"][level].choices[-1]
            fits = all(k == 1 or largest <= length for k, length in zip(self._kernels[level], size, strict=True))
            if not fits and largest > self._kernel_value(level):
                raise ProXError(
                    f"kernel {largest} is larger than the feature map {'x'.join(map(str, size))} of level {level} at "
                    f"resolution {lowest:g}; leave out that kernel or that resolution, or plan a larger patch"
                )
        if prod(size) == 1:
            raise ProXError(f"at resolution {lowest:g} the lowest feature map is a single voxel; leave out that resolution")

    # ------------------------------------------------------------------ building members
    def architecture_of(self, subnet: Subnet) -> dict[str, Any]:
        """The network of a member as the ``architecture`` entry of a stock plan.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """
        self.space.check(subnet)
        n = int(subnet["levels"][0])
        kernels = [[1 if axis == 1 else int(subnet["kernel"][level]) for axis in self._kernels[level]] for level in range(n)]
        kwargs = self._kwargs | {
            "n_stages": n,
            "features_per_stage": [int(v) for v in subnet["width"][:n]],
            "kernel_sizes": kernels,
            "strides": [list(stride) for stride in self._strides[:n]],
            DEPTH_KEY[self.kind]: [int(v) for v in subnet["depth"][:n]],
            "n_conv_per_stage_decoder": [int(v) for v in subnet["decoder_depth"][: n - 1]][::-1],
        }
        return self._architecture | {"arch_kwargs": kwargs}

    @refusing("the plan's network cannot be built")
    def build(self, subnet: Subnet, *, initialise: bool = True) -> nn.Module:
        """The stock network of a member.

        Args:
            subnet: the member.
            initialise: whether the weights are initialised as nnU-Net does. If not, they may have any values.

        Raises:
            ProXError: the subnet is not a member.
        """
        with nullcontext() if initialise else Uninitialised():
            network = build_network(
                self.architecture_of(subnet), input_channels=self.input_channels, num_classes=self.num_classes
            )
        if initialise:
            network.apply(network.initialize)  # type: ignore[arg-type]
        return network

    def layers(self, subnet: Subnet, size: Sequence[int] | None = None) -> Iterator[Layer]:
        """The layers of a member's network. See ``Family.layers``."""
        architecture = self.architecture_of(subnet)  # raises for what is no member
        voxels = self.input_size(self.patch_size if size is None else size, subnet["resolution"][0])
        return unet_layers(architecture, voxels, input_channels=self.input_channels, num_classes=self.num_classes)

    def synchronise(self, skeleton: nn.Module, network: nn.Module) -> None:
        """Copies the switch of deep supervision. See ``Family.synchronise``."""
        skeleton.decoder.deep_supervision = network.decoder.deep_supervision  # type: ignore[union-attr]

    # ------------------------------------------------------------------ where weights live
    @cached_property
    def _largest_levels(self) -> int:
        return int(self.space.largest()["levels"][0])

    def locate(self, name: str, shape: tuple[int, ...], subnet: Subnet) -> tuple[str, Region]:
        """The place of a member's tensor in the largest network. See ``Family.locate``."""
        if match := STAGE.match(name):  # decoder stages are numbered from the bottom, so missing levels shift the numbers
            index = int(match[2]) + self._largest_levels - int(subnet["levels"][0])
            name = f"{match[1]}{index}{match[3]}"
        region = corner(name, shape, self._largest_shapes.get(name), subnet)
        if FIRST_DECODER_CONV.match(name):  # reads the concatenation of upsampled features and skip
            region[1] = halves(shape[1], self._largest_shapes[name][1])
        return name, tuple(region)

    def output_axis(self, name: str) -> int:
        """The axis of output channels, which is 1 for transposed convolutions. See ``Family.output_axis``."""
        return 1 if name.startswith("decoder.transpconvs.") else 0

    def passes_through(self, name: str) -> int | None:
        """The input channel that a new convolution can pass on. See ``Family.passes_through``."""
        if FIRST_DECODER_CONV.match(name):  # before a level was added, its skip was the input of the next layer
            return self._largest_shapes[name][1] // 2
        return 0 if LATER_CONV.search(name) else None

    def group(self, name: str) -> str:
        """The stage of the encoder or decoder that a tensor belongs to. See ``Family.group``."""
        return ".".join(name.split(".")[:3])

    # ------------------------------------------------------------------ running
    def run(self, network: Callable[[Tensor], Any], x: Tensor, subnet: Subnet) -> Any:
        """Runs a member's network at the member's resolution.

        Args:
            network: the member's network.
            x: (B, C, *spatial) at full resolution.
            subnet: the member.

        Returns:
            The output at the resolution of ``x``. Under deep supervision a list, whose sizes do not depend on the member's
            resolution.
        """
        size = tuple(x.shape[2:])
        working = self.input_size(size, subnet["resolution"][0])
        if working == size:
            return network(x)
        outputs = network(_resize(x, working))
        if isinstance(outputs, Tensor):
            return _resize(outputs, size)
        for level, output in enumerate(outputs):
            size = tuple(length // stride for length, stride in zip(size, self._strides[level], strict=True))
            outputs[level] = _resize(output, size)
        return outputs


def _resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Linear interpolation with aligned voxel centres and without a prefilter, as nnU-Net's own resampling places samples."""
    return F.interpolate(x, size, mode="bilinear" if len(size) == 2 else "trilinear", align_corners=False)
