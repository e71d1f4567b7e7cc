"""A network of MONAI as a configuration has it: its class, and its constructor's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from monai.networks import nets
from torch import nn

from monai_prox.errors import ProXError

# The argument that says how many features the levels have: one number each, or one for the first, which others double
FEATURES: Mapping[str, str] = {
    "UNet": "channels",
    "BasicUNet": "features",
    "DynUNet": "filters",
    "AttentionUnet": "channels",
    "SegResNet": "init_filters",
    "SegResNetDS": "init_filters",
}
# The arguments that say how many blocks there are, one number for all or one each level
DEPTH: Mapping[str, tuple[str, ...]] = {
    "UNet": ("num_res_units",),
    "SegResNet": ("blocks_down", "blocks_up"),
    "SegResNetDS": ("blocks_down", "blocks_up"),
}
TARGET = "_target_"
MOST_ITEMS, LARGEST, MOST_BLOCKS = 64, 65_536, 64  # of arguments, so that no file makes a network without end
NUMBERS = frozenset({"spatial_dims", "in_channels", "out_channels"})


def voxels_of(size: Any) -> tuple[int, ...]:
    """The size of an input.

    Args:
        size: voxels per axis.

    Raises:
        ProXError: it is something else.
    """
    if not isinstance(size, Sequence) or not all(isinstance(voxels, int) and voxels > 0 for voxels in size):
        raise ProXError(f"the size is {size!r:.80}; it must be the voxels per axis, such as (96, 96, 96)")
    return tuple(size)


def class_named(target: Any) -> type[nn.Module] | None:
    """The class of MONAI that a configuration names, if it can be made elastic.

    Args:
        target: the name, with or without its module.
    """
    path, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    cls: Any = getattr(nets, name, None)  # by any of its names, such as Unet
    known = getattr(cls, "__name__", None) in FEATURES and path in ("", nets.__name__, cls.__module__)
    return cls if known else None


def read_network(network: Any) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class of a configuration's network, and copies of its arguments.

    Args:
        network: ``_target_``, and the constructor's arguments.

    Raises:
        ProXError: the class is not known, or an argument is unknown, missing or not plain.
    """
    if not isinstance(network, Mapping) or TARGET not in network or not all(isinstance(key, str) for key in network):
        raise ProXError(f"a network is an object with {TARGET} and arguments, got {network!r:.120}")
    cls = class_named(network[TARGET])
    if cls is None:
        raise ProXError(f"{network[TARGET]!r:.80} is no network that can be made elastic; allowed: {', '.join(FEATURES)}")
    arguments = {key: deepcopy(value) for key, value in network.items() if not (key.startswith("_") and key.endswith("_"))}
    known = inspect.signature(cls).parameters
    if unknown := sorted(arguments.keys() - known.keys()):
        raise ProXError(f"{cls.__name__} has no argument {', '.join(unknown):.80}; it has {', '.join(known)}")
    missing = [key for key, one in known.items() if one.default is inspect.Parameter.empty and key not in arguments]
    if missing:
        raise ProXError(f"{cls.__name__} needs {', '.join(missing)}")
    for key, value in arguments.items():
        _check_value(f"{key} of {cls.__name__}", value)
    for key in NUMBERS & arguments.keys():
        if type(arguments[key]) is not int or arguments[key] < 1:
            raise ProXError(f"{key} of {cls.__name__} is {arguments[key]!r:.80}; it must be a positive whole number")
    for key in DEPTH.get(cls.__name__, ()):
        blocks = arguments.get(key, ())
        if any(type(count) is int and count > MOST_BLOCKS for count in ([blocks] if isinstance(blocks, int) else blocks or ())):
            raise ProXError(f"{key} of {cls.__name__} is {blocks!r:.80}; at most {MOST_BLOCKS} are allowed")
    return cls, arguments


def blocks_of(given: Any, what: str) -> list[int]:
    """The numbers of blocks in an argument, one for each level or one for all.

    Args:
        given: the argument, or None.
        what: what it is, for errors.

    Raises:
        ProXError: a level has no block.
    """
    blocks = [given] if isinstance(given, int) else list(given or ())
    if not all(type(count) is int and count > 0 for count in blocks):
        raise ProXError(f"{what} is {given!r:.80}; an elastic depth, or elastic levels, need at least 1 everywhere")
    return blocks


def sizes_in(kernels: Any) -> list[int]:
    """The sizes of kernels in an argument: one number, or lists of them by level and axis.

    Args:
        kernels: the argument.

    >>> sizes_in([3, [1, 3, 5]])
    [3, 1, 3, 5]
    """
    if isinstance(kernels, (list, tuple)):
        return [size for of in kernels for size in sizes_in(of)]
    return [kernels] if type(kernels) is int else []


def cut_sizes(kernels: Any, most: int) -> Any:
    """Sizes of kernels of which none is larger than a number.

    Args:
        kernels: the argument, see ``sizes_in``.
        most: the number.

    >>> cut_sizes([3, [1, 3, 5]], 3)
    [3, [1, 3, 3]]
    """
    return [cut_sizes(of, most) for of in kernels] if isinstance(kernels, (list, tuple)) else min(kernels, most)


def _check_value(what: str, value: Any) -> None:
    """Refuses a value that is not plain: what a configuration has to resolve first, or a module with weights of its own."""
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        raise ProXError(f"{what} is {value!r:.80}, which a configuration has to resolve first")
    if (isinstance(value, (list, tuple)) and len(value) > MOST_ITEMS) or (type(value) is int and abs(value) > LARGEST):
        raise ProXError(f"{what} is {value!r:.80}; numbers are allowed up to {LARGEST:,}, and lists of {MOST_ITEMS}")
    if isinstance(value, nn.Module):
        raise ProXError(f"{what} is a {type(value).__name__}, a module that all members would share; leave it out")
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    for item in items:
        _check_value(what, item)
