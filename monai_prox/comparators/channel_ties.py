"""The axes of tensors that count the same channels, found in a network's graph."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from monai_prox.core.slicing import Permutations, Region
from monai_prox.errors import ProXError

# Modules by their exact class, because a subclass may do anything, functions by themselves, methods by their names.
_AXES = (1, 2, 3)
_CONVOLUTIONS = {getattr(nn, f"Conv{kind}{n}d") for kind in ("", "Transpose") for n in _AXES}
_NORMS = {getattr(nn, f"{kind}Norm{n}d") for kind in ("Batch", "Instance") for n in _AXES} | {nn.SyncBatchNorm}
_POOLINGS = {getattr(nn, f"{kind}Pool{n}d"): n for kind in ("Avg", "Max", "AdaptiveAvg", "AdaptiveMax") for n in _AXES}
_POOLINGS |= {getattr(F, f"{kind}_pool{n}d"): n for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for n in _AXES}
_ALIKE = {  # they do the same to every channel, without mixing channels
    *[nn.Identity, nn.Upsample, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d],
    *[nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus],
    *[nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh],
    *[F.interpolate, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d],
    *[F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.softplus],
    *[F.hardsigmoid, F.hardswish, F.hardtanh, torch.relu, torch.sigmoid, torch.tanh],
    *["relu", "sigmoid", "tanh", "contiguous", "clone"],
}
_PAIRINGS = {  # they combine two values channel by channel
    *[operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv],
    *[torch.add, torch.sub, torch.mul, torch.div],
    *["add", "sub", "mul", "div"],
}
_CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}
_MEANS = {torch.mean, "mean"}
_FLATTENINGS = {torch.flatten, "flatten"}


@dataclass(eq=False)
class Group:
    """Channels that have one order: the output of a layer, or an input of the network."""

    size: int  # 0 for an input that no layer has read yet
    fixed: bool = False  # inputs and outputs of the network, whose order has to stay
    tied: Group | None = None  # the group that has the same order

    def head(self) -> Group:
        """The group that stands for all groups with the same order."""
        group = self
        while group.tied is not None:
            group = group.tied
        return group


class Channels(NamedTuple):
    """Axis 1 of a value.

    Args:
        groups: the groups of channels in their order.
        spatial: number of axes after the channels, or None for inputs, for which it is not known.
    """

    groups: tuple[Group, ...]
    spatial: int | None

    def sizes(self) -> list[int]:
        """The number of channels of each group, 0 if it is not known."""
        return [group.head().size for group in self.groups]

    def broadcasts(self) -> bool:
        """Whether there is one channel, which is combined with all channels of another value.

        A flattened channel may have many values, and an input may have any axes.
        """
        return bool(self.spatial) and self.sizes() == [1]


class _UnclearError(Exception):
    """Channels cannot be followed through an operation. The message is the reason."""


class Ties:
    """The channels that the axes of tensors count. They are found by following the channels through graphs."""

    def __init__(self) -> None:
        self.axes: dict[Tensor, dict[int, Channels]] = {}
        self._reading: dict[Tensor, int] = {}  # a weight's axis of input channels

    def follow(self, network: nn.Module) -> None:
        """Follows the channels through a network.

        Channels have one order if the same axis of a tensor counts them, in a layer that is used twice or in several networks.

        Args:
            network: the network.

        Raises:
            ProXError: torch.fx cannot trace the network, or an operation is not known to keep channels apart.
        """
        try:
            graph = fx.Tracer().trace(network)
        except Exception as error:  # torch.fx runs the network's code with proxies, which may raise any error
            raise ProXError(f"torch.fx cannot trace {type(network).__name__}: {error}") from error
        values: dict[fx.Node, Channels | None] = {}  # None for numbers, such as sizes
        for node in graph.nodes:
            layer = network.get_submodule(node.target) if node.op == "call_module" else None
            try:
                values[node] = self._value(node, layer, values)
            except _UnclearError as error:
                operation = node.target if layer is None else type(layer)
                raise ProXError(
                    f"channels cannot be sorted through {node.name}, {getattr(operation, '__name__', operation)}: {error}"
                ) from error

    def widths(self, tensors: Mapping[str, Tensor], narrower: Sequence[Mapping[str, Region]]) -> dict[Group, set[int]]:
        """The numbers of first channels that narrower members have of each group.

        Args:
            tensors: the network's parameters by name.
            narrower: see ``sort_channels``.
        """
        widths: dict[Group, set[int]] = {}
        for name, region in ((name, region) for regions in narrower for name, region in regions.items() if name in tensors):
            for axis, channels in self.axes[tensors[name]].items():
                start = 0
                for group in (group.head() for group in channels.groups):
                    within = slice(start, start + group.size)
                    width = sum(max(0, min(p.stop, within.stop) - max(p.start, within.start)) for p in region[axis])
                    widths.setdefault(group, set()).add(width)
                    start = within.stop
        return widths

    def permutations(self, widths: Mapping[Group, set[int]]) -> dict[Tensor, Permutations]:
        """The permutations that sort hidden channels, by tensor.

        Args:
            widths: what ``widths`` returned. No channel moves from one side of a width to the other.
        """
        importance: dict[Group, Tensor] = {}
        for weight, axis in self._reading.items():
            channels = self.axes[weight][axis]
            # Sums in double precision hardly depend on their order, so equal channels stay equal. They are computed on the CPU
            # because not every accelerator has double precision.
            absolute = weight.detach().to("cpu", torch.float64).abs()
            norms = absolute.transpose(0, axis).flatten(1).sum(1)
            for group, part in zip(channels.groups, torch.split(norms, channels.sizes()), strict=True):
                importance[group.head()] = importance.get(group.head(), 0) + part
        orders = {}
        for group, norms in importance.items():
            if not group.fixed:
                first_to_last = norms.argsort(descending=True, stable=True)
                bounds = torch.tensor(sorted(widths.get(group, ())), dtype=torch.long)
                between = torch.bucketize(first_to_last, bounds, right=True)
                orders[group] = first_to_last[between.argsort(stable=True)]

        def order(channels: Channels) -> Tensor:
            parts, start = [], 0
            for group in (group.head() for group in channels.groups):
                parts.append(start + orders.get(group, torch.arange(group.size)))
                start += group.size
            return torch.cat(parts)

        result: dict[Tensor, Permutations] = {}
        for tensor, axes in self.axes.items():
            hidden = {a: c for a, c in sorted(axes.items()) if not all(group.head().fixed for group in c.groups)}
            if hidden:
                result[tensor] = [(axis, order(channels).to(tensor.device)) for axis, channels in hidden.items()]
        return result

    # ------------------------------------------------------------------ operations
    def _value(self, node: fx.Node, layer: Any, values: dict[fx.Node, Channels | None]) -> Channels | None:
        if node.op == "placeholder":
            return Channels((Group(0, fixed=True),), None)
        inputs = [channels for source in node.all_input_nodes if (channels := values[source]) is not None]
        if node.op == "output":
            for channels in inputs:
                for group in channels.groups:
                    group.head().fixed = True
            return None
        if node.op == "get_attr":
            raise _UnclearError("a tensor outside of layers")

        operation: Any = node.target if layer is None else type(layer)
        if isinstance(operation, str):
            operation = operation.removesuffix("_")  # in place
        if operation in _PAIRINGS and len(inputs) < 3:
            return self._pair(inputs)
        if operation in _CONCATENATIONS and _argument(node, 1, "dim", 0) == 1:
            parts = [part for source in _argument(node, 0, "tensors", ()) if (part := values[source]) is not None]
            spatial = next((part.spatial for part in parts if part.spatial is not None), None)
            return Channels(tuple(group for part in parts for group in part.groups), spatial)
        if operation is operator.getitem and not inputs:
            return None
        if len(inputs) == 1 and (operation == "size" or (operation is getattr and node.args[1] == "shape")):
            return None
        if len(inputs) == 1 and (channels := self._single(node, operation, layer, inputs[0])) is not None:
            return channels
        raise _UnclearError("it is not known what that does to the order of channels")

    def _single(self, node: fx.Node, operation: Any, layer: Any, x: Channels) -> Channels | None:
        """The channels of an operation's output, or None if they are not known."""
        if operation in _ALIKE or (operation is nn.PReLU and layer.num_parameters == 1):
            for parameter in layer.parameters() if layer is not None else ():
                self.axes.setdefault(parameter, {})
            return x
        if operation in _CONVOLUTIONS:
            return self._convolution(layer, x)
        if operation is nn.Linear and x.spatial == 0:
            return self._dense(layer, x, reading=1, spatial=0)
        if operation is nn.PReLU:
            return self._counted(x, layer.weight)
        if operation in _NORMS:
            return self._counted(x, layer.weight, layer.bias, layer.running_mean, layer.running_var)
        # A pooling whose input has one axis less than expected treats the channels as the first spatial axis.
        if operation in _POOLINGS and x.spatial in (None, _POOLINGS[operation]):
            return x
        if operation in _MEANS:
            return _mean(x, _argument(node, 1, "dim", None), keep=_argument(node, 2, "keepdim", False))
        if operation in _FLATTENINGS:
            axes = (_argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1))
        elif operation is nn.Flatten:
            axes = (layer.start_dim, layer.end_dim)
        else:
            return None
        return x._replace(spatial=0) if axes == (1, -1) else None

    def _convolution(self, layer: Any, x: Channels) -> Channels:
        if layer.groups == 1:
            return self._dense(layer, x, reading=0 if layer.transposed else 1, spatial=layer.weight.ndim - 2)
        if not layer.groups == layer.in_channels == layer.out_channels:
            raise _UnclearError(f"of convolutions in groups only depthwise ones are known, not {layer.groups} groups")
        return self._counted(x, layer.weight, layer.bias)

    def _dense(self, layer: Any, x: Channels, *, reading: int, spatial: int) -> Channels:
        """The output of a layer that mixes all its input channels, which axis ``reading`` of the weight counts."""
        weight: Tensor = layer.weight
        result = Channels((Group(weight.shape[1 - reading]),), spatial)
        self._count(weight, reading, x)
        self._reading[weight] = reading
        self._count(weight, 1 - reading, result)
        return self._counted(result, layer.bias)

    def _counted(self, channels: Channels, *tensors: Tensor | None) -> Channels:
        for tensor in tensors:
            if tensor is not None:
                self._count(tensor, 0, channels)
        return channels

    def _count(self, tensor: Tensor, axis: int, channels: Channels) -> None:
        """Notes that an axis of a tensor counts some channels."""
        if channels.sizes() == [0]:
            channels.groups[0].head().size = tensor.shape[axis]
        sizes = channels.sizes()
        if sum(sizes) != tensor.shape[axis]:
            raise _UnclearError(f"its weights are for {tensor.shape[axis]} channels, the graph has {sizes}, 0 if not known")
        _tie(self.axes.setdefault(tensor, {}).setdefault(axis, channels), channels)

    def _pair(self, inputs: Sequence[Channels]) -> Channels | None:
        if len(inputs) < 2:  # one value and a number, one value twice, or only numbers
            return inputs[0] if inputs else None
        left, right = inputs
        if None not in (left.spatial, right.spatial) and left.spatial != right.spatial:
            raise _UnclearError(f"its inputs have {left.spatial} and {right.spatial} axes after that of channels")
        if left.broadcasts() != right.broadcasts():
            return right if left.broadcasts() else left
        _tie(left, right)
        return right if left.spatial is None else left


def _tie(left: Channels, right: Channels) -> None:
    """Gives the channels of two values the same order, group by group."""
    sizes = left.sizes(), right.sizes()
    if len(sizes[0]) != len(sizes[1]) or any(a != b and a and b for a, b in zip(*sizes, strict=True)):
        raise _UnclearError(f"it ties channels in parts of {sizes[0]} to channels in parts of {sizes[1]}")
    for left_group, right_group in zip(left.groups, right.groups, strict=True):
        head, follower = left_group.head(), right_group.head()
        if head is not follower:
            head.size, head.fixed, follower.tied = head.size or follower.size, head.fixed or follower.fixed, head


def _mean(x: Channels, axes: Any, *, keep: bool) -> Channels | None:
    """The channels of a mean over ``axes``, or None if these may be others than spatial axes."""
    axes = [axes] if isinstance(axes, int) else axes or ()
    if x.spatial is None or not axes or not all(isinstance(axis, int) and axis % (2 + x.spatial) > 1 for axis in axes):
        return None
    return x if keep else x._replace(spatial=x.spatial - len(axes))


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
