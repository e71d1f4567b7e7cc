"""Small ``architecture`` entries of plans, as nnU-Net's planners write them, and weights and parameters to test with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices

KINDS = ("PlainConvUNet", "ResidualEncoderUNet")
# A space, as in a plan
FOUR_DIMENSIONS = {"depth": "thirds", "width": [0.5, 0.75, 1.0], "levels": 1, "resolution": [0.75, 1.0]}
DEPTH_KEYS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}


def unet_architecture(
    kind: str = "PlainConvUNet",
    *,
    axes: int = 2,
    anisotropic: bool = False,
    features: Sequence[int] = (4, 8),
    depths: Sequence[int] | None = None,
    decoder_depths: Sequence[int] | None = None,
    nonlin: str = "torch.nn.LeakyReLU",
    dropout: float = 0.0,
) -> dict[str, Any]:
    """One level per entry of ``features``, kernels of 3, strides of 2 and two blocks per stage unless told otherwise.

    anisotropic: the first axis, that of thick slices, has kernel 1 at the top level and is not halved below it.
    decoder_depths: from the lowest level upwards, as in a plan.
    """
    levels = len(features)
    kernels = [[3] * axes for _ in range(levels)]
    strides = [[1] * axes] + [[2] * axes for _ in range(levels - 1)]
    if anisotropic:
        kernels[0][0] = 1
        strides[1][0] = 1
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": levels,
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": kernels,
            "strides": strides,
            DEPTH_KEYS[kind]: list(depths or [2] * levels),
            "n_conv_per_stage_decoder": list(decoder_depths or [2] * (levels - 1)),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": f"torch.nn.Dropout{axes}d" if dropout else None,
            "dropout_op_kwargs": {"p": dropout} if dropout else None,
            "nonlin": nonlin,
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


@torch.no_grad()
def randomise_norms(network: nn.Module) -> nn.Module:
    """Gives every norm and bias values of its own.

    Fresh ones are 1 and 0, and the last of a residual block is all 0, and then an exchanged or missing one is not seen.
    """
    for name, parameter in network.named_parameters():
        if name.endswith("norm.weight"):
            parameter.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            parameter.uniform_(-0.5, 0.5)
    return network


EVERYTHING = UNetChoices(depth="all", width=(0.5, 0.75, 1.0), kernel=(3, 5), levels=1, resolution=(0.75, 1.0))
FLAT = UNetChoices(depth="all", width=(0.5, 1.0), kernel=(3, 5), levels=0, resolution=(1.0,))


def unet_family(
    kind: str = "PlainConvUNet",
    *,
    patch: Sequence[int] = (24, 24),
    choices: UNetChoices = EVERYTHING,
    input_channels: int = 2,
    num_classes: int = 3,
    open: Mapping[str, int] | None = None,
    **architecture: Any,
) -> UNetFamily:
    """The family of ``unet_architecture``, with as many axes as ``patch`` has."""
    return UNetFamily(
        unet_architecture(kind, axes=len(patch), **architecture),
        input_channels=input_channels,
        num_classes=num_classes,
        patch_size=patch,
        choices=choices,
        open=open,
    )


def segmentation_loss(outputs: Tensor | list[Tensor], target: Tensor) -> Tensor:
    """Cross-entropy against ``target`` (B, *spatial), summed over the outputs of deep supervision."""
    loss = torch.zeros(())
    for logits in [outputs] if isinstance(outputs, Tensor) else outputs:
        nearest = F.interpolate(target[:, None].float(), logits.shape[2:]).squeeze(1).long()
        loss = loss + F.cross_entropy(logits, nearest)
    return loss


def batch(seed: int, *, patch: Sequence[int] = (24, 24), size: int = 2, channels: int = 2, classes: int = 3) -> Any:
    """A random image (B, C, *patch) and target (B, *patch)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, channels, *patch, generator=generator)
    return x, torch.randint(classes, (size, *patch), generator=generator)


def every_other(kinds: Iterable[str], cases: Iterable[str], variants: Mapping[str, Any]) -> list[Any]:
    """Parameters (kind, case, variant): every kind in every case, in turn of two variants. The other half is slow.

    variants: two values by what they are called in the test's name.
    """
    return [
        pytest.param(
            *(kind, case, variant),
            id=f"{kind}-{case}-{name}",
            marks=[] if (row + column + place) % 2 else pytest.mark.slow,
        )
        for row, kind in enumerate(kinds)
        for column, case in enumerate(cases)
        for place, (name, variant) in enumerate(variants.items())
    ]
