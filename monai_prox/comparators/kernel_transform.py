"""Learned transforms from larger kernels to smaller ones, as in Progressive Shrinking.

Source: Once-for-all, Cai et al., ICLR 2020, section 3.3, "elastic kernel size". The centre of a larger kernel is part of it and
also a kernel of its own. So a matrix per layer, shared by its channels, makes the smaller kernel from the centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_prox.core.family import Family
from monai_prox.core.slicing import centre
from monai_prox.core.supernet import without_weights


class KernelTransforms(nn.Module):
    """A matrix per layer for each step from one kernel size to the next smaller one. It is initialised as the identity.

    Args:
        sizes: kernel sizes per axis, from the largest, by the name of the convolution's weight.
    """

    def __init__(self, sizes: Mapping[str, Sequence[tuple[int, ...]]]) -> None:
        super().__init__()
        self.sizes = {name: tuple(steps) for name, steps in sizes.items() if len(steps) > 1}
        self.matrices = nn.ParameterDict(
            {
                self._key(name, step): torch.eye(prod(size))
                for name, steps in self.sizes.items()
                for step, size in enumerate(steps[1:], start=1)
            }
        )

    @staticmethod
    def _key(name: str, step: int) -> str:
        return f"{name.replace('.', '/')}:{step}"  # a module's parameter may not have dots in its name

    def forward(self, name: str, weight: Tensor, size: Sequence[int]) -> Tensor:
        """A smaller kernel (O, I, *size), computed through all sizes between.

        Args:
            name: name of the weight.
            weight: (O, I, *largest size).
            size: kernel size per axis.
        """
        for step, smaller in enumerate(self.sizes[name][1:], start=1):
            if tuple(weight.shape[2:]) == tuple(size):
                break
            middle = [centre(length, full)[0] for length, full in zip(smaller, weight.shape[2:], strict=True)]
            region = (slice(None), slice(None), *middle)
            taps = weight[region].flatten(2)
            with torch.autocast(weight.device.type, enabled=False):  # an extracted member has the kernel in single precision
                weight = F.linear(taps, self.matrices[self._key(name, step)]).view((*weight.shape[:2], *smaller))
        return weight


def kernel_transforms_of(family: Family) -> KernelTransforms:
    """Transforms for all kernels that have smaller sizes in a family.

    Args:
        family: the family.
    """
    supernet, space = without_weights(family), family.space
    counts = {dimension: space.choice_count(dimension) for dimension in space.dimensions}
    sizes: dict[str, list[tuple[int, ...]]] = {}
    for count in range(counts.get("kernel", 1), 0, -1):
        for name, region in supernet.regions(space.restrict(counts | {"kernel": count}).largest()).items():
            size = tuple(sum(part.stop - part.start for part in parts) for parts in region[2:])
            if len(region) > 2 and size not in sizes.setdefault(name, []):
                sizes[name].append(size)
    return KernelTransforms(sizes)
