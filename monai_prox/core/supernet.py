"""The supernet: a stock network at its largest size, and the one function that makes it elastic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from monai_prox.core.batch_norm import synchronise
from monai_prox.core.family import Family
from monai_prox.core.slicing import Cut, Region, covers, prefix
from monai_prox.core.space import Subnet

SKELETONS = 64  # kept at a time; one costs no weights, only Python objects


class _Skeleton(NamedTuple):
    """A subnet's stock network without weights, and where each of its tensors lives."""

    module: nn.Module  # on the meta device
    sources: dict[str, tuple[str, Region]]
    cuts: dict[str, Region]  # of tensors not used whole; of a kernel that will be transformed, channels alone


class WeightTransforms(Protocol):
    """What makes smaller kernels of larger ones; a torch module.

    sizes: by the name of a convolution's weight, its kernel's sizes per axis, from the largest down.
    """

    @property
    def sizes(self) -> Mapping[str, Sequence[tuple[int, ...]]]: ...

    def __call__(self, name: str, weight: Tensor, size: Sequence[int]) -> Tensor:
        """weight: (O, I, *largest size) of the layer ``name`` -> (O, I, *size)."""


class SuperNet(nn.Module):
    """All members of a family in the weights of its largest.

    A forward pass slices the largest network's tensors to the shapes of the subnet's own stock network and runs that one
    with ``functional_call``: no second definition of any layer, no parameter beyond the largest network's, except where
    kernels are transformed.

    family: see ``monai_prox.core.family``.
    network: the family's largest stock network; a fresh one if None. It is used, not copied, and its layers have to stay the
        same objects; their weights may be replaced.
    kernel_transforms: a module that makes smaller kernels of larger ones, which becomes a part of the supernet; None if smaller
        kernels are the larger ones' centres.
    """

    def __init__(
        self, family: Family, network: nn.Module | None = None, *, kernel_transforms: WeightTransforms | None = None
    ) -> None:
        super().__init__()
        self.family = family
        self.network = family.build(family.space.largest()) if network is None else network
        tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
        paths = {name: name.rpartition(".") for name, _ in tensors}
        # Every step looks them up, and walking through all modules for it would take longer than a small convolution
        self._owners = {name: (self.network.get_submodule(path), key) for name, (path, _, key) in paths.items()}
        self.kernel_transforms: Any = kernel_transforms  # a module, which registers itself as one
        if isinstance(kernel_transforms, nn.Module):
            kernel_transforms.to(next(self.network.parameters()))
        self._skeletons: OrderedDict[Subnet, _Skeleton] = OrderedDict()

    def _skeleton(self, subnet: Subnet) -> _Skeleton:
        if subnet in self._skeletons:
            self._skeletons.move_to_end(subnet)
            return self._skeletons[subnet]
        with torch.device("meta"):
            module = synchronise(self.family.build(self.family.space.check(subnet), initialise=False))
        sources = {
            name: self.family.locate(name, tuple(tensor.shape), subnet)
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        }
        self._skeletons[subnet] = _Skeleton(module, sources, self._cuts(sources))
        if len(self._skeletons) > SKELETONS:
            self._skeletons.popitem(last=False)
        return self._skeletons[subnet]

    def regions(self, subnet: Subnet) -> dict[str, Region]:
        """What ``subnet`` uses of the largest network's tensors, by their names."""
        return dict(self._skeleton(subnet).sources.values())

    def shapes(self, subnet: Subnet) -> nn.Module:
        """The subnet's stock network on the meta device: shapes and layers without weights. Not to be changed."""
        return self._skeleton(subnet).module

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(module, key) for name, (module, key) in self._owners.items()}

    def _cuts(self, sources: dict[str, tuple[str, Region]]) -> dict[str, Region]:
        tensors = self._tensors()
        transformed = {} if self.kernel_transforms is None else self.kernel_transforms.sizes
        cuts = {}
        for name, (source, region) in sources.items():
            shape = tensors[source].shape
            if source in transformed:
                region = (*region[:2], *map(prefix, shape[2:]))
            if not covers(region, shape):
                cuts[name] = region
        return cuts

    def _weights(self, skeleton: _Skeleton) -> dict[str, Tensor]:
        """A skeleton's tensors, with gradients to where they live; those used whole are the largest network's own."""
        tensors = self._tensors()
        weights = {name: tensors[source] for name, (source, _) in skeleton.sources.items()}
        if skeleton.cuts:
            parts = Cut.apply([*skeleton.cuts.values()], *(weights[name] for name in skeleton.cuts))
            weights |= zip(skeleton.cuts, parts, strict=True)
        if (transforms := self.kernel_transforms) is not None:
            for name, (source, region) in skeleton.sources.items():
                if source in transforms.sizes:
                    size = [parts[0].stop - parts[0].start for parts in region[2:]]
                    weights[name] = transforms(source, weights[name], size)
        return weights

    def forward(self, x: Tensor, subnet: Subnet) -> Any:
        """x: (B, C, *spatial) -> what the subnet's stock network returns, at the resolution of x.

        Raises ProXError for a subnet that is not a member.
        """
        skeleton = self._skeleton(subnet)
        module = skeleton.module
        if module.training != self.training:
            module.train(self.training)
        self.family.synchronise(module, self.network)
        weights = self._weights(skeleton)

        # Stock U-Nets register modules twice (the encoder inside the decoder), never one parameter in two modules. So
        # nothing is tied, and with tie_weights torch would put aliases back in the wrong order and leave this step's
        # weights in the skeleton.
        def run(x: Tensor) -> Any:
            return functional_call(module, weights, (x,), tie_weights=False)

        return self.family.run(run, x, subnet)

    @torch.no_grad()
    def extract(self, subnet: Subnet) -> nn.Module:
        """The subnet as a stock network of its own, with copies of its weights, on the same device and in the same mode."""
        weights = self._weights(self._skeleton(subnet))
        network = self.family.build(subnet, initialise=False).to(next(iter(weights.values())).device)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            tensor.copy_(weights[name])
        self.family.synchronise(network, self.network)
        return network.train(self.training)

    def member(self, subnet: Subnet) -> Member:
        """The subnet cut out, but at home at full resolution."""
        return Member(self.family, subnet, self.extract(subnet))

    def view(self, subnet: Subnet) -> View:
        """The subnet in the supernet's own weights: whatever changes those, training or loading, changes it."""
        return View(self, subnet)


def without_weights(family: Family, *, kernel_transforms: WeightTransforms | None = None) -> SuperNet:
    """The shapes of a supernet, on the meta device, which takes no memory."""
    with torch.device("meta"):
        return SuperNet(family, family.build(family.space.largest(), initialise=False), kernel_transforms=kernel_transforms)


class Member(nn.Module):
    """An extracted subnet whose inputs and outputs are at full resolution, whatever its own. For evaluation."""

    def __init__(self, family: Family, subnet: Subnet, network: nn.Module) -> None:
        super().__init__()
        self.family, self.subnet, self.network = family, subnet, network

    def forward(self, x: Tensor) -> Any:
        return self.family.run(self.network, x, self.subnet)


class View(nn.Module):
    """One subnet of a supernet as a network of one output, at full resolution. For evaluation."""

    def __init__(self, supernet: SuperNet, subnet: Subnet) -> None:
        super().__init__()
        self.supernet, self.subnet = supernet, supernet.family.space.check(subnet)

    def forward(self, x: Tensor) -> Tensor:
        return finest(self.supernet(x, self.subnet))


def finest(outputs: Any) -> Tensor:
    """The output at full resolution, which is the first under deep supervision."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]
