"""The ``architecture`` entry of an nnU-Net plan: checked, entry by entry, and built.

Plans come from outside. nnU-Net imports what their entries name, and MONAI's ConfigParser runs texts that look like
expressions. So this module only lets pass what has exactly the type that it has in nnU-Net's own plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from math import isfinite
from typing import Any

import numpy as np
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from monai_prox.errors import ProXError

PLACE = "dynamic_network_architectures.architectures"
NETWORKS = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}
# By the full name of the class. nnU-Net names another module in plans that it converts from an older format.
KINDS = {f"{PLACE}.{file}.{kind}": kind for file in ("unet", "residual_unet") for kind in NETWORKS}
DEPTH_KEY = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
WHOLE = (int, np.integer)
MOST = {"n_stages": 16, "features_per_stage": 65_536, "kernel_sizes": 31, "strides": 64}  # larger values are mistakes
MOST_BLOCKS = 32  # per stage
LARGEST = 65_536  # absolute value of any other number


def _classes(place: str, *classes: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """The classes by the two names that each has in plans."""
    return {f"{module}.{cls.__name__}": cls for module in ("torch.nn", f"torch.nn.modules.{place}") for cls in classes}


CLASSES: dict[str, dict[str, type[nn.Module]]] = {
    "conv_op": _classes("conv", nn.Conv2d, nn.Conv3d),
    "norm_op": _classes("instancenorm", nn.InstanceNorm2d, nn.InstanceNorm3d),
    "dropout_op": _classes("dropout", nn.Dropout, nn.Dropout2d, nn.Dropout3d),
    "nonlin": _classes(
        "activation",
        *(nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
        *(nn.Softplus, nn.Tanh, nn.Sigmoid),
    ),
}
KEYWORDS = {"norm_op_kwargs": "norm_op", "dropout_op_kwargs": "dropout_op", "nonlin_kwargs": "nonlin"}  # arguments of a class
FORBIDDEN = {"device", "dtype", "num_features", "track_running_stats"}  # arguments of the classes
TEXTS = {"approximate": ("none", "tanh")}  # an argument of GELU, the only one that is a text
SWITCHES = ("conv_bias", "deep_supervision", "nonlin_first")
UNSUPPORTED = ("bottleneck_channels", "stem_channels", "squeeze_excitation")  # unless they are null, false or 0


def kind_of(architecture: Mapping[str, Any]) -> str:
    """The name of the network's class, without its module.

    Args:
        architecture: an ``architecture`` entry.

    Returns:
        "PlainConvUNet" or "ResidualEncoderUNet".

    Raises:
        ProXError: the network is another one.
    """
    name = architecture["network_class_name"]
    if not isinstance(name, str) or name not in KINDS:
        raise ProXError(
            f"plans ask for the network {name!s:.120}; supported are nnU-Net's {', '.join(NETWORKS)} of {PLACE}.unet"
        )
    return KINDS[name]


def checked(architecture: Mapping[str, Any], axes: int) -> dict[str, Any]:
    """An ``architecture`` entry in normal form.

    Args:
        architecture: the entry.
        axes: the number of axes of the plan's patch.

    Returns:
        New objects of plain types, with one number per level and axis.

    Raises:
        ProXError: an entry is unknown or missing, has another type, or is out of range.
    """
    kind, entries = kind_of(architecture), architecture["arch_kwargs"]
    if not isinstance(entries, Mapping):
        raise ProXError(f"the plan's arch_kwargs are {entries!r:.80}; they must be an object")
    names = architecture["_kw_requires_import"]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name in CLASSES for name in names):
        raise ProXError(f"the plan's _kw_requires_import is {names!r:.80}; allowed are {', '.join(CLASSES)}")
    unsupported = [key for key in UNSUPPORTED if entries.get(key)]
    if unsupported:
        raise ProXError(f"plans with {' and '.join(unsupported)} are not supported")
    required = ("features_per_stage", "kernel_sizes", "strides", DEPTH_KEY[kind], "n_conv_per_stage_decoder")
    missing = [key for key in ("n_stages", *required, "conv_op", "norm_op", "nonlin") if entries.get(key) is None]
    if missing:
        raise ProXError(f"the plan's arch_kwargs lack {', '.join(missing)}")
    levels = _whole("n_stages", entries["n_stages"])
    counts = ((levels, None), (levels, axes), (levels, axes), (levels, None), (levels - 1, None))
    per_level = dict(zip(required, counts, strict=True))
    read: dict[str, Any] = {}
    for key, value in entries.items():
        if key == "n_stages":
            read[key] = levels
        elif key in per_level:
            read[key] = _per_level(key, value, *per_level[key])
        elif key in CLASSES:
            read[key] = _class_name(key, value, axes)
        elif key in KEYWORDS:
            name = entries.get(KEYWORDS[key])
            read[key] = _keywords(key, value, None if name is None else _class(KEYWORDS[key], name))
        elif key in SWITCHES:
            read[key] = _switch(key, value)
        elif key not in UNSUPPORTED:
            allowed = ", ".join(["n_stages", *per_level, *CLASSES, *KEYWORDS, *SWITCHES])
            raise ProXError(
                f"the plan's arch_kwargs have {key!r:.80}, which no {kind} of nnU-Net's plans has; allowed: {allowed}"
            )
    return {"network_class_name": f"{PLACE}.unet.{kind}", "arch_kwargs": read, "_kw_requires_import": list(CLASSES)}


def build_network(architecture: Mapping[str, Any], *, input_channels: int, num_classes: int) -> nn.Module:
    """The stock network of an ``architecture`` entry.

    Args:
        architecture: what ``checked`` returned.
        input_channels: number of input channels.
        num_classes: number of output channels.
    """
    kwargs = dict(architecture["arch_kwargs"])
    kwargs |= {key: kwargs[key] and _class(key, kwargs[key]) for key in CLASSES if key in kwargs}
    network: nn.Module = NETWORKS[kind_of(architecture)](
        input_channels=input_channels, num_classes=num_classes, **({"deep_supervision": False} | kwargs)
    )
    return network


def _whole(key: str, value: Any) -> int:
    maximum = MOST.get(key, MOST_BLOCKS)
    if isinstance(value, bool) or not isinstance(value, WHOLE) or not 1 <= value <= maximum:
        raise ProXError(f"the plan's {key} has {value!r:.80}; allowed are whole numbers from 1 to {maximum}")
    return int(value)


def _per_level(key: str, entry: Any, count: int, axes: int | None) -> list[Any]:
    """A list of one number per level, or of one list per level with one number per axis. A plan may give one number for all."""

    def spread(value: Any, count: int) -> list[Any]:
        values = [value] * count if isinstance(value, WHOLE) else value
        if not isinstance(values, list | tuple):
            raise ProXError(f"the plan's {key} has {value!r:.80}; it must be a whole number or a list of them")
        if len(values) != count:
            raise ProXError(f"the plan's {key} has {len(values)} entries, {value!r:.80}; there must be {count}")
        return list(values)

    values = spread(entry, count)
    if axes is None:
        return [_whole(key, value) for value in values]
    return [[_whole(key, size) for size in spread(value, axes)] for value in values]


def _class(key: str, name: Any) -> type[nn.Module]:
    if not isinstance(name, str) or name not in CLASSES[key]:
        allowed = ", ".join(dict.fromkeys(f"torch.nn.{cls.__name__}" for cls in CLASSES[key].values()))
        raise ProXError(f"the plan's {key} is {name!r:.80}; allowed: {allowed}")
    return CLASSES[key][name]


def _class_name(key: str, name: Any, axes: int) -> str | None:
    if name is None and key == "dropout_op":
        return None
    cls = _class(key, name)
    if cls.__name__[-2:] in ("2d", "3d") and not cls.__name__.endswith(f"{axes}d") and key != "dropout_op":
        raise ProXError(f"the plan's {key} is {name}, its patch_size has {axes} axes")
    return str(name)


def _switch(key: str, value: Any) -> bool:
    if type(value) is not bool:
        raise ProXError(f"the plan's {key} is {value!r:.80}; it must be true or false")
    return value


def _keywords(key: str, entries: Any, cls: type[nn.Module] | None) -> dict[str, Any] | None:
    """The arguments of a class, each checked to be of the type of its default."""
    if entries is None:
        return None
    if not isinstance(entries, Mapping):
        raise ProXError(f"the plan's {key} are {entries!r:.80}; they must be an object or null")
    defaults = {} if cls is None else {name: p.default for name, p in signature(cls).parameters.items()}
    for name, value in entries.items():
        default = defaults.get(name)
        if name in FORBIDDEN or type(default) not in (bool, int, float, str):
            allowed = [n for n, d in defaults.items() if n not in FORBIDDEN and type(d) in (bool, int, float, str)]
            raise ProXError(f"the plan's {key} have {name!r:.80}; allowed: {', '.join(allowed) or 'nothing'}")
        kinds = (int, float) if type(default) is float else (type(default),)
        fits = type(value) in kinds and (
            value in TEXTS.get(name, ()) if type(value) is str else isfinite(value) and abs(value) <= LARGEST
        )
        if not fits:
            raise ProXError(
                f"the plan's {key} have {name} = {value!r:.80}; allowed is a {type(default).__name__} such as {default!r}"
            )
    return dict(entries)
