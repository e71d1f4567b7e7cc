"""The supernet: a stock network at its largest size, and the function that makes it elastic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from monai_prox.core.batch_norm import synchronise
from monai_prox.core.family import Family
from monai_prox.core.skeleton import Skeleton, call_with, outputs_within
from monai_prox.core.slicing import Cut, Region, covers, prefix
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError

# In the cache: of random members with and without the choice on trial, 32 each as ``training.drawing`` has them, of 16 members
# that train or are validated beside them, and of 16 random ones that left. A skeleton takes less than 1 MB.
SKELETONS = 96


class WeightTransforms(Protocol):
    """A torch module that makes smaller kernels from larger ones."""

    @property
    def sizes(self) -> Mapping[str, Sequence[tuple[int, ...]]]:
        """Kernel sizes per axis, from the largest, by the name of the convolution's weight."""

    def __call__(self, name: str, weight: Tensor, size: Sequence[int]) -> Tensor:
        """A smaller kernel (O, I, *size).

        Args:
            name: name of the weight.
            weight: (O, I, *largest size).
            size: kernel size per axis.
        """


class SuperNet(nn.Module):
    """All members of a family, in the weights of the largest member.

    A forward pass cuts the largest network's tensors to the shapes of the subnet's own stock network, and runs that network
    with them by ``torch.func.functional_call``. No layer is defined twice. There are no parameters besides those of the largest
    network, unless kernels are transformed.

    Args:
        family: the family.
        network: the family's largest stock network. It is used, not copied. Its weights may be replaced later, its layers may
            not. None means a new network.
        kernel_transforms: a module that makes smaller kernels from larger ones. It becomes a part of the supernet. None means
            that smaller kernels are the centres of larger ones.

    Raises:
        ProXError: the family has no member, or ``network`` is not its largest.

    >>> import torch
    >>> from monai_prox import MobileNetFamily
    >>> family = MobileNetFamily(input_channels=1, num_classes=2)
    >>> supernet = SuperNet(family).eval()
    >>> x = torch.zeros(1, 1, 224, 224)
    >>> supernet(x, family.space.smallest()).shape
    torch.Size([1, 2])
    >>> network = supernet.extract(family.space.smallest())  # an ordinary torchvision network
    >>> type(network).__name__
    'MobileNetV3'
    """

    def __init__(
        self, family: Family, network: nn.Module | None = None, *, kernel_transforms: WeightTransforms | None = None
    ) -> None:
        super().__init__()
        self.family = family
        self.network = family.build(family.space.largest()) if network is None else network
        tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
        paths = {name: name.rpartition(".") for name, _ in tensors}
        # Every step looks tensors up. A search through all modules would take longer than a small convolution.
        self._owners = {name: (self.network.get_submodule(path), key) for name, (path, _, key) in paths.items()}
        self.kernel_transforms: Any = kernel_transforms  # a module, which registers itself as one
        if isinstance(kernel_transforms, nn.Module):
            kernel_transforms.to(next(self.network.parameters()))
        self._skeletons: OrderedDict[Subnet, Skeleton] = OrderedDict()
        if network is not None:
            self._skeleton(family.space.largest())  # which is refused if the network lacks a part of it

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without skeletons, which are made anew and may hold the outputs of a step."""
        return {**self.__dict__, "_skeletons": OrderedDict()}

    def _skeleton(self, subnet: Subnet) -> Skeleton:
        """The skeleton of a subnet, from the cache if it is there."""
        if subnet in self._skeletons:
            self._skeletons.move_to_end(subnet)
            return self._skeletons[subnet]
        with torch.device("meta"):
            module = synchronise(self.family.build(self.family.space.check(subnet), initialise=False))
        sources = {
            name: self.family.locate(name, tuple(tensor.shape), subnet)
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        }
        self._skeletons[subnet] = Skeleton(module, sources, self._cuts(sources), outputs_within(module))
        if len(self._skeletons) > SKELETONS:
            self._skeletons.popitem(last=False)
        return self._skeletons[subnet]

    def regions(self, subnet: Subnet) -> dict[str, Region]:
        """The regions of the largest network's tensors that a member uses.

        Args:
            subnet: the member.

        Returns:
            The region by the name of the tensor. Tensors that the member does not use are not named.

        Raises:
            ProXError: the subnet is not a member.
        """
        return dict(self._skeleton(subnet).sources.values())

    def shapes(self, subnet: Subnet) -> nn.Module:
        """The stock network of a member on the meta device, with shapes and layers but without weights.

        Args:
            subnet: the member.

        Returns:
            The network. It is shared, so it must not be changed.

        Raises:
            ProXError: the subnet is not a member.
        """
        return self._skeleton(subnet).module

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(module, key) for name, (module, key) in self._owners.items()}

    def _cuts(self, sources: dict[str, tuple[str, Region]]) -> dict[str, Region]:
        """The regions that are not the whole tensor, by the name in the member; ProXError if the network lacks a region."""
        tensors = self._tensors()
        transformed = {} if self.kernel_transforms is None else self.kernel_transforms.sizes
        cuts = {}
        for name, (source, region) in sources.items():
            shape = tuple(tensors[source].shape) if source in tensors else None
            ends = tuple(parts[-1].stop for parts in region)
            if shape is None or len(shape) != len(ends) or any(has < end for has, end in zip(shape, ends, strict=True)):
                raise ProXError(
                    f"the network, a {type(self.network).__name__}, is not the largest of the family: of {source} it has "
                    f"{'nothing' if shape is None else list(shape)}, where at least {list(ends)} is needed"
                )
            if source in transformed:
                region = (*region[:2], *map(prefix, shape[2:]))
            if not covers(region, shape):
                cuts[name] = region
        return cuts

    def _weights(self, skeleton: Skeleton) -> dict[str, Tensor]:
        """The tensors of a skeleton, with gradients to the largest network. Whole tensors are not copied."""
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

    def forward(
        self, x: Tensor, subnet: Subnet, call: Callable[[nn.Module, dict[str, Tensor], Tensor], Any] = call_with
    ) -> Any:
        """Runs a member.

        Args:
            x: (B, C, *spatial) at full resolution.
            subnet: the member.
            call: runs the member's stock network, which is on the meta device, with its weights. A host may give ``call_with``
                compiled for this member.

        Returns:
            The output of the member's stock network, at the resolution of ``x``.

        Raises:
            ProXError: the subnet is not a member.
        """
        skeleton = self._skeleton(subnet)
        module = skeleton.module
        if module.training != self.training:
            module.train(self.training)
        self.family.synchronise(module, self.network)
        weights = self._weights(skeleton)
        outputs = self.family.run(lambda x: call(module, weights, x), x, subnet)
        skeleton.forget_outputs()
        return outputs

    @torch.no_grad()
    def extract(self, subnet: Subnet) -> nn.Module:
        """Copies a member out of the supernet. No random number is drawn.

        Args:
            subnet: the member.

        Returns:
            A stock network with its own weights, on the same device and in the same mode. Its inputs and outputs have the
            member's own resolution.

        Raises:
            ProXError: the subnet is not a member.
        """
        weights = self._weights(self._skeleton(subnet))
        network = self.family.build(subnet, initialise=False).to(next(iter(weights.values())).device)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            tensor.copy_(weights[name])
        self.family.synchronise(network, self.network)
        return network.train(self.training)

    def member(self, subnet: Subnet) -> Member:
        """Copies a member out of the supernet, with inputs and outputs at full resolution.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """
        return Member(self.family, subnet, self.extract(subnet))

    def view(self, subnet: Subnet) -> View:
        """A member that uses the supernet's own weights. It changes when they change.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """
        return View(self, subnet)


def without_weights(family: Family, *, kernel_transforms: Callable[[Family], WeightTransforms] | None = None) -> SuperNet:
    """A supernet on the meta device, which has shapes but takes no memory.

    Args:
        family: the family.
        kernel_transforms: makes the kernel transforms of a family, see ``SuperNet``. They are on the meta device, too.
    """
    with torch.device("meta"):
        network = family.build(family.space.largest(), initialise=False)
        return SuperNet(family, network, kernel_transforms=kernel_transforms and kernel_transforms(family))


class Member(nn.Module):
    """An extracted member whose inputs and outputs are at full resolution. For evaluation.

    Args:
        family: the family of the member.
        subnet: the member.
        network: its extracted stock network.
    """

    def __init__(self, family: Family, subnet: Subnet, network: nn.Module) -> None:
        super().__init__()
        self.family, self.subnet, self.network = family, subnet, network

    def forward(self, x: Tensor) -> Any:
        """Runs the member.

        Args:
            x: (B, C, *spatial) at full resolution.
        """
        return self.family.run(self.network, x, self.subnet)


class View(nn.Module):
    """A member of a supernet as a network of one output at full resolution. For evaluation.

    Args:
        supernet: the supernet.
        subnet: the member.

    Raises:
        ProXError: the subnet is not a member.
    """

    def __init__(self, supernet: SuperNet, subnet: Subnet) -> None:
        super().__init__()
        self.supernet, self.subnet = supernet, supernet.family.space.check(subnet)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the member.

        Args:
            x: (B, C, *spatial) at full resolution.
        """
        return finest(self.supernet(x, self.subnet), x)


def finest(outputs: Any, x: Tensor | None = None) -> Tensor:
    """The output at full resolution, which is the first of those of deep supervision.

    Args:
        outputs: what a network returned: one output, several, or, as MONAI's DynUNet has it, several in one tensor (B, heads,
            classes, *spatial).
        x: the network's input, (B, C, *spatial), which tells the last case. None means that a tensor is one output.
    """
    if not isinstance(outputs, Tensor):
        first: Tensor = outputs[0]
        return first
    return outputs[:, 0] if x is not None and outputs.ndim > x.ndim else outputs
