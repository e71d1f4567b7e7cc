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
STEP = 0.5  # of neighbouring patches, as a fraction of the patch: nnU-Net's


@dataclass
class Count:
    """A running count.

    Args:
        macs: multiply-accumulates so far.
    """

    macs: int = 0


@contextmanager
def counting(network: nn.Module) -> Iterator[Count]:
    """Counts the multiply-accumulates of all forward passes of a network within the context.

    Convolutions and linear layers are counted. Biases, norms, activations and resizing are not.

    Args:
        network: the network.

    >>> import torch
    >>> with counting(nn.Linear(3, 4)) as unused, counting(network := nn.Linear(3, 4)) as count:
    ...     output = network(torch.zeros(5, 3))
    >>> unused.macs, count.macs
    (0, 60)
    """
    counted = Count()

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, COUNTED)
        # A weight is used once per output voxel, or once per input voxel of a transposed convolution.
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
    """The cost of a member in prediction, counted from its layers without a forward pass.

    Args:
        parameters: number of weights of the stock network.
        macs: multiply-accumulates for one input. ``counting`` counts the same number in a forward pass.
        activations: number of elements of the feature maps that must be in memory at the same time for one input, at the
            member's own resolution. Weights and the work space of convolutions are not included.
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
        """Megabytes of the weights in float32. A model file is a few kilobytes larger."""
        return 4e-6 * self.parameters


def member_cost(family: Family, subnet: Subnet, size: Sequence[int]) -> Cost:
    """The cost of a member.

    Args:
        family: the family of the member.
        subnet: the member.
        size: voxels per axis of one input at full resolution.

    Raises:
        ProXError: the subnet is not a member of the family.
    """
    total = macs_ = live = 0
    for layer in family.layers(subnet, size):
        total += layer.weights + layer.other_parameters
        macs_ += layer.weights * layer.uses
        live = max(live, layer.live)
    return Cost(total, macs_, live)


def parameters(family: Family, subnet: Subnet) -> int:
    """The number of weights of a member.

    Args:
        family: the family of the member.
        subnet: the member.

    Raises:
        ProXError: the subnet is not a member of the family.

    >>> from monai_prox import MobileNetFamily
    >>> family = MobileNetFamily(input_channels=1, num_classes=2)
    >>> parameters(family, family.space.smallest()), parameters(family, family.space.largest())
    (728458, 4973898)
    """
    return sum(layer.weights + layer.other_parameters for layer in family.layers(subnet))


def macs(family: Family, subnet: Subnet, size: Sequence[int]) -> int:
    """The multiply-accumulates of a member for one input.

    Args:
        family: the family of the member.
        subnet: the member.
        size: voxels per axis of the input at full resolution.

    Raises:
        ProXError: the subnet is not a member of the family.

    >>> from monai_prox import MobileNetFamily
    >>> family = MobileNetFamily(input_channels=1, num_classes=2)
    >>> macs(family, family.space.largest(), (224, 224))
    419509088
    """
    return member_cost(family, subnet, size).macs


def activations(family: Family, subnet: Subnet, size: Sequence[int]) -> int:
    """The number of elements of the feature maps that must be in memory at the same time, see ``Cost``.

    Args:
        family: the family of the member.
        subnet: the member.
        size: voxels per axis of one input at full resolution.

    Raises:
        ProXError: the subnet is not a member of the family.
    """
    return member_cost(family, subnet, size).activations


def tiles(image: Sequence[int], patch: Sequence[int], *, mirrored: int = 0) -> int:
    """The number of patches that nnU-Net's sliding window takes of an image.

    Args:
        image: voxels per axis of the image on the network's grid.
        patch: voxels per axis of a patch. A patch of two axes is taken of every slice.
        mirrored: number of axes along which each patch is also predicted mirrored.

    >>> tiles((128, 64, 64), (64, 64, 64))
    3
    >>> tiles((128, 64, 64), (64, 64, 64), mirrored=3)
    24
    """
    sides = (1, *patch) if len(patch) < len(image) else tuple(patch)
    steps = [
        ceil(max(length - side, 0) / (side * STEP)) + 1 if side > 1 else length
        for length, side in zip(image, sides, strict=True)
    ]
    return int(prod(steps) * 2**mirrored)
