"""MONAI's own networks: a member sliced out of the supernet, the same member cut out, and MONAI's own network are one."""

from __future__ import annotations

import pickle
import random
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from helpers.architectures import randomise_norms
from helpers.refusals import refused
from monai.networks import nets
from torch import Tensor, nn

from monai_prox.comparators.importance import sort_channels_of
from monai_prox.core import cost
from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet, finest
from monai_prox.families.channel_parts import follow
from monai_prox.families.from_network import supernet_of
from monai_prox.families.monai_arguments import FEATURES
from monai_prox.families.monai_choices import MONAIChoices
from monai_prox.families.monai_networks import MONAIFamily
from monai_prox.training.engine import Engine
from monai_prox.training.recipes import make_schedule

THREE = {"spatial_dims": 3, "in_channels": 2, "out_channels": 3}
TWO = THREE | {"spatial_dims": 2}
NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": {"_target_": "UNet", **THREE, "channels": [8, 16, 24], "strides": [2, 2], "num_res_units": 2, "norm": "batch"},
    "a flat UNet of other kernels": {
        **{"_target_": "monai.networks.nets.UNet", **TWO, "channels": [8, 12, 16, 16], "strides": [2, 2, 1]},
        **{"kernel_size": 5, "up_kernel_size": 3, "adn_ordering": "NA", "act": "relu", "norm": ("group", {"num_groups": 4})},
    },
    "BasicUNet": {"_target_": "monai.networks.nets.basic_unet.BasicUNet", **TWO, "features": [8, 8, 12, 16, 16, 12]},
    "a BasicUNet that interpolates": {
        **{"_target_": "BasicUNet", **TWO, "features": [8, 8, 12, 16, 16, 12]},
        **{"upsample": "nontrainable", "norm": ("batch", {"affine": True})},
    },
    "DynUNet": {
        **{"_target_": "DynUNet", **THREE, "kernel_size": [3, [1, 3, 3], 3], "strides": [1, 2, 2]},
        **{"upsample_kernel_size": [2, 2], "filters": [8, 12, 16], "deep_supervision": True, "trans_bias": True},
    },
    "a residual DynUNet": {
        **{"_target_": "DynUNet", **TWO, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]},
        **{"filters": [8, 12, 16], "res_block": True, "norm_name": "batch"},
    },
    "SegResNet": {"_target_": "SegResNet", **THREE, "init_filters": 16, "blocks_down": [1, 2], "blocks_up": [1]},
    "a SegResNet of deconvolutions": {
        **{"_target_": "SegResNet", **TWO, "init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
        **{"norm": "instance", "upsample_mode": "deconv"},
    },
    "SegResNetDS": {"_target_": "SegResNetDS", **THREE, "init_filters": 8, "blocks_down": [1, 1, 2], "dsdepth": 2},
    "AttentionUnet": {"_target_": "AttentionUnet", **TWO, "channels": [8, 12, 16], "strides": [2, 2]},
}
MEMBERS = 1  # drawn of each
every_network = pytest.mark.parametrize("name", NETWORKS)


@cache
def family_of(name: str, width: tuple[float, ...] | None = None) -> MONAIFamily:
    network = NETWORKS[name]
    size = (16, 16, 16) if network["spatial_dims"] == 3 else (32, 32)
    return MONAIFamily(network, size=size, choices=MONAIChoices(width=width))


def members_of(family: MONAIFamily) -> list[Subnet]:
    generator = random.Random(0)
    return [family.space.smallest(), family.space.largest(), *(family.space.sample(generator) for _ in range(MEMBERS))]


def image(family: MONAIFamily, seed: int = 0, batch: int = 2) -> Tensor:
    return torch.randn(batch, 2, *family.size, generator=torch.Generator().manual_seed(seed))


def own(family: MONAIFamily, member: Subnet, network: nn.Module) -> nn.Module:
    """MONAI's class, built from the member's own arguments, with weights of ``network``."""
    arguments = family.architecture_of(member)
    built: nn.Module = getattr(nets, arguments.pop("_target_"))(**arguments)
    built.load_state_dict(network.state_dict())
    return built.train(network.training)


@every_network
def test_a_slice_is_the_extracted_network_and_monais_own(name: str) -> None:
    family = family_of(name)
    torch.manual_seed(0)
    supernet = SuperNet(family).eval()
    randomise_norms(supernet.network)
    x = image(family)
    for member in members_of(family):
        extracted = supernet.extract(member).eval()
        with torch.no_grad():
            sliced = supernet(x, member)
            assert torch.equal(sliced, extracted(x)) and torch.equal(sliced, own(family, member, extracted)(x))


@pytest.mark.parametrize("name", ["DynUNet", "SegResNetDS"])
def test_deep_supervision_is_that_of_the_extracted_network(name: str) -> None:
    family = family_of(name)
    supernet = SuperNet(family)
    for member in members_of(family):
        sliced, extracted = supernet(image(family), member), supernet.extract(member).train()(image(family))
        outputs = [(sliced, extracted)] if isinstance(sliced, Tensor) else [*zip(sliced, extracted, strict=True)]
        assert len(outputs) == 2 or sliced.shape[1] == 2  # DynUNet stacks them
        assert all(torch.equal(*pair) for pair in outputs)


@every_network
def test_outputs_of_a_run_do_not_stay_with_the_member(name: str) -> None:
    """MONAI's DynUNet keeps those of its heads, and the skeletons of many members are kept."""
    family = family_of(name)
    supernet = SuperNet(family)
    for member in members_of(family):
        outputs = supernet(image(family), member)
        finest(outputs, image(family)).sum().backward()
        parts = [value for part in supernet.shapes(member).modules() for value in vars(part).values()]
        tensors = [tensor for part in parts if isinstance(part, list) for tensor in part if isinstance(tensor, Tensor)]
        assert all(tensor.is_meta for tensor in tensors)


@every_network
def test_gradients_are_those_of_the_extracted_network(name: str) -> None:
    family = family_of(name)
    supernet = SuperNet(family).eval()
    member = members_of(family)[2]
    supernet(image(family), member).square().sum().backward()
    extracted = supernet.extract(member).eval()
    extracted(image(family)).square().sum().backward()
    for key, parameter in extracted.named_parameters():
        _, region = family.locate(key, tuple(parameter.shape), member)
        gradient = supernet.network.get_parameter(key).grad
        if parameter.grad is None:  # a head of deep supervision
            assert gradient is None or not gradient.any()
            continue
        assert gradient is not None
        assert gradient.abs().sum().item() == pytest.approx(parameter.grad.abs().sum().item(), rel=1e-4, abs=1e-6)
        assert torch.allclose(gradient[tuple(parts[0] for parts in region)].flatten()[:1], parameter.grad.flatten()[:1])


@every_network
def test_costs_are_counted_without_weights(name: str) -> None:
    family = family_of(name)
    larger = tuple(2 * side for side in family.size)
    for member in members_of(family)[:3]:
        network = family.build(member).eval()
        assert cost.parameters(family, member) == sum(parameter.numel() for parameter in network.parameters())
        for size in (family.size, larger):
            with cost.counting(network) as counted, torch.no_grad():
                network(torch.zeros(1, 2, *size))
            assert cost.macs(family, member, size) == counted.macs
    activations = [cost.member_cost(family, member, family.size).activations for member in members_of(family)[:2]]
    assert 0 < activations[0] < activations[1]


def test_the_feature_maps_in_memory_are_those_that_something_refers_to() -> None:
    """By hand: at each convolution its input and its output, for nobody needs the image again."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert [layer.live for layer in follow(network, 2, (4, 4)).layers if layer.uses] == [(2 + 8) * 16, (8 + 4) * 16]


def test_the_largest_is_the_network_itself_and_widths_are_fractions_of_its_features() -> None:
    spaces = {name: str(family_of(name).space) for name in NETWORKS}
    assert spaces["UNet"] == "width {4, 6, 8} {8, 12, 16} {12, 18, 24}"
    assert spaces["a flat UNet of other kernels"] == "width {4, 8} {8, 12} {8, 12, 16} {8, 12, 16}"  # that 4 groups divide
    assert spaces["SegResNet"] == "width {8, 16}"  # that 8 groups divide
    assert spaces["SegResNetDS"] == "width {4, 6, 8}"
    for name, definition in NETWORKS.items():
        family = family_of(name)
        argument = FEATURES[type(family.build(family.space.largest())).__name__]
        assert family.architecture_of(family.space.largest())[argument] == definition[argument]
    assert str(family_of("UNet", (0.25, 1)).space) == "width {2, 8} {4, 16} {6, 24}"
    assert [*named_members(family_of("UNet"), (16, 16, 16))] == ["smallest", "middle", "largest"]


def test_arguments_that_are_left_out_are_the_classs_own() -> None:
    assert str(MONAIFamily({"_target_": "SegResNet"}, size=(16, 16, 16)).space) == "width {8}"
    filters = {key: value for key, value in NETWORKS["DynUNet"].items() if key != "filters"}
    assert str(MONAIFamily(filters, size=(16, 16, 16)).space).startswith("width {8, 16, 24, 32} {16, 32, 48, 64}")


def test_sizes_are_multiples_of_what_the_network_halves() -> None:
    assert family_of("UNet").divisor == family_of("DynUNet").divisor == (4, 4, 4)
    assert family_of("a flat UNet of other kernels").divisor == (4, 4)
    assert family_of("BasicUNet").divisor == (1, 1)  # it pads
    assert family_of("SegResNet").divisor == (2, 2, 2)


@pytest.mark.parametrize("name", ["UNet", "DynUNet", "SegResNet"])
def test_prox_trains_it(name: str) -> None:
    family = family_of(name)
    torch.manual_seed(0)
    supernet = SuperNet(family)
    before = {key: value.clone() for key, value in supernet.network.state_dict().items()}

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output[:, 0] if output.ndim > target.ndim + 1 else output, target)

    engine = Engine(supernet, make_schedule("prox", family.space, epochs=5), loss, seed=0)
    optimizer = torch.optim.AdamW(supernet.parameters())
    engine.guard(optimizer)
    x = image(family)
    for epoch in range(5):
        engine.begin_epoch(epoch)
        for step in range(2):
            engine.step(x, (x[:, 0] > 0).long(), epoch=epoch, step=step)
            optimizer.step()
    after = supernet.network.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key, _ in supernet.network.named_parameters() if "heads" not in key)
    smallest = supernet.extract(family.space.smallest()).eval()
    with torch.no_grad():
        assert torch.equal(supernet.eval()(x, family.space.smallest()), own(family, family.space.smallest(), smallest)(x))


# ---------------------------------------------------------------------- what is refused
def test_a_tensor_that_is_not_there_is_named() -> None:
    family = family_of("UNet")
    said = "the largest network has no model.9.weight that reads the same channels: width=4/8/12"
    refused(said, family.locate, "model.9.weight", (4, 2, 3, 3, 3), family.space.smallest())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_target_": "SwinUNETR"}, "'SwinUNETR' is no network that can be made elastic; allowed: UNet, BasicUNet, DynUNet"),
        ({"_target_": "os.system"}, "'os.system' is no network that can be made elastic"),
        ({"_target_": "my.UNet"}, "'my.UNet' is no network that can be made elastic"),
        ({"depth": 3}, "UNet has no argument depth; it has spatial_dims"),
        ({"channels": "$[8, 16]"}, "channels of UNet is '$[8, 16]', which a configuration has to resolve first"),
        ({"channels": [8, -16, 24]}, "channels of UNet is [8, -16, 24]; it must be a list of positive whole numbers"),
        ({"strides": [2]}, "UNet cannot be built: the length of `strides` should equal to `len(channels) - 1`"),
        ({"norm": ("localresponse", {"size": 4})}, "reads channels that cannot be followed through: local_response_norm"),
        ({"channels": []}, "channels of UNet is []; it must be a list of positive whole numbers"),
        ({"channels": 5.5}, "channels of UNet is 5.5; it must be a list of positive whole numbers"),
        ({"channels": 8}, "channels of UNet is 8; it must be a list of positive whole numbers"),
        ({"in_channels": "1"}, "in_channels of UNet is '1'; it must be a positive whole number"),
        ({"out_channels": 0}, "out_channels of UNet is 0; it must be a positive whole number"),
        ({"kernel_size": [3, "$1"]}, "kernel_size of UNet is '$1', which a configuration has to resolve first"),
        ({"act": nn.Conv2d(1, 1, 1)}, "act of UNet is a Conv2d, a module that all members would share; leave it out"),
        ({1: 2}, "a network is an object with _target_ and arguments"),
        ({"spatial_dims": 2}, "the size is [16, 16, 16]; the network has 2 spatial axes"),
    ],
)
def test_what_cannot_be_made_elastic_is_named(changes: dict[str, Any], said: str) -> None:
    refused(said, MONAIFamily, NETWORKS["UNet"] | changes, size=(16, 16, 16))


def test_a_network_needs_its_arguments_and_a_size_that_it_takes() -> None:
    refused("UNet needs strides", MONAIFamily, {k: v for k, v in NETWORKS["UNet"].items() if k != "strides"}, size=(16,) * 3)
    refused("a network is an object with _target_ and arguments, got {}", MONAIFamily, {}, size=(16, 16, 16))
    refused("UNet does not take inputs of (16, 16, 15) voxels: ", MONAIFamily, NETWORKS["UNet"], size=(16, 16, 15))
    refused("the size is 16; it must be the voxels per axis", MONAIFamily, NETWORKS["UNet"], size=16)
    refused("the size is ('16',", MONAIFamily, NETWORKS["UNet"], size=("16",) * 3)
    refused("choices are (0.5, 1); they must be MONAIChoices", MONAIFamily, NETWORKS["UNet"], size=(16,) * 3, choices=(0.5, 1))
    refused("width must be ascending fractions that end in 1, got [0.5, 0.25]", MONAIChoices, width=(0.5, 0.25))
    refused("width is 1; it must be a tuple of numbers", MONAIChoices, width=1)
    refused("the search space 'paper' is not known; known by name: default", MONAIChoices.from_json, "paper")
    assert MONAIChoices.from_json({"width": [0.5, 1]}) == MONAIChoices(width=(0.5, 1))


# ---------------------------------------------------------------------- depth and kernels
DEEP: dict[str, tuple[dict[str, Any], MONAIChoices]] = {
    "residual units": (NETWORKS["UNet"], MONAIChoices(width=(0.5, 1.0), depth="all")),
    "kernels": (
        {"_target_": "UNet", **TWO, "channels": [8, 16], "strides": [2], "num_res_units": 2, "kernel_size": 5},
        MONAIChoices(width=(0.5, 1.0), depth="all", kernel=(1, 3, 5)),
    ),
    "attention": ({**NETWORKS["AttentionUnet"], "kernel_size": 5}, MONAIChoices(kernel=(3, 5))),
    "blocks": (
        {"_target_": "SegResNet", **TWO, "init_filters": 16, "blocks_down": [1, 2, 3], "blocks_up": [2, 1]},
        MONAIChoices(depth="all"),
    ),
    "blocks down": (
        {"_target_": "SegResNetDS", **TWO, "init_filters": 8, "blocks_down": [1, 2, 2], "norm": "instance"},
        MONAIChoices(width=(0.5, 1.0), depth="all"),
    ),
    "levels": (
        {
            "_target_": "SegResNet",
            **TWO,
            "init_filters": 8,
            "blocks_down": [1, 1, 1, 2],
            "blocks_up": [2, 1, 1],
            "norm": "instance",
        },
        MONAIChoices(width=(0.5, 1.0), levels=2),
    ),
    "levels with heads": (
        {"_target_": "SegResNetDS", **THREE, "init_filters": 4, "blocks_down": [1, 1, 1], "dsdepth": 2, "norm": "instance"},
        MONAIChoices(width=(0.5, 1.0), levels=1),
    ),
    "levels of blocks": (
        {"_target_": "DynUNet", **TWO, "kernel_size": [3, 3, 5, 3, 3], "strides": [1, 2, [2, 1], 2, 1], "norm_name": "batch"}
        | {"upsample_kernel_size": [1, 2, [2, 1], 2, 1], "filters": [4, 8, 12, 16, 16], "trans_bias": True},
        MONAIChoices(width=(0.5, 1.0), levels=2),
    ),
    "levels of residual blocks": (
        {"_target_": "DynUNet", **THREE, "kernel_size": [3, 3, 1, 3], "strides": [1, 2, 2, 2], "res_block": True}
        | {"upsample_kernel_size": [2, 2, 2], "filters": [4, 8, 8, 12], "deep_supervision": True, "deep_supr_num": 2},
        MONAIChoices(width=(0.5, 1.0), levels=1, kernel=(1, 3)),
    ),
    "kernels by level": (
        {"_target_": "DynUNet", **THREE, "kernel_size": [5, [1, 3, 3], 3], "strides": [1, 2, 2], "filters": [4, 8, 8]}
        | {"upsample_kernel_size": [2, 2]},
        MONAIChoices(width=(0.5, 1.0), kernel=(1, 3, 5)),
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_depth_and_kernels_are_elastic_where_the_class_has_arguments_for_them(name: str) -> None:
    network, choices = DEEP[name]
    family = MONAIFamily(network, size=(16, 16, 16) if network["spatial_dims"] == 3 else (16, 16), choices=choices)
    torch.manual_seed(0)
    supernet, x = SuperNet(family).eval(), image(family)
    randomise_norms(supernet.network)
    for member in members_of(family):
        extracted = supernet.extract(member).eval()
        with torch.no_grad():
            sliced = supernet(x, member)
            assert torch.equal(sliced, extracted(x)) and torch.equal(sliced, own(family, member, extracted)(x))
        assert cost.parameters(family, member) == sum(weight.numel() for weight in extracted.parameters())
    smallest = family.architecture_of(family.space.smallest())
    assert smallest.get("num_res_units", 1) == 1 and set(smallest.get("blocks_down", [1])) == {1}
    engine = Engine(supernet, make_schedule("prox", family.space, 5), nn.CrossEntropyLoss(), seed=0)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.01)
    engine.guard(optimizer)
    for epoch in range(5):
        engine.begin_epoch(epoch)
        optimizer.zero_grad()
        loss = engine.step(x, torch.zeros(2, *family.size, dtype=torch.long), epoch=epoch, step=0).loss
        optimizer.step()
        assert torch.isfinite(loss)


def test_other_depths_and_kernels_are_refused() -> None:
    unet, basic = NETWORKS["UNet"], NETWORKS["BasicUNet"]
    size = (16, 16, 16)
    refused("depth is 'half'; allowed: full, all", MONAIChoices, depth="half")
    refused("kernel is [2, 3]; it must be ascending odd numbers", MONAIChoices, kernel=(2, 3))
    refused(
        "depth is 'all'; of BasicUNet it is full, of UNet,",
        MONAIFamily,
        basic,
        size=(32, 32),
        choices=MONAIChoices(depth="all"),
    )
    refused(
        "num_res_units of UNet is 0; an elastic depth, or elastic levels, need",
        MONAIFamily,
        {**unet, "num_res_units": 0},
        size=size,
        choices=MONAIChoices(depth="all"),
    )
    refused("which is 3 of UNet", MONAIFamily, unet, size=size, choices=MONAIChoices(kernel=(3, 5)))
    refused("levels counts the levels that may be missing, got -1", MONAIChoices, levels=-1)
    refused("either levels or depth can be elastic, not both", MONAIChoices, levels=1, depth="all")
    refused("levels is 1; UNet may lack at most 0, and", MONAIFamily, unet, size=size, choices=MONAIChoices(levels=1))
    segresnet, fewer = NETWORKS["a SegResNet of deconvolutions"], MONAIChoices(levels=2)
    refused("levels is 2; SegResNet may lack at most 1", MONAIFamily, segresnet, size=(32, 32), choices=fewer)
    refused("levels is 2; DynUNet may lack at most 1, and", MONAIFamily, DYNUNET, size=(16, 16), choices=fewer)
    refused("which is None of BasicUNet", MONAIFamily, basic, size=(32, 32), choices=MONAIChoices(kernel=(1, 3)))


# ---------------------------------------------------------------------- members that would be of other layers
UNET = {"_target_": "UNet", **TWO, "strides": [2, 2], "num_res_units": 2}
DYNUNET = {"_target_": "DynUNet", **TWO, "kernel_size": [3] * 4, "strides": [1, 2, 2, 1], "upsample_kernel_size": [2, 2, 1]}


@pytest.mark.parametrize(
    ("network", "members"),
    [
        (UNET | {"channels": [8, 16, 16]}, 3 * 3),
        (UNET | {"channels": [8, 16, 16, 16], "strides": [2, 1, 2]}, (3 * 3 - 1) * 3),  # not 8 and 8
        (UNET | {"channels": [8, 16, 32]}, 3 * (3 * 3 - 1)),  # not 16 and 16
        (DYNUNET | {"res_block": True, "filters": [8, 16, 24, 24]}, 3 * 3 * 3),
        (DYNUNET | {"res_block": True, "filters": [8, 16, 24, 32], "in_channels": 4}, 2 * 3 * (3 * 3 - 1)),
    ],
)
def test_all_members_have_the_same_layers(network: dict[str, Any], members: int) -> None:
    """A residual unit has a convolution in its shortcut only if the number of features changes."""
    family = MONAIFamily(network, size=(16, 16))
    assert family.space.size() == members
    layers = family.build(family.space.largest()).state_dict().keys()
    generator = random.Random(1)
    for member in (family.space.smallest(), *(family.space.sample(generator) for _ in range(20))):
        assert family.build(member).state_dict().keys() == layers


def test_sorting_channels_keeps_the_functions_of_members() -> None:
    family = MONAIFamily(UNET | {"channels": [8, 16, 32]}, size=(16, 16), choices=MONAIChoices(width=(0.25, 0.5, 1.0)))
    supernet, x = SuperNet(family).eval(), image(family)
    members = [family.space.sample(random.Random(seed)) for seed in range(6)]
    with torch.no_grad():
        before = [supernet(x, member) for member in members]
        sort_channels_of(supernet, family.space)
        for member, was in zip(members, before, strict=True):
            torch.testing.assert_close(supernet(x, member), was, rtol=1e-4, atol=1e-5)


def test_levels_without_strides_are_none() -> None:
    network = DYNUNET | {"filters": [8, 16, 24, 32, 64], "kernel_size": [3] * 4}
    assert MONAIFamily(network, size=(16, 16)).architecture_of(MONAIFamily(network, size=(16, 16)).space.largest())[
        "filters"
    ] == [8, 16, 24, 32]


@pytest.mark.parametrize("norm", ["batch", ("instance", {"affine": True}), ("group", {"num_groups": 1})])
def test_a_level_may_have_one_feature(norm: Any) -> None:
    network = {"_target_": "UNet", **TWO, "channels": [8, 16], "strides": [2], "norm": norm}
    family = MONAIFamily(network, size=(16, 16), choices=MONAIChoices(width=(0.125, 1.0)))
    supernet = SuperNet(family).eval()
    member = family.space.smallest()
    assert member["width"][0] == 1 and torch.equal(supernet(image(family), member), supernet.extract(member)(image(family)))


# ---------------------------------------------------------------------- deep supervision in one tensor
def test_heads_that_are_stacked_are_told_from_classes() -> None:
    family = family_of("DynUNet")
    engine = Engine(
        SuperNet(family),
        make_schedule("sandwich", family.space, 1),
        lambda outputs, target: nn.functional.cross_entropy(outputs[:, 0], target),
        seed=0,
    )
    distances = []
    engine._distance = lambda student, teacher: distances.append((student.shape, teacher.shape)) or student.sum() * 0  # type: ignore[method-assign,func-returns-value]
    engine.guard(torch.optim.SGD(engine.supernet.parameters(), lr=0.1))
    engine.begin_epoch(0)
    step = engine.step(image(family), torch.zeros(2, *family.size, dtype=torch.long), epoch=0, step=0)
    logits = (2, 3, *family.size)
    assert step.output.shape == logits and distances and all(pair == (logits, logits) for pair in distances)
    deepcopy(engine.supernet)  # which skeletons with a step's outputs would stop


def test_families_and_supernets_are_pickled() -> None:
    family = family_of("UNet")
    supernet = SuperNet(family).eval()
    again = pickle.loads(pickle.dumps(supernet))
    member = family.space.smallest()
    assert again.family.space == family.space and torch.equal(again(image(family), member), supernet(image(family), member))


def test_a_network_that_is_not_the_largest_is_refused() -> None:
    family = family_of("UNet")
    refused(
        "the network, a UNet, is not the largest of the family: of model.",
        SuperNet,
        family,
        family.build(family.space.smallest()),
    )
    refused("a DataParallel, is not the largest", SuperNet, family, nn.DataParallel(family.build(family.space.largest())))


@pytest.mark.parametrize("name", ["a flat UNet of other kernels", "BasicUNet", "a residual DynUNet", "AttentionUnet"])
def test_a_network_that_is_made_already_is_the_largest(name: str) -> None:
    definition = {key: value for key, value in NETWORKS[name].items() if key != "_target_"}
    network = family_of(name).build(family_of(name).space.largest())
    own = ("BasicUNet", "SegResNet", "DynUNet")  # which do not keep all of their arguments
    known = definition if type(network).__name__.startswith(own) else {}
    supernet = supernet_of(network, size=family_of(name).size, **known)
    assert supernet.network is network and supernet.family.space == family_of(name).space


def test_arguments_of_another_network_are_refused() -> None:
    network = nets.BasicUNet(2, 1, 2, features=(8, 8, 16, 16, 32, 8))
    refused("BasicUNet was made with other arguments than {'spatial_dims': 2", supernet_of, network, size=(32, 32))
    refused("'VNet' is no network that can be made elastic", supernet_of, nets.VNet(), size=(32, 32, 32))


def test_what_a_member_is_built_of_is_a_copy() -> None:
    family = family_of("UNet")
    family.architecture_of(family.space.largest())["strides"].append(9)
    assert family.architecture_of(family.space.largest())["strides"] == [2, 2] == NETWORKS["UNet"]["strides"]


class Layers(nn.Module):
    """A small network that does something to its channels between two convolutions."""

    def __init__(self, between: Any, groups: int = 1, channels: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 1), nn.Conv2d(channels, 4, 1, groups=groups)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("between", "parts"),
    [
        (lambda x: x, (8,)),
        (lambda x: torch.cat([x[:, :, 1:], torch.relu(x[:, :, :-1])], dim=1), (8, 8)),
        (lambda x: torch.cat((x, x + x * 2), 1), (8, 8)),
        (lambda x: nn.functional.pad(x, (0, 1)) / 2, (8,)),
        (lambda x: x * x.mean((2, 3), keepdim=True), None),
        (lambda x: x.flip(1), None),
        (lambda x: x[:, ::2].repeat_interleave(2, 1), None),
        (lambda x: x.transpose(1, 2).transpose(1, 2), None),
        (lambda x: nn.functional.pad(x, (0, 0, 0, 0, 4, 4))[:, 4:12], None),
        (lambda x: torch.cat([x, x.flip(1)], dim=1), None),
        (lambda x: torch.cat([x[:, :4], x[:, 4:]], dim=1), None),
        (lambda x: torch.cat([x, x], dim=1) + x.flip(1).repeat(1, 2, 1, 1), None),
    ],
)
def test_channels_are_followed_or_it_is_said_what_they_cannot_be_followed_through(
    between: Any, parts: tuple[int, ...] | None
) -> None:
    with torch.device("meta"):
        channels = between(torch.zeros(1, 8, 4, 4)).shape[1]
        network = Layers(between, channels=channels)
    if parts is None:
        refused("second.weight reads channels that cannot be followed through: ", follow, network, 2, (4, 4))
    else:
        found = follow(network, 2, (4, 4)).parts
        assert found["second.weight"] == {1: parts, 0: (4,)} and found["first.weight"] == {1: (2,), 0: (8,)}


def test_convolutions_in_groups_are_followed_if_they_are_depthwise() -> None:
    with torch.device("meta"):
        several = Layers(torch.relu, groups=2)
        depthwise = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, groups=8))
    refused("cannot be followed through: a convolution of 2 groups", follow, several, 2, (4, 4))
    assert follow(depthwise, 2, (4, 4)).parts["1.weight"] == {0: (8,)}


def test_a_layer_that_does_not_run_is_named() -> None:
    with torch.device("meta"):
        network = Layers(torch.relu)
        network.unused = nn.Linear(3, 3)
    refused("unused.weight is no tensor of a convolution, a linear layer or a norm", follow, network, 2, (4, 4))
