"""The layers of nnU-Net's U-Nets, for counting their weights, MACs and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from monai_prox.core.layers import Layer, convolution, strided, weightless
from monai_prox.families.architecture import DEPTH_KEY, kind_of


def unet_layers(
    architecture: Mapping[str, Any], voxels: Sequence[int], *, input_channels: int, num_classes: int
) -> Iterator[Layer]:
    """The layers of a U-Net in the order in which they run.

    Args:
        architecture: the ``architecture`` entry of a plan.
        voxels: voxels per axis of the network's input.
        input_channels: number of input channels.
        num_classes: number of output channels.
    """
    kind, plan = kind_of(architecture), architecture["arch_kwargs"]
    features, kernels, strides = plan["features_per_stage"], plan["kernel_sizes"], plan["strides"]
    depths, decoder_depths = plan[DEPTH_KEY[kind]], plan["n_conv_per_stage_decoder"][::-1]
    bias, affine = bool(plan.get("conv_bias")), bool((plan.get("norm_op_kwargs") or {}).get("affine"))
    pointwise = (1,) * len(voxels)
    channels, sizes = input_channels, []
    skips = 0  # elements of the outputs that the decoder reads later, without the current feature map

    def block(outputs: int, kernel: Sequence[int], waiting: int) -> Layer:
        live = waiting + channels * prod(voxels_before) + outputs * prod(voxels)
        return convolution(channels, outputs, kernel, voxels, live=live, bias=bias, norm=affine)

    voxels_before = voxels
    if kind == "ResidualEncoderUNet":
        yield block(features[0], kernels[0], 0)
        channels = features[0]
    for stage, (outputs, kernel, stride, depth) in enumerate(zip(features, kernels, strides, depths, strict=True)):
        voxels, entering = strided(voxels_before, stride), channels * prod(voxels_before)
        sizes.append(voxels)
        for index in range(depth):
            if kind == "PlainConvUNet":
                yield block(outputs, kernel, skips)
            else:
                yield from _residual(channels, outputs, kernel, voxels_before, voxels, skips, index == 0 < stage, bias, affine)
            if index == 0 < stage:
                skips += entering
            channels, voxels_before = outputs, voxels
    for level in reversed(range(len(features) - 1)):
        outputs, voxels = features[level], sizes[level]
        upsampled = outputs * prod(voxels)  # the skip connection has the same number
        live = skips + channels * prod(voxels_before) + upsampled
        yield convolution(channels, outputs, strides[level + 1], voxels_before, live=live, bias=bias)
        yield weightless(skips + upsampled + 2 * upsampled)
        skips -= upsampled
        channels, voxels_before = 2 * outputs, voxels
        for _ in range(decoder_depths[level]):
            yield block(outputs, kernels[level], skips)
            channels = outputs
        # logits of lower levels are for deep supervision, which prediction does not run
        live = skips + (outputs + num_classes) * prod(voxels)
        yield convolution(outputs, num_classes, pointwise, voxels, live=live, bias=True, runs=level == 0)


def _residual(
    inputs: int,
    outputs: int,
    kernel: Sequence[int],
    voxels_before: Sequence[int],
    voxels: Sequence[int],
    waiting: int,
    stays: bool,
    bias: bool,
    affine: bool,
) -> Iterator[Layer]:
    """The layers of a block of two convolutions. ``stays`` says whether its input is kept for the decoder."""
    entering, inner = inputs * prod(voxels_before), outputs * prod(voxels)
    residual, pooled = 0, 0  # elements besides the input
    if tuple(voxels_before) != tuple(voxels):
        residual = pooled = inputs * prod(voxels)
        yield weightless(waiting + entering + pooled)
    if inputs != outputs:
        residual = inner
        live = waiting + entering + pooled + residual
        yield convolution(inputs, outputs, (1,) * len(voxels), voxels, live=live, norm=affine)
    live = waiting + entering + residual + inner
    yield convolution(inputs, outputs, kernel, voxels, live=live, bias=bias, norm=affine)
    live = waiting + (entering if stays or not residual else 0) + residual + 2 * inner
    yield convolution(outputs, outputs, kernel, voxels, live=live, bias=bias, norm=affine)
