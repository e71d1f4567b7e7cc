"""MONAI's own segmentation networks: a member is the same class, built with fewer features."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn

from monai_prox.core.layers import Layer
from monai_prox.core.slicing import Region, prefix
from monai_prox.core.slots import Slot
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.errors import ProXError
from monai_prox.families.channel_parts import Followed, follow
from monai_prox.families.choices import check_fractions, read_choices, width_fractions

# The argument that says how many features the levels have: one number each, or one for the first, which others double
FEATURES: Mapping[str, str] = {
    "UNet": "channels",
    "BasicUNet": "features",
    "DynUNet": "filters",
    "AttentionUnet": "channels",
    "SegResNet": "init_filters",
    "SegResNetDS": "init_filters",
}
TARGET = "_target_"
LARGEST_DIVISOR = 128
FOLLOWED = 64  # members of which it is kept what their runs have shown


@dataclass(frozen=True, kw_only=True)
class WidthChoices:
    """What is elastic in a family of MONAI's networks: the features of each level.

    Args:
        width: fractions of the network's features, ascending. The last one is 1. None means 1/2, 3/4 and 1, and 1/4 if that
            leaves at least 4 features in the first level.

    Raises:
        ProXError: a value is out of range.

    >>> WidthChoices(width=(0.5, 1))
    WidthChoices(width=(0.5, 1))
    """

    width: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.width is not None:
            check_fractions("width", self.width)

    @classmethod
    def from_json(cls, data: Any) -> WidthChoices:
        """The choices that a configuration asks for.

        Args:
            data: "default", or an object with some of the fields above.

        Raises:
            ProXError: the name is unknown, or a field is unknown, has another type or is out of range.
        """
        return read_choices(cls, data, {"default": cls()}, lists=("width",))


class MONAIFamily:
    """All networks of one of MONAI's classes that have some of the features of a given one.

    The classes are those of ``FEATURES``. How a member's tensors lie in the largest network's is seen by running both on
    tensors without data, so any arguments will do that leave convolutions, linear layers and norms of channels.

    Args:
        network: the largest network as a bundle's configuration has it: ``_target_``, and the constructor's arguments.
        size: voxels per axis of an input that the network takes, for example of a training's patch.
        choices: what is elastic.

    Raises:
        ProXError: the class is not known, its arguments do not build a network, its input size does not fit it, or channels
            cannot be followed through one of its layers.

    >>> network = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    >>> network |= {"channels": [8, 16], "strides": [2]}
    >>> family = MONAIFamily(network, size=(32, 32))
    >>> print(family.space)
    width {4, 6, 8} {8, 12, 16}
    >>> family.architecture_of(family.space.smallest())["channels"]
    [4, 8]
    """

    def __init__(self, network: Mapping[str, Any], *, size: Sequence[int], choices: WidthChoices = WidthChoices()) -> None:
        self.choices, self.size = choices, tuple(size)
        self._class, self._arguments = _read(network)
        self._argument = FEATURES[self._class.__name__]
        self._features = self._read_features()
        if len(self.size) != self._argument_of("spatial_dims"):
            raise ProXError(f"the size is {list(self.size)}; the network has {self._argument_of('spatial_dims')} spatial axes")
        self._kept = lru_cache(FOLLOWED)(self._run)
        fractions = width_fractions(choices.width, self._features[0])
        widths = [self._widths(level, fractions) for level in range(len(self._features))]
        self.space = SearchSpace({"width": tuple(Slot(choices=tuple(of)) for of in widths)})
        largest = self._follow(self.space.largest())
        smallest = self._follow(self.space.smallest())
        if largest.parts.keys() != smallest.parts.keys():
            others = sorted(largest.parts.keys() ^ smallest.parts.keys())
            raise ProXError(f"{self._class.__name__} has other layers with fewer features: {', '.join(others):.200}")

    # ------------------------------------------------------------------ reading the network
    def _argument_of(self, name: str) -> Any:
        return self._arguments.get(name, inspect.signature(self._class).parameters[name].default)

    def _read_features(self) -> list[int]:
        """One a level, or the one number that all follow from."""
        features = self._argument_of(self._argument)
        if features is None:  # DynUNet's own
            features = getattr(self._build(self._arguments), self._argument)
        found = [features] if isinstance(features, int) else list(features)
        if not all(type(value) is int and value > 0 for value in found):
            raise ProXError(f"{self._argument} is {features!r:.80}; it must be positive whole numbers")
        return found

    def _widths(self, level: int, fractions: Sequence[float]) -> list[int]:
        """Numbers of features that a level may have. Those that groups of a norm do not divide are raised until they do."""
        full, found = self._features[level], set()
        for fraction in fractions:
            for features in range(max(1, round(fraction * full)), full + 1):
                widths = [*self._features[:level], features, *self._features[level + 1 :]]
                try:
                    self._build(self._arguments | {self._argument: self._written(widths)})
                except ProXError:
                    if features == full:
                        raise
                else:
                    found.add(features)
                    break
        return sorted(found)

    def _written(self, widths: Sequence[int]) -> int | list[int]:
        return widths[0] if isinstance(self._argument_of(self._argument), int) else list(widths)

    def _build(self, arguments: Mapping[str, Any]) -> nn.Module:
        """Without weights."""
        try:
            with torch.device("meta"):
                network: nn.Module = self._class(**arguments)
        except Exception as error:  # MONAI's constructors raise many
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ProXError(f"{self._class.__name__} cannot be built: {reason}") from error
        return network

    def _follow(self, subnet: Subnet, size: Sequence[int] | None = None) -> Followed:
        """What a run of a member shows."""
        return self._kept(subnet, self.size if size is None else tuple(size))

    def _run(self, subnet: Subnet, size: tuple[int, ...]) -> Followed:
        network = self._build(self._arguments_of(subnet))
        try:
            found = follow(network, self._argument_of("in_channels"), size)
        except ProXError as error:
            raise ProXError(f"{self._class.__name__} cannot be made elastic: {error}") from error
        except Exception as error:  # networks raise any
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ProXError(f"{self._class.__name__} does not take inputs of {size} voxels: {reason}") from error
        if found.voxels != size:
            raise ProXError(f"{self._class.__name__} does not take inputs of {size} voxels: its output has {found.voxels}")
        return found

    # ------------------------------------------------------------------ building members
    def _arguments_of(self, subnet: Subnet) -> dict[str, Any]:
        widths = [int(value) for value in self.space.check(subnet)["width"]]
        return {**self._arguments, self._argument: self._written(widths)}

    def architecture_of(self, subnet: Subnet) -> dict[str, Any]:
        """The network of a member as a bundle's configuration has it.

        Args:
            subnet: the member.

        Raises:
            ProXError: the subnet is not a member.
        """
        return {TARGET: self._class.__name__, **self._arguments_of(subnet)}

    def build(self, subnet: Subnet, *, initialise: bool = True) -> nn.Module:
        """The stock network of a member.

        Args:
            subnet: the member.
            initialise: whether the weights are initialised, as MONAI does. If not, they may have any values.

        Raises:
            ProXError: the subnet is not a member.
        """
        arguments, device = self._arguments_of(subnet), torch.get_default_device()
        if initialise:
            network: nn.Module = self._class(**arguments)
            return network
        network = self._build(arguments)
        return network if device.type == "meta" else network.to_empty(device=device)

    def layers(self, subnet: Subnet, size: Sequence[int] | None = None) -> Iterator[Layer]:
        """The layers of a member's network. See ``Family.layers``."""
        yield from self._follow(self.space.check(subnet), size).layers

    def synchronise(self, skeleton: nn.Module, network: nn.Module) -> None:
        """Copies the switch of deep supervision, of networks that have one. See ``Family.synchronise``."""
        if hasattr(network, "deep_supervision"):
            skeleton.deep_supervision = network.deep_supervision

    # ------------------------------------------------------------------ where weights live
    def locate(self, name: str, shape: tuple[int, ...], subnet: Subnet) -> tuple[str, Region]:
        """The place of a member's tensor in the largest network. See ``Family.locate``."""
        own, full = (self._follow(of).parts.get(name) for of in (self.space.check(subnet), self.space.largest()))
        if own is None or full is None or {a: len(of) for a, of in own.items()} != {a: len(of) for a, of in full.items()}:
            raise ProXError(f"the largest network has no {name} that reads the same channels: {subnet}")
        return name, tuple(
            _first_of_each(own[axis], full[axis]) if axis in own else prefix(length) for axis, length in enumerate(shape)
        )

    def output_axis(self, name: str) -> int:
        """The axis of output channels, which is 1 for transposed convolutions. See ``Family.output_axis``."""
        return 1 if name in self._follow(self.space.largest()).transposed else 0

    def passes_through(self, name: str) -> int | None:
        """None, because no member lacks layers. See ``Family.passes_through``."""
        return None

    def group(self, name: str) -> str:
        """The module that a tensor belongs to. See ``Family.group``."""
        return name.rpartition(".")[0]

    # ------------------------------------------------------------------ running
    @cached_property
    def divisor(self) -> tuple[int, ...]:
        """The smallest powers of two, one per axis, whose multiples the network takes."""
        return tuple(map(self._divisor, range(len(self.size))))

    def _divisor(self, axis: int) -> int:
        divisor = 1
        while divisor <= LARGEST_DIVISOR:
            try:
                odd = -(-self.size[axis] // divisor) | 1
                for times in (odd, odd + 2):
                    size = (*self.size[:axis], divisor * times, *self.size[axis + 1 :])
                    self._follow(self.space.smallest(), size)
            except ProXError:
                divisor *= 2
            else:
                return divisor
        raise ProXError(f"{self._class.__name__} takes no inputs whose size is a multiple of {LARGEST_DIVISOR}")

    def input_size(self, size: Sequence[int], resolution: float) -> tuple[int, ...]:
        """The size itself, because resolution is not elastic. See ``Family.input_size``."""
        return tuple(size)

    def run(self, network: Callable[[Tensor], Any], x: Tensor, subnet: Subnet) -> Any:
        """Runs a member's network. See ``Family.run``."""
        return network(x)


def _first_of_each(parts: Sequence[int], full: Sequence[int]) -> tuple[slice, ...]:
    """The first channels of each part of an axis of the largest network, as many as the member has."""
    if tuple(parts) == tuple(full):
        return prefix(sum(full))
    starts = accumulate(full, initial=0)
    return tuple(slice(start, start + length) for start, length in zip(starts, parts, strict=False))


def _read(network: Any) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class of a configuration's network, and its arguments."""
    if not isinstance(network, Mapping) or TARGET not in network:
        raise ProXError(f"a network is an object with {TARGET} and arguments, got {network!r:.120}")
    target = str(network[TARGET])
    path, _, name = target.rpartition(".")
    if name not in FEATURES or path not in ("", nets.__name__, getattr(nets, name).__module__):
        raise ProXError(f"{target!r:.80} is no network that can be made elastic; allowed: {', '.join(FEATURES)}")
    arguments = {key: value for key, value in network.items() if not (key.startswith("_") and key.endswith("_"))}
    known = inspect.signature(cls := getattr(nets, name)).parameters
    if unknown := sorted(arguments.keys() - known.keys()):
        raise ProXError(f"{name} has no argument {', '.join(unknown):.80}; it has {', '.join(known)}")
    missing = [key for key, one in known.items() if one.default is inspect.Parameter.empty and key not in arguments]
    if missing:
        raise ProXError(f"{name} needs {', '.join(missing)}")
    for key, value in arguments.items():
        if isinstance(value, str) and value[:1] in ("$", "@", "%"):
            raise ProXError(f"{key} of {name} is {value!r:.80}, which a configuration has to resolve first")
    return cls, arguments
