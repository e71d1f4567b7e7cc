"""What a member costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from monai_prox.space import Subnet
from monai_prox.supernet import SuperNet


def parameters(supernet: SuperNet, subnet: Subnet) -> int:
    """Number of weights of the subnet's stock network."""
    return sum(p.numel() for p in supernet.shapes(subnet).parameters())


def macs(supernet: SuperNet, subnet: Subnet, size: Sequence[int]) -> int:
    """Multiply-accumulates of the subnet's convolutions in prediction, for one input of ``size`` voxels at full resolution.

    Biases, norms, activations and resizing are not counted. Counted on the meta device, so nothing is computed.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, _ConvNd)
        # A weight meets every output voxel once, in a transposed convolution every input voxel.
        voxels = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
        total += layer.weight.numel() * voxels[:, 0].numel()

    with torch.device("meta"):
        module = supernet.family.build(
            subnet, initialise=False
        ).eval()  # without deep supervision, whose heads no prediction runs
    convolutions = [layer for layer in module.modules() if isinstance(layer, _ConvNd)]
    for layer in convolutions:
        layer.register_forward_hook(count)
    supernet.family.run(module, torch.empty(1, convolutions[0].in_channels, *size, device="meta"), subnet)
    return total
