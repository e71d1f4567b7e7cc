"""Entries of plans: what nnU-Net writes is read, and nothing else reaches a network or a configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from helpers.architectures import KINDS, unet_architecture
from helpers.fuzzing import cases
from helpers.places import places
from hypothesis import given
from hypothesis import strategies as st

from monai_prox.errors import ProXError
from monai_prox.families.architecture import PLACE, build_network, checked, kind_of
from monai_prox.families.unet import UNetFamily

CODE = "__import__('os').system('touch marker')"
HOSTILE = [
    {"_target_": "os.system", "command": "touch marker"},
    {"_target_": "builtins.eval", "_args_": [CODE]},
    [{"_target_": "os.system", "command": "touch marker"}],
    "{'_target_': 'os.system', 'command': 'touch marker'}",
    json.dumps({"_target_": "os.system", "command": "touch marker"}),
    f"${CODE}",
    f" ${CODE}",
    "@network_def",
    "%inference.json#network_def",
    "os.system",
    "torch.hub.load",
    "torch.nn.functional.relu",
    "torch.nn.Module",
    "torch.nn.modules.activation.MultiheadAttention",
    "this.PlainConvUNet",
    -1,
    2.5,
    10**17,
    float("nan"),
    float("inf"),
    "",
    {},
    [],
    b"bytes",
]


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = deepcopy(data)
    *above, last = path
    node = changed
    for key in above:
        node = node[key]
    node[last] = value
    return changed


def plain(data: Any) -> bool:
    """Whether nothing in ``data`` is an expression, or would be instantiated."""
    if isinstance(data, dict):
        return "_target_" not in data and all(plain(key) and plain(value) for key, value in data.items())
    if isinstance(data, list):
        return all(map(plain, data))
    return not isinstance(data, str) or not any(mark in data for mark in ("_target_", "$", "@", "%", "__", "os."))


def family(entry: Any) -> UNetFamily:
    return UNetFamily(entry, input_channels=1, num_classes=2, patch_size=(16, 16, 16))


def refused_or_plain(make: Callable[[], UNetFamily]) -> None:
    try:
        made = make()
    except ProXError as error:
        assert "\n" not in str(error)
        return
    for subnet in (made.space.smallest(), made.space.largest()):
        entry = made.architecture_of(subnet)
        assert plain(entry["arch_kwargs"]) and entry["network_class_name"] == f"{PLACE}.unet.{made.kind}"
        json.dumps(entry, allow_nan=False)


ENTRIES = {kind: unet_architecture(kind, axes=3, dropout=0.1) for kind in KINDS}
EVERY = [(kind, path) for kind, entry in ENTRIES.items() for path in places(entry) if path]


@pytest.mark.parametrize(
    ("kind", "path"), EVERY, ids=lambda part: "/".join(map(str, part)) if isinstance(part, tuple) else part
)
def test_hostile_values_at_every_leaf_and_node_are_refused_or_harmless(kind: str, path: tuple[Any, ...]) -> None:
    for value in HOSTILE:
        refused_or_plain(lambda value=value: family(put(ENTRIES[kind], path, value)))


@given(st.data())
@cases(1_000)
def test_hostile_values_beside_others_are_refused(data: Any) -> None:
    """New entries, at any node that is an object, and new items of lists."""
    kind, value = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(HOSTILE))
    entry = deepcopy(ENTRIES[kind])
    objects = [path for path in places(entry) if isinstance(_at(entry, path), dict | list)]
    node = _at(entry, data.draw(st.sampled_from(objects)))
    if isinstance(node, list):
        node.append(value)
    else:
        node[data.draw(st.sampled_from(["_target_", "_mode_", "_requires_", "block", "weight", "device", "inplace"]))] = value
    refused_or_plain(lambda: family(entry))


def _at(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


@pytest.mark.parametrize(
    "name", ["this.PlainConvUNet", "PlainConvUNet", "os.PlainConvUNet", f"{PLACE}.unet.PlainConvUNet.x", 3, None]
)
def test_networks_are_known_by_their_whole_names(name: Any) -> None:
    with pytest.raises(ProXError, match="plans ask for the network"):
        family(unet_architecture(axes=3) | {"network_class_name": name})


def test_a_network_under_another_name_of_nnunets_is_written_under_its_own() -> None:
    """nnU-Net gives this name to networks of older plans."""
    old = unet_architecture(KINDS[1], axes=3) | {"network_class_name": f"{PLACE}.residual_unet.ResidualEncoderUNet"}
    assert kind_of(old) == KINDS[1]
    assert family(old).architecture_of(family(old).space.largest()) == unet_architecture(KINDS[1], axes=3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_planners_write_stays_as_it_is(kind: str) -> None:
    entry = unet_architecture(kind, axes=3, dropout=0.1)
    assert checked(entry, 3) == entry
    assert type(build_network(checked(entry, 3), input_channels=1, num_classes=2)).__name__ == kind


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("conv_bias", {"_target_": "os.system"}, "the plan's conv_bias is .*; it must be true or false"),
        ("conv_bias", 1, "the plan's conv_bias is 1; it must be true or false"),
        ("nonlin_kwargs", {"inplace": "yes"}, "nonlin_kwargs have inplace = 'yes'; allowed is a bool such as False"),
        ("nonlin_kwargs", {"device": "meta"}, "nonlin_kwargs have 'device'; allowed: negative_slope, inplace"),
        (
            "norm_op_kwargs",
            {"affine": True, "num_features": 3},
            "norm_op_kwargs have 'num_features'; allowed: eps, momentum, affine",
        ),
        ("dropout_op_kwargs", [0.5], r"dropout_op_kwargs are \[0.5\]; they must be an object or null"),
        ("strides", None, "the plan's arch_kwargs lack strides"),
        ("strides", "2", "the plan's strides has '2'; it must be a whole number or a list of them"),
        ("strides", [None, 2], "the plan's strides has None; it must be a whole number or a list of them"),
        ("strides", [[0, 0, 0], [2, 2, 2]], "the plan's strides has 0; allowed are whole numbers from 1 to 64"),
        ("features_per_stage", [4, True], "the plan's features_per_stage has True"),
        ("norm_op", "torch.nn.InstanceNorm2d", "the plan's norm_op is torch.nn.InstanceNorm2d, its patch_size has 3 axes"),
        ("surprise", 1, "the plan's arch_kwargs have 'surprise', which no PlainConvUNet of nnU-Net's plans has"),
    ],
)
def test_what_is_wrong_is_named(key: str, value: Any, message: str) -> None:
    entry = unet_architecture(axes=3, dropout=0.1)
    entry["arch_kwargs"][key] = value
    with pytest.raises(ProXError, match=message):
        family(entry)


@pytest.mark.parametrize("key", ["conv_op", "norm_op", "nonlin", "strides", "n_conv_per_stage_decoder"])
def test_what_is_missing_is_named(key: str) -> None:
    entry = unet_architecture(axes=3)
    del entry["arch_kwargs"][key]
    with pytest.raises(ProXError, match=f"the plan's arch_kwargs lack {key}"):
        family(entry)


def test_patches_that_nobody_has_memory_for_are_refused() -> None:
    for patch in ((2000, 2000, 2000), (512, 512, 512), (True, 16, 16), (16, 16, "16"), (0, 16, 16)):
        with pytest.raises(ProXError, match=r"patch_size is .*; it must be two or three positive whole numbers, at most"):
            UNetFamily(unet_architecture(axes=3), input_channels=1, num_classes=2, patch_size=patch)
