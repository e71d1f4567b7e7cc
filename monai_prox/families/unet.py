"""nnU-Net's U-Nets: PlainConvUNet and ResidualEncoderUNet, 2D and 3D, isotropic and anisotropic.

The family is derived from the ``architecture`` entry of an nnU-Net plan. Every member is again such an entry, see
``UNetFamily.architecture_of``, which is what makes members stock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_prox.core.layers import Layer, convolution, strided, weightless
from monai_prox.core.slicing import Region, corner, halves
from monai_prox.core.space import Need, SearchSpace, Slot, Subnet, Value
from monai_prox.errors import ProXError, refusing
from monai_prox.families.architecture import DEPTH_KEY, WHOLE, build_network, checked, kind_of
from monai_prox.families.unet_choices import UNetChoices

STAGE = re.compile(r"^(decoder\.(?:stages|transpconvs|seg_layers)\.)(\d+)(.*)$")
FIRST_DECODER_CONV = re.compile(r"^decoder\.stages\.\d+\.convs\.0\.conv\.weight$")
LATER_CONV = re.compile(r"\.convs\.[1-9]\d*\.conv\.weight$")
MOST_VOXELS = 2**26  # of a patch, 406 an axis; nobody trains on more


class UNetFamily:
    """All subnets of one plan's network.

    architecture: a plan's ``architecture`` entry (``network_class_name``, ``arch_kwargs``, ``_kw_requires_import``).
    input_channels, num_classes: channels in and out, as nnU-Net counts them (regions included, ignore label not).
    patch_size: voxels per axis at full resolution, as in the plan; 2 or 3 axes.
    open: of a family whose last choices were closed, how many remain by dimension, see ``SearchSpace.narrow``. Members are
        the same networks as in the whole family and work at the same resolutions; only the largest of them is another.

    Raises ProXError for architectures other than nnU-Net's two U-Nets and for choices that leave no legal member.
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
        with torch.device("meta"):  # refuses now what torch's layers do not take
            largest = self.build(self.space.largest(), initialise=False)
        self._largest_shapes = {name: tuple(parameter.shape) for name, parameter in largest.named_parameters()}

    # ------------------------------------------------------------------ reading the plan
    def _read(self, architecture: Mapping[str, Any], patch_size: Sequence[int]) -> None:
        self.patch_size = tuple(patch_size)
        whole = all(isinstance(size, WHOLE) and not isinstance(size, bool) and size > 0 for size in self.patch_size)
        if len(self.patch_size) not in (2, 3) or not whole or prod(self.patch_size) > MOST_VOXELS:
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
        """Input sizes are multiples of this, per axis."""
        return tuple(prod(stride[axis] for stride in self._strides) for axis in range(len(self.patch_size)))

    def input_size(self, size: Sequence[int], resolution: float) -> tuple[int, ...]:
        """The size per axis, in voxels, at which a member of ``resolution`` works on an input of ``size``."""

        def one(length: int, divisor: int, kernel: int) -> int:
            if resolution == 1 or kernel == 1:
                return length
            return max(1, int(length * resolution / divisor + 0.5)) * divisor

        return tuple(map(one, size, self.divisor, self._kernels[0]))

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
            return sorted({max(1, round(fraction * self._features[level])) for fraction in c.width})

        def width_ties(level: int) -> dict[str, int | None]:
            # A residual stage projects its input exactly where its width differs from the stage's above.
            if self.kind != "ResidualEncoderUNet" or level == 0:
                return {}
            same = self._features[level] == self._features[level - 1]
            return {"equals": level - 1} if same else {"differs": level - 1}

        def kernels(level: int) -> list[int]:
            own = self._kernel_value(level)
            if c.kernel is None or own == 1:
                return [own]
            if max(c.kernel) < own:
                raise ProXError(f"kernel {list(c.kernel)} would make the largest member smaller than the plan's, {own}")
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
        """The subnet's network as the ``architecture`` entry of a stock plan."""
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
        """The subnet's stock network, initialised as nnU-Net does; where weights are replaced anyway, save the time."""
        network = build_network(self.architecture_of(subnet), input_channels=self.input_channels, num_classes=self.num_classes)
        if initialise:
            network.apply(network.initialize)  # type: ignore[arg-type]
        return network

    def layers(self, subnet: Subnet, size: Sequence[int] | None = None) -> Iterator[Layer]:
        """See ``Family``."""
        plan = self.architecture_of(subnet)["arch_kwargs"]
        features, kernels, strides = plan["features_per_stage"], plan["kernel_sizes"], plan["strides"]
        depths, decoder_depths = plan[DEPTH_KEY[self.kind]], plan["n_conv_per_stage_decoder"][::-1]
        bias, affine = bool(plan.get("conv_bias")), bool((plan.get("norm_op_kwargs") or {}).get("affine"))
        pointwise = (1,) * len(self.patch_size)
        voxels = self.input_size(self.patch_size if size is None else size, subnet["resolution"][0])
        channels, sizes = self.input_channels, []
        skips = 0  # elements of the stages' outputs that the decoder waits for, without the current feature map

        def block(outputs: int, kernel: Sequence[int], kept: int) -> Layer:
            live = kept + channels * prod(before) + outputs * prod(voxels)
            return convolution(channels, outputs, kernel, voxels, live=live, bias=bias, norm=affine)

        before = voxels
        if self.kind == "ResidualEncoderUNet":
            yield block(features[0], kernels[0], 0)
            channels = features[0]
        for stage, (outputs, kernel, stride, depth) in enumerate(zip(features, kernels, strides, depths, strict=True)):
            voxels, entering = strided(before, stride), channels * prod(before)
            sizes.append(voxels)
            for index in range(depth):
                if self.kind == "PlainConvUNet":
                    yield block(outputs, kernel, skips)
                else:
                    yield from self._residual(
                        channels, outputs, kernel, before, voxels, skips, index == 0 < stage, bias, affine
                    )
                if index == 0 < stage:
                    skips += entering
                channels, before = outputs, voxels
        for level in reversed(range(len(features) - 1)):
            outputs, voxels = features[level], sizes[level]
            upsampled = outputs * prod(voxels)  # as many as are skipped
            live = skips + channels * prod(before) + upsampled
            yield convolution(channels, outputs, strides[level + 1], before, live=live, bias=bias)
            yield weightless(skips + upsampled + 2 * upsampled)
            skips -= upsampled
            channels, before = 2 * outputs, voxels
            for _ in range(decoder_depths[level]):
                yield block(outputs, kernels[level], skips)
                channels = outputs
            # lower levels' logits are for deep supervision, so for training alone
            live = skips + (outputs + self.num_classes) * prod(voxels)
            yield convolution(outputs, self.num_classes, pointwise, voxels, live=live, bias=True, runs=level == 0)

    def _residual(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        before: Sequence[int],
        voxels: Sequence[int],
        kept: int,
        stays: bool,
        bias: bool,
        affine: bool,
    ) -> Iterator[Layer]:
        """A block of two convolutions. stays: whether its input is kept for the decoder."""
        entering, inner = inputs * prod(before), outputs * prod(voxels)
        residual, pooled = 0, 0  # elements besides the input
        if tuple(before) != tuple(voxels):
            residual = pooled = inputs * prod(voxels)
            yield weightless(kept + entering + pooled)
        if inputs != outputs:
            residual = inner
            live = kept + entering + pooled + residual
            yield convolution(inputs, outputs, (1,) * len(voxels), voxels, live=live, norm=affine)
        live = kept + entering + residual + inner
        yield convolution(inputs, outputs, kernel, voxels, live=live, bias=bias, norm=affine)
        live = kept + (entering if stays or not residual else 0) + residual + 2 * inner
        yield convolution(outputs, outputs, kernel, voxels, live=live, bias=bias, norm=affine)

    def synchronise(self, skeleton: nn.Module, network: nn.Module) -> None:
        skeleton.decoder.deep_supervision = network.decoder.deep_supervision  # type: ignore[union-attr]

    # ------------------------------------------------------------------ where weights live
    @cached_property
    def _largest_levels(self) -> int:
        return int(self.space.largest()["levels"][0])

    def locate(self, name: str, shape: tuple[int, ...], subnet: Subnet) -> tuple[str, Region]:
        if match := STAGE.match(name):  # decoder stages count from the bottom, so they shift where levels are missing
            index = int(match[2]) + self._largest_levels - int(subnet["levels"][0])
            name = f"{match[1]}{index}{match[3]}"
        region = corner(name, shape, self._largest_shapes.get(name), subnet)
        if FIRST_DECODER_CONV.match(name):  # reads the concatenation of upsampled features and skip
            region[1] = halves(shape[1], self._largest_shapes[name][1])
        return name, tuple(region)

    def output_axis(self, name: str) -> int:
        return 1 if name.startswith("decoder.transpconvs.") else 0

    def passes_through(self, name: str) -> int | None:
        if FIRST_DECODER_CONV.match(name):  # a new level's decoder stage stands where its skip alone used to go on
            return self._largest_shapes[name][1] // 2
        return 0 if LATER_CONV.search(name) else None

    def group(self, name: str) -> str:
        return ".".join(name.split(".")[:3])

    # ------------------------------------------------------------------ running
    def run(self, network: Callable[[Tensor], Any], x: Tensor, subnet: Subnet) -> Any:
        """x: (B, C, *spatial). Outputs, one or a list under deep supervision, keep the sizes they have at resolution 1."""
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
    """Linear, voxel centres aligned and without a prefilter, as nnU-Net's own resampling places its samples."""
    return F.interpolate(x, size, mode="bilinear" if len(size) == 2 else "trilinear", align_corners=False)
