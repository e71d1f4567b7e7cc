"""What a member costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from monai_prox.families import Family
from monai_prox.space import Subnet

COUNTED = (_ConvNd, nn.Linear)


@dataclass
class Count:
    macs: int = 0


@contextmanager
def counting(network: nn.Module) -> Iterator[Count]:
    """Counts the multiply-accumulates of convolutions and linear layers in all forward passes of ``network`` in the context.

    Biases, norms, activations and resizing are not counted.
    """
    counted = Count()

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, COUNTED)
        # A weight meets every output voxel once, in a transposed convolution every input voxel.
        voxels = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
        counted.macs += layer.weight.numel() * voxels[:, 0].numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, COUNTED)]
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def parameters(family: Family, subnet: Subnet) -> int:
    """Number of weights of the subnet's stock network."""
    return sum(layer.weights + layer.others for layer in family.layers(subnet))


def macs(family: Family, subnet: Subnet, size: Sequence[int]) -> int:
    """Multiply-accumulates of the subnet's layers in prediction, for one input of ``size`` voxels at full resolution.

    In closed form, as many as ``counting`` counts.
    """
    return sum(layer.weights * layer.uses for layer in family.layers(subnet, size))


def activations(family: Family, subnet: Subnet, size: Sequence[int]) -> int:
    """Elements of the feature maps that must be there at once in prediction, for one input of ``size`` voxels.

    At the member's own resolution; times four they are bytes in float32. Weights and the work space of convolutions
    are not counted.
    """
    return max(layer.live for layer in family.layers(subnet, size))
