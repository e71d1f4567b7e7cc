"""Which channels the axes of a network's tensors count, seen while the network runs on tensors without data.

A member has the first channels of every layer. An axis that reads a concatenation has several parts, and a member has the
first channels of each of them. So the parts of an axis say where a member's tensor lies in the largest network's.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from monai_prox.core.layers import Layer
from monai_prox.core.slicing import prefix
from monai_prox.errors import ProXError

# Functions by their names, without the underscores of operators and of what works in place
_ALIKE = {  # they do the same to every channel, without mixing channels
    *["relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus", "hardswish", "hardsigmoid"],
    *[
        "hardtanh",
        "sigmoid",
        "tanh",
        "softmax",
        "dropout",
        "dropout2d",
        "dropout3d",
        "interpolate",
        "contiguous",
        "clone",
        "to",
    ],
    *[f"{kind}_pool{axes}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for axes in (1, 2, 3)],
}
_PAIRINGS = {"add", "iadd", "radd", "sub", "isub", "mul", "imul", "rmul", "div", "truediv"}  # channel by channel
_CONVOLUTIONS = {f"{kind}{axes}d" for kind in ("conv", "conv_transpose") for axes in (1, 2, 3)} | {"linear"}
_NORMS = {"instance_norm", "batch_norm", "group_norm", "prelu"}
_TAG = "monai_prox_parts"  # attribute of the tensors that are followed


class Parts(NamedTuple):
    """The channels of a value. sizes: of its parts, in order. unclear: what they cannot be followed through, if anything."""

    sizes: tuple[int, ...]
    unclear: str | None = None


@dataclass
class Followed:
    """What a run of a network has shown.

    parts: of all tensors by name, for each axis that counts channels, the sizes of its parts. transposed: names of the weights
    whose axis 1 counts output channels. shapes: of all tensors.
    layers: those of the network, for its cost. voxels: per axis of its first output.
    """

    parts: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    voxels: tuple[int, ...] = ()


def follow(network: nn.Module, inputs: int, size: Sequence[int]) -> Followed:
    """Runs a network in evaluation.

    Args:
        network: a network on the device "meta".
        inputs: number of input channels.
        size: voxels per axis of an input that the network takes.

    Raises:
        ProXError: a layer reads channels that cannot be followed, or has tensors that belong to no channels.
    """
    x = torch.empty(1, inputs, *size, device="meta")
    setattr(x, _TAG, Parts((inputs,)))
    running = _Running(network)
    training = network.training
    try:
        with torch.no_grad(), running:
            output = network.eval()(x)
    finally:
        network.train(training)
    return running.finished(output if isinstance(output, Tensor) else output[0])


class _Running(TorchFunctionMode):
    """Sees every function of torch that is called on tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network, self._found = network, Followed()
        self._names = {id(tensor): name for name, tensor in _tensors(network)}
        self._uses: dict[str, tuple[int, int]] = {}  # of weights: how often, and with how much in memory
        self._shared: set[int] = set()  # tensors that do the same to all channels
        self._living: dict[int, int] = {}  # elements of the values that something refers to

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            self._note(getattr(function, "__name__", str(function)).strip("_"), [*args, *kwargs.values()], kwargs, result)
        return result

    # ------------------------------------------------------------------ operations
    def _note(self, name: str, given: list[Any], kwargs: Mapping[str, Any], result: Tensor) -> None:
        memory = result.untyped_storage()._cdata
        if not hasattr(result, _TAG) and all(t.untyped_storage()._cdata != memory for t in given if isinstance(t, Tensor)):
            self._living[id(result)] = result.numel()
            weakref.finalize(result, self._living.pop, id(result), None)
        values = [one for one in given if isinstance(one, Tensor) and hasattr(one, _TAG)]
        if name in _CONVOLUTIONS:
            parts = self._mixed(name, given, kwargs, result)
        elif name == "cat" and _argument(given, kwargs, "dim", 1, 0) == 1 and (of := _tags(given[0])):
            parts = Parts(
                tuple(size for one in of for size in one.sizes), next((one.unclear for one in of if one.unclear), None)
            )
        elif not values:
            return
        else:
            parts = self._kept(name, given, values, result)
        setattr(result, _TAG, parts)

    def _kept(self, name: str, given: list[Any], values: list[Tensor], result: Tensor) -> Parts:
        """The parts of what keeps its channels, or what is unclear."""
        first: Parts = getattr(values[0], _TAG)
        if name in _NORMS:
            tensors = [tensor for tensor in given[1:] if isinstance(tensor, Tensor)]
            if name == "prelu" and tensors[0].numel() == 1:  # one slope for all channels
                self._shared.update(map(id, tensors))
                return first
            for tensor in tensors:
                self._count(tensor, 0, first)
            return first
        if name in _PAIRINGS:
            others = [getattr(one, _TAG) for one in values[1:] if one.ndim == result.ndim and one.shape[1] != 1]
            several = all(other.sizes == first.sizes for other in others) and values[0].shape == result.shape
            return (
                first if several else Parts((), f"{name} of channels in parts of {[first.sizes, *(o.sizes for o in others)]}")
            )
        padded = name == "pad" and len(given[1]) // 2 <= result.ndim - 2
        spatial = name == "getitem" and _keeps_channels(given[1])
        if name in _ALIKE or padded or spatial:
            return first
        flat = name in ("flatten", "squeeze", "view", "reshape") and result.numel() == result.shape[0] * sum(first.sizes)
        if flat and result.ndim > 1 and result.shape[1] == sum(first.sizes):
            return first
        return Parts((), name)

    def _mixed(self, name: str, given: list[Any], kwargs: Mapping[str, Any], result: Tensor) -> Parts:
        """The output of a layer that mixes its input channels."""
        x, weight, bias = given[0], given[1], given[2] if len(given) > 2 else None
        of = getattr(x, _TAG, Parts((), "a value of no layer"))
        if name == "linear" and x.ndim != 2:
            of = Parts((), "a linear layer of values with more axes than channels")
        reading = 0 if "transpose" in name else 1
        outputs = Parts((result.shape[1],))
        groups = 1 if name == "linear" else _argument(given, kwargs, "groups", 6, 1)
        if groups > 1:
            if not groups == x.shape[1] == result.shape[1]:
                of = Parts((), f"a convolution of {groups} groups")
            self._count(weight, 0, of)
            outputs = of
        else:
            self._count(weight, reading, of)
            self._count(weight, 1 - reading, outputs)
        if isinstance(bias, Tensor):
            self._count(bias, 0, outputs)
        if (called := self._names.get(id(weight))) is not None:
            voxels = prod((x if reading == 0 else result).shape[2:])
            uses, live = self._uses.get(called, (0, 0))
            self._uses[called] = uses + voxels, max(live, sum(self._living.values()) + x.numel() * (id(x) not in self._living))
            if reading == 0:
                self._found.transposed.add(called)
        return outputs

    def _count(self, tensor: Tensor, axis: int, parts: Parts) -> None:
        """Notes that an axis of a tensor counts some channels."""
        name = self._names.get(id(tensor))
        if name is None:  # made of tensors while the network runs
            raise ProXError(f"the network computes weights as it runs, {tuple(tensor.shape)}; those cannot be cut")
        if parts.unclear is not None:
            raise ProXError(f"{name} reads channels that cannot be followed through: {parts.unclear}")
        axes = self._found.parts.setdefault(name, {})
        if axes.setdefault(axis, parts.sizes) != parts.sizes:
            raise ProXError(f"{name} reads channels in parts of {axes[axis]}, and of {parts.sizes}")

    # ------------------------------------------------------------------ the whole
    def finished(self, output: Tensor) -> Followed:
        self._found.voxels = tuple(output.shape[2:])
        for name, tensor in _tensors(self._network):
            self._found.shapes[name] = tuple(tensor.shape)
            if self._found.parts.setdefault(name, {}) == {} and tensor.ndim and id(tensor) not in self._shared:
                raise ProXError(f"{name} is no tensor of a convolution, a linear layer or a norm of channels that was run")
        parameters = dict(self._network.named_parameters())
        for name, parameter in parameters.items():
            uses, live = self._uses.get(name, (0, 0))
            weights, others = (parameter.numel(), 0) if name in self._uses else (0, parameter.numel())
            self._found.layers.append(Layer(weights, others, uses, live))
        return self._found


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _tags(values: Any) -> list[Parts]:
    """Of all values, or none if one has none."""
    found = [getattr(value, _TAG, None) for value in values]
    return [] if None in found else found  # type: ignore[return-value]


def _argument(given: Sequence[Any], kwargs: Mapping[str, Any], name: str, position: int, default: Any) -> Any:
    if name in kwargs:
        return kwargs[name]
    return given[position] if len(given) > position else default


def _keeps_channels(index: Any) -> bool:
    index = index if isinstance(index, tuple) else (index,)
    whole = slice(None)
    return all(one == whole for one in index[:2]) or index[0] is Ellipsis


def first_of_each(parts: Sequence[int], full: Sequence[int]) -> tuple[slice, ...]:
    """The first channels of each part of an axis of the largest network, as many as a member has.

    Args:
        parts: sizes of the parts in the member.
        full: sizes of the parts in the largest network.

    >>> first_of_each([2, 3], [4, 8])
    (slice(0, 2, None), slice(4, 7, None))
    """
    if tuple(parts) == tuple(full):
        return prefix(sum(full))
    starts = accumulate(full, initial=0)
    return tuple(slice(start, start + length) for start, length in zip(starts, parts, strict=False))
