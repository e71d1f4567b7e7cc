"""MONAI's own segmentation networks: a member is the same class, built with fewer features."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from itertools import pairwise
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from monai_prox.core.initialisation import Uninitialised
from monai_prox.core.layers import Layer
from monai_prox.core.slicing import Region, centre
from monai_prox.core.slots import Need, Slot
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.errors import ProXError
from monai_prox.families.channel_parts import Followed, first_of_each, follow
from monai_prox.families.choices import width_fractions
from monai_prox.families.monai_arguments import (
    DEPTH,
    FEATURES,
    TARGET,
    blocks_of,
    cut_sizes,
    read_network,
    sizes_in,
    voxels_of,
)
from monai_prox.families.monai_choices import MONAIChoices
from monai_prox.families.monai_levels import fewer_levels, in_largest, level_slots

LARGEST_DIVISOR = 128
UNIT = re.compile(r"\.unit[1-9]\d*\.conv\.weight$")
FOLLOWED = 64  # members of which it is kept what their runs have shown


class MONAIFamily:
    """All networks of one of MONAI's classes that have some of the features of a given one, or some of its depth or kernels.

    The classes are those of ``FEATURES``. How a member's tensors lie in the largest network's is seen by running both on
    tensors without data, so any arguments will do that leave convolutions, linear layers and norms of channels.

    Args:
        network: the largest network as a bundle's configuration has it: ``_target_``, and the constructor's arguments.
        size: voxels per axis of an input that the network takes, for example of a training's patch.
        choices: what is elastic.
        open: number of choices that remain of each dimension whose last choices were closed, see ``SearchSpace.narrow``. None
            means all.

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

    def __init__(
        self,
        network: Mapping[str, Any],
        *,
        size: Sequence[int],
        choices: MONAIChoices = MONAIChoices(),
        open: Mapping[str, int] | None = None,
    ) -> None:
        if not isinstance(choices, MONAIChoices):
            raise ProXError(f"choices are {choices!r:.80}; they must be MONAIChoices")
        self.choices, self.size = choices, voxels_of(size)
        self._class, self._arguments = read_network(network)
        self._argument = FEATURES[self._class.__name__]
        self._features = self._read_features()
        if len(self.size) != self._argument_of("spatial_dims"):
            raise ProXError(f"the size is {list(self.size)}; the network has {self._argument_of('spatial_dims')} spatial axes")
        self._followed: OrderedDict[tuple[Subnet, tuple[int, ...]], Followed] = OrderedDict()
        fractions = width_fractions(choices.width, self._features[0])
        levels = level_slots(self._class.__name__, self._all_arguments(), choices.levels)
        dimensions = {
            "levels": levels,
            "depth": self._depths(),
            "width": self._slots(fractions, int(levels[0].choices[0]) if levels else len(self._features)),
            "kernel": self._kernels(),
        }
        self.space = SearchSpace({name: slots for name, slots in dimensions.items() if slots}).narrow(open or {})
        self._check_layers()

    # ------------------------------------------------------------------ reading the network
    def _argument_of(self, name: str) -> Any:
        return self._arguments.get(name, inspect.signature(self._class).parameters[name].default)

    def _all_arguments(self) -> dict[str, Any]:
        """The given arguments and the defaults of the others."""
        return {name: self._argument_of(name) for name in inspect.signature(self._class).parameters}

    def _read_features(self) -> list[int]:
        """One a level, or the one number that all follow from."""
        features = self._argument_of(self._argument)
        one = isinstance(inspect.signature(self._class).parameters[self._argument].default, int)
        if self._class.__name__ == "DynUNet":  # has numbers of its own if none are given, and leaves out those without strides
            features = list(getattr(self._build(self._arguments), self._argument))
        found = [features] if one else list(features) if isinstance(features, (list, tuple)) else []
        if not found or not all(type(value) is int and value > 0 for value in found):
            allowed = "a positive whole number" if one else "a list of positive whole numbers"
            raise ProXError(f"{self._argument} of {self._class.__name__} is {features!r:.80}; it must be {allowed}")
        return found

    def _slots(self, fractions: Sequence[float], fewest: int) -> tuple[Slot, ...]:
        """The choices of each level, such that all members have the same layers. fewest: number of levels that all have.

        A residual unit of stride 1 has a convolution in its shortcut if it changes the number of features, and none if not. So
        levels of the same features stay the same, and levels of others stay different.
        """
        choices = [self._widths(level, fractions) for level in range(len(self._features))]
        inputs = self._argument_of("in_channels")
        if inputs in choices[0][:-1] and self._equality_matters(0, inputs):
            choices[0].remove(inputs)
        slots = [Slot(choices=tuple(choices[0]))]
        for level, (before, of) in enumerate(pairwise(choices), start=1):
            need = Need("levels", 0, level + 1) if level >= fewest else None
            matters, equal = self._equality_matters(level), self._features[level] == self._features[level - 1]
            tie = {"equals" if equal else "differs": level - 1} if matters else {}
            slots.append(Slot(choices=tuple(before if matters and equal else of), need=need, **tie))
        return tuple(slots)

    def _equality_matters(self, level: int, inputs: int | None = None) -> bool:
        """Whether a network has other layers if a level has as many features as the one before, or as there are inputs."""
        many = lcm(*self._features)  # which groups of norms divide
        different = {other: many * (other + 2) for other in range(len(self._features))}
        equal = different | {level: different[level - 1] if inputs is None else inputs}
        return self._layers_of(equal) != self._layers_of(different)

    def _layers_of(self, changed: Mapping[int, int]) -> set[str]:
        """Names of tensors of the largest network with other features in some levels. There are none if it cannot be built."""
        widths = [changed.get(level, features) for level, features in enumerate(self._features)]
        try:
            return set(self._build(self._arguments | {self._argument: self._written(widths)}).state_dict())
        except ProXError:  # groups of norms do not divide the features
            return set()

    def _depths(self) -> tuple[Slot, ...]:
        """The numbers of blocks of each level, or of all together."""
        if self.choices.depth == "full":
            return ()
        if self._class.__name__ not in DEPTH:
            raise ProXError(f"depth is {self.choices.depth!r}; of {self._class.__name__} it is full, of {', '.join(DEPTH)} all")
        blocks = [count for name in DEPTH[self._class.__name__] for count in self._blocks(name)]
        return tuple(Slot(choices=tuple(range(1, count + 1))) for count in blocks)

    def _blocks(self, name: str) -> list[int]:
        """What an argument says about blocks, one number a level or one for all."""
        return blocks_of(self._argument_of(name), f"{name} of {self._class.__name__}")

    def _kernels(self) -> tuple[Slot, ...]:
        """The sizes of all kernels together."""
        if self.choices.kernel is None:
            return ()
        size = inspect.signature(self._class).parameters.get("kernel_size")
        full = None if size is None else self._argument_of("kernel_size")
        if max(sizes_in(full), default=None) != self.choices.kernel[-1]:
            raise ProXError(
                f"kernel is {list(self.choices.kernel)}; it ends in the largest kernel of the network's kernel_size, "
                f"which is {full!r:.80} of {self._class.__name__}"
            )
        return (Slot(choices=self.choices.kernel),)

    def _check_layers(self) -> None:
        """Refuses a family whose smallest member has layers that the largest has not, or lacks some for its width."""
        smallest, largest = ({*self._follow(member).parts} for member in (self.space.smallest(), self.space.largest()))
        smallest = {self._in_largest(name, self.space.smallest()) for name in smallest}
        fewer = self.choices.depth == "all" or self.choices.levels > 0
        others = sorted(smallest - largest if fewer else smallest ^ largest)
        if others:
            raise ProXError(f"{self._class.__name__} has other layers with fewer features: {', '.join(others):.200}")

    def _widths(self, level: int, fractions: Sequence[float]) -> list[int]:
        """Numbers of features that a level may have. Those that groups of a norm do not divide are raised until they do."""
        full, found = self._features[level], set()
        self._build(self._arguments)  # which says what is wrong
        for fraction in fractions:
            possible = range(max(1, round(fraction * full)), full + 1)
            found.add(next(features for features in possible if self._layers_of({level: features})))
        return sorted(found)

    def _written(self, widths: Sequence[int]) -> int | list[int]:
        return widths[0] if isinstance(self._argument_of(self._argument), int) else list(widths)

    def _build(self, arguments: Mapping[str, Any]) -> nn.Module:
        """Without weights."""
        try:
            with torch.device("meta"), Uninitialised():
                network: nn.Module = self._class(**arguments)
        except Exception as error:  # MONAI's constructors raise many
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ProXError(f"{self._class.__name__} cannot be built: {reason}") from error
        return network

    def _follow(self, subnet: Subnet, size: Sequence[int] | None = None) -> Followed:
        """What a run of a member shows."""
        key = subnet, self.size if size is None else voxels_of(size)
        if key not in self._followed:
            self._followed[key] = self._run(*key)
            if len(self._followed) > FOLLOWED:
                self._followed.popitem(last=False)
        self._followed.move_to_end(key)
        return self._followed[key]

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
        values = {name: [int(value) for value in of] for name, of in self.space.check(subnet).items()}
        arguments = {**deepcopy(self._arguments), self._argument: self._written([width for width in values["width"] if width])}
        if "depth" in values:
            blocks = iter(values["depth"])
            for name in DEPTH[self._class.__name__]:
                chosen = [next(blocks) for _ in self._blocks(name)]
                arguments |= {name: chosen[0] if isinstance(self._argument_of(name), int) else chosen} if chosen else {}
        if "kernel" in values:
            arguments["kernel_size"] = cut_sizes(self._argument_of("kernel_size"), values["kernel"][0])
        if "levels" in values:
            arguments |= fewer_levels(self._class.__name__, self._all_arguments() | arguments, values["levels"][0])
        return arguments

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
        subnet, largest = self.space.check(subnet), self._follow(self.space.largest())
        place = self._in_largest(name, subnet)
        own, full = self._follow(subnet).parts.get(name), largest.parts.get(place)
        if own is None or full is None or {a: len(of) for a, of in own.items()} != {a: len(of) for a, of in full.items()}:
            raise ProXError(f"the largest network has no {name} that reads the same channels: {subnet}")
        kernel = largest.shapes[place]
        return place, tuple(
            first_of_each(own[axis], full[axis]) if axis in own else centre(length, kernel[axis])
            for axis, length in enumerate(shape)
        )

    def _in_largest(self, name: str, subnet: Subnet) -> str:
        """The name that a member's tensor has in the largest network."""
        if "levels" not in subnet:
            return name
        return in_largest(name, int(subnet["levels"][0]), int(self.space.largest()["levels"][0]))

    def output_axis(self, name: str) -> int:
        """The axis of output channels, which is 1 for transposed convolutions. See ``Family.output_axis``."""
        return 1 if name in self._follow(self.space.largest()).transposed else 0

    def passes_through(self, name: str) -> int | None:
        """The first channel, of a further convolution in a residual unit. See ``Family.passes_through``."""
        return 0 if self._class.__name__ == "UNet" and UNIT.search(name) else None

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
                    self._follow(self.space.largest(), size)
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
