"""What a member costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from monai_prox.core.family import Family
from monai_prox.core.space import Subnet

COUNTED = (_ConvNd, nn.Linear)
STEP = 0.5  # of a patch, between neighbouring ones: nnU-Net's


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


@dataclass(frozen=True)
class Cost:
    """Of a member in prediction, counted from its layers without a forward pass.

    parameters: weights of the stock network. macs: multiply-accumulates for one input, as many as ``counting`` counts.
    activations: elements of the feature maps that must be there at once for one input, at the member's own resolution;
        neither the weights nor the work space of convolutions.
    """

    parameters: int
    macs: int
    activations: int

    @property
    def memory_mb(self) -> float:
        """Megabytes of weights and feature maps in float32."""
        return 4e-6 * (self.parameters + self.activations)

    @property
    def file_mb(self) -> float:
        """Megabytes of the weights in float32: of a model file all but some kilobytes."""
        return 4e-6 * self.parameters


def member_cost(family: Family, subnet: Subnet, size: Sequence[int]) -> Cost:
    """Of one input of ``size`` voxels at full resolution."""
    total = macs_ = live = 0
    for layer in family.layers(subnet, size):
        total += layer.weights + layer.other_parameters
        macs_ += layer.weights * layer.uses
        live = max(live, layer.live)
    return Cost(total, macs_, live)


def parameters(family: Family, subnet: Subnet) -> int:
    """See ``Cost``."""
    return sum(layer.weights + layer.other_parameters for layer in family.layers(subnet))


def macs(family: Family, subnet: Subnet, size: Sequence[int]) -> int:
    """See ``Cost``."""
    return member_cost(family, subnet, size).macs


def activations(family: Family, subnet: Subnet, size: Sequence[int]) -> int:
    """See ``Cost``."""
    return member_cost(family, subnet, size).activations


def tiles(image: Sequence[int], patch: Sequence[int], *, mirrored: int = 0) -> int:
    """Patches that nnU-Net's sliding window takes of an ``image``, both in voxels per axis of the network's grid.

    A patch of two axes is laid on every slice. mirrored: axes along which each patch is predicted mirrored, too.
    """
    sides = (1, *patch) if len(patch) < len(image) else tuple(patch)
    steps = [
        ceil(max(length - side, 0) / (side * STEP)) + 1 if side > 1 else length
        for length, side in zip(image, sides, strict=True)
    ]
    return int(prod(steps) * 2**mirrored)
