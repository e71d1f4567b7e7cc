"""MobileNetV3: a member sliced out of the supernet, the same member cut out, and torchvision's own network are one."""

import random
from typing import Any

import pytest
import torch
from helpers.refusals import refused
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_large
from torchvision.models.mobilenetv3 import InvertedResidual

from monai_prox.comparators.importance import narrower_members, shallower_members, sort_channels
from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core import cost
from monai_prox.core.slicing import place
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.families.mobilenet import STAGES, MobileNetFamily, build_network
from monai_prox.families.mobilenet_choices import CHOICES, MobileNetChoices
from monai_prox.training.growth import initialise_preserving

SIZE = (64, 64)
CHOSEN = MobileNetChoices(depth=(1, 2), kernel=(3, 5), resolution=(48, 64))


def family_of(*, input_channels: int = 1, **changes: Any) -> MobileNetFamily:
    return MobileNetFamily(input_channels=input_channels, num_classes=4, **{"choices": CHOSEN} | changes)


@torch.no_grad()
def supernet_of(**settings: Any) -> SuperNet:
    """In evaluation mode; norms and biases have values of their own, so that an exchanged or missing one is seen."""
    torch.manual_seed(0)
    supernet = SuperNet(family_of(**settings)).eval()
    for name, tensor in [*supernet.network.named_parameters(), *supernet.network.named_buffers()]:
        if name.endswith(("bias", "running_mean")):
            tensor.uniform_(-0.5, 0.5)
        elif tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return supernet


def images(count: int = 2, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, *SIZE, generator=torch.Generator().manual_seed(seed))


def evenly(space: SearchSpace, **counts: int) -> Subnet:
    """As far open as told in all slots of a dimension, and in the others wholly."""
    return space.narrow(counts).largest()


# ---------------------------------------------------------------------- the equivalence
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_sliced_extracted_and_stock_networks_are_equal_bit_for_bit(channels: int, seed: int) -> None:
    supernet = supernet_of(input_channels=channels)
    family, generator, x = supernet.family, random.Random(seed), images(channels=channels)
    for subnet in (family.space.sample(generator) for _ in range(5)):
        with torch.no_grad():
            sliced, extracted = supernet(x, subnet), supernet.extract(subnet)
            stock = build_network(family.architecture_of(subnet)).eval()
            stock.load_state_dict(extracted.state_dict(), strict=True)
            assert sliced.shape == (2, 4)
            assert torch.equal(sliced, family.run(extracted, x, subnet)), subnet
            assert torch.equal(sliced, family.run(stock, x, subnet)), subnet
            assert torch.equal(sliced, supernet.member(subnet)(x)), subnet


def test_in_training_too_members_normalise_by_their_own_batch() -> None:
    supernet = supernet_of().train()
    family, x = supernet.family, images(8)
    subnet = family.space.sample(random.Random(0))
    extracted = supernet.extract(subnet)
    torch.manual_seed(1)
    sliced = supernet(x, subnet)
    torch.manual_seed(1)  # of the dropout
    assert torch.equal(sliced, family.run(extracted, x, subnet))


def test_the_supernet_has_no_tensor_beyond_its_largest_stock_network() -> None:
    supernet = supernet_of()
    supernet(images(), supernet.family.space.smallest())
    stock = build_network(supernet.family.architecture_of(supernet.family.space.largest()))
    assert {f"network.{name}": p.shape for name, p in stock.state_dict().items()} == {
        name: tensor.shape for name, tensor in supernet.state_dict().items()
    }


def test_stages_are_torchvisions_own_of_mobilenet_v3_large() -> None:
    """Which has other depths and ratios; what does not depend on those is the same."""
    blocks = [layer for layer in mobilenet_v3_large().features if isinstance(layer, InvertedResidual)]
    firsts = [1, 3, 6, 10, 12]  # blocks in which the width changes
    for stage, index in zip(STAGES, firsts, strict=True):
        block = blocks[index]
        kinds = [type(layer).__name__ for layer in block.block]
        (depthwise,) = (layer[0] for layer in block.block if isinstance(layer, nn.Sequential) and layer[0].groups > 1)
        activation = {"RE": nn.ReLU, "HS": nn.Hardswish}[stage.activation]
        assert block.out_channels == stage.width and depthwise.stride == (stage.stride, stage.stride)
        assert ("SqueezeExcitation" in kinds) == stage.squeeze and isinstance(block.block[0][2], activation)


# ---------------------------------------------------------------------- where weights live
def test_members_share_first_channels_kernel_centres_and_first_blocks() -> None:
    supernet = supernet_of(choices=MobileNetChoices(depth=(1, 2, 3), kernel=(3, 5, 7), resolution=(64,)))
    full = dict([*supernet.network.named_parameters(), *supernet.network.named_buffers()])
    space = supernet.family.space
    subnet = evenly(space, depth=2, width=1, expansion=1, kernel=1)
    member = dict([*(network := supernet.extract(subnet)).named_parameters(), *network.named_buffers()])
    expected = {  # features: stem, first block, stages of two blocks in the member and three in the supernet, last convolution
        "features.0.0.weight": full["features.0.0.weight"][:8],
        "features.1.block.0.0.weight": full["features.1.block.0.0.weight"][:8],
        "features.2.block.0.0.weight": full["features.2.block.0.0.weight"][:24, :8],
        "features.3.block.1.0.weight": full["features.3.block.1.0.weight"][:48, :, 2:5, 2:5],
        "features.4.block.1.0.weight": full["features.5.block.1.0.weight"][:48, :, 2:5, 2:5],
        "features.4.block.2.fc1.weight": full["features.5.block.2.fc1.weight"][:16, :48],
        "features.4.block.2.fc2.weight": full["features.5.block.2.fc2.weight"][:48, :16],
        "features.4.block.2.fc2.bias": full["features.5.block.2.fc2.bias"][:48],
        "features.5.block.3.1.running_mean": full["features.6.block.3.1.running_mean"][:24],
        "features.11.block.3.0.weight": full["features.15.block.3.0.weight"][:80, :240],
        "features.12.0.weight": full["features.17.0.weight"][:480, :80],
        "classifier.0.weight": full["classifier.0.weight"][:, :480],
        "classifier.3.bias": full["classifier.3.bias"],
    }
    for name, weight in expected.items():
        assert torch.equal(member[name], weight), name


def test_gradients_reach_exactly_the_region_used() -> None:
    supernet = supernet_of()
    family, generator, x = supernet.family, random.Random(0), images(4)
    parameters = dict(supernet.network.named_parameters())
    for subnet in [family.space.smallest(), family.space.largest(), *(family.space.sample(generator) for _ in range(3))]:
        extracted = supernet.extract(subnet)
        for output in (supernet(x, subnet), family.run(extracted, x, subnet)):
            (output**2).mean().backward()
        expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for name, parameter in extracted.named_parameters():
            source, region = family.locate(name, tuple(parameter.shape), subnet)
            place([expected[source]], [region], [parameter.grad])
        for name, parameter in parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert torch.equal(gradient, expected[name]), (name, subnet)
            parameter.grad = None


def test_blocks_of_a_stage_are_one_group() -> None:
    family = family_of()
    assert [family.group(f"features.{i}.block.0.0.weight") for i in (1, 2, 3, 4, 11)] == [
        "features.1",
        "stage 0",
        "stage 0",
        "stage 1",
        "stage 4",
    ]
    assert family.group("features.12.0.weight") == "features.12" and family.group("classifier.0.bias") == "classifier.0"


# ---------------------------------------------------------------------- growth, sorting, cost
def test_deeper_wider_members_with_larger_kernels_are_born_as_the_function_of_the_old() -> None:
    """Where nothing is random: norms by running statistics, and those of the old."""
    torch.manual_seed(0)
    supernet = SuperNet(family_of(choices=MobileNetChoices(resolution=(64,)))).eval()
    space, x = supernet.family.space, images()
    old = evenly(space, depth=1, width=1, expansion=1, kernel=1)
    for opened in ({"depth": 3}, {"depth": 3, "width": 3, "expansion": 3}, {}):
        new = evenly(space, **({"depth": 1, "width": 1, "expansion": 1, "kernel": 1} | opened if opened else {}))
        initialise_preserving(supernet, old, new)
        with torch.no_grad():
            torch.testing.assert_close(supernet(x, new), supernet(x, old), rtol=1e-4, atol=1e-6)
        old = new


def test_sorting_channels_keeps_the_function_of_the_largest_and_of_shallower_members() -> None:
    supernet = supernet_of()
    space, x = supernet.family.space, images()
    members = [space.largest(), evenly(space, depth=1)]
    with torch.no_grad():
        before = [supernet(x, member) for member in members]
        permuted = sort_channels(supernet.network, *shallower_members(supernet))
        assert len(permuted) > 50
        for member, expected in zip(members, before, strict=True):
            torch.testing.assert_close(supernet(x, member), expected, rtol=1e-4, atol=1e-5)


def test_sorting_channels_keeps_the_function_of_narrower_members_that_are_given() -> None:
    supernet = supernet_of()
    space, x = supernet.family.space, images()
    trained = space.restrict(dict.fromkeys(space.dimensions, 2), start="largest")
    members = [trained.smallest(), *(trained.sample(random.Random(seed)) for seed in range(4))]
    with torch.no_grad():
        before = [supernet(x, member) for member in members]
        narrower = narrower_members(supernet, trained)
        assert len(sort_channels(supernet.network, *shallower_members(supernet), narrower=narrower)) > 50
        for member, expected in zip(members, before, strict=True):
            torch.testing.assert_close(supernet(x, member), expected, rtol=1e-4, atol=1e-5)


def test_learned_kernels_of_depthwise_convolutions_start_as_the_centres() -> None:
    torch.manual_seed(0)
    family = family_of(choices=MobileNetChoices(depth=(1,), resolution=(64,)))
    network = family.build(family.space.largest())
    plain = SuperNet(family, network).eval()
    learned = SuperNet(family, network, kernel_transforms=kernel_transforms_of(family)).eval()
    assert learned.kernel_transforms is not None and len(learned.kernel_transforms.matrices) == 2 * len(STAGES)
    for count in (1, 2, 3):
        subnet = evenly(family.space, kernel=count)
        with torch.no_grad():
            torch.testing.assert_close(learned(images(), subnet), plain(images(), subnet))


def test_cost_of_a_member_in_closed_form() -> None:
    """A stage's block of c inputs, n inner and m outputs at s x s pixels costs c n s^2 + k^2 n t^2 + n m t^2 (+ squeeze)."""
    family = family_of(choices=MobileNetChoices(depth=(1,), expansion=(3,), kernel=(3,), width=(1.0,), resolution=(64,)))
    supernet, (subnet,) = SuperNet(family), {family.space.smallest(), family.space.largest()}
    expected = 9 * 16 * 32**2 + (9 * 16 + 16 * 16) * 32**2
    channels, side = 16, 32
    for stage in STAGES:
        inner, out = 3 * channels, side // stage.stride
        expected += channels * inner * side**2 + (9 * inner + inner * stage.width) * out**2
        if stage.squeeze:
            squeezed = build_network(family.architecture_of(subnet)).features[2 + STAGES.index(stage)].block[2].fc1.out_channels
            expected += 2 * inner * squeezed
        channels, side = stage.width, out
    expected += 160 * 960 * side**2 + 960 * 1280 + 1280 * 4
    assert cost.macs(supernet.family, subnet, SIZE) == expected


# ---------------------------------------------------------------------- resolution
def test_a_member_of_lower_resolution_works_on_smaller_images() -> None:
    supernet = supernet_of()
    family, x = supernet.family, images()
    subnet = evenly(family.space, resolution=1)
    small = F.interpolate(x, (48, 48), mode="bilinear", align_corners=False, antialias=True)
    with torch.no_grad():
        assert torch.equal(supernet(x, subnet), supernet.extract(subnet)(small))
    assert family.input_size((128, 96), 48) == (96, 72) and family.input_size((128, 96), 64) == (128, 96)


def test_an_image_smaller_than_the_stride_is_refused() -> None:
    family = family_of()
    refused("an image of 64x40 pixels is worked on at 48x30 by a member of resolution 48", family.input_size, (64, 40), 48)


# ---------------------------------------------------------------------- choices
def test_the_default_choices_are_the_papers_and_three_widths() -> None:
    family = family_of(choices=CHOICES["default"])
    found = {name: {slot.choices for slot in slots} for name, slots in family.space.dimensions.items()}
    assert found == {
        "resolution": {(160, 192, 224)},
        "depth": {(1, 2, 3)},
        "width": {(8, 16), (16, 24), (24, 32, 40), (40, 64, 80), (56, 88, 112), (80, 120, 160)},
        "expansion": {(3, 4, 6)},
        "kernel": {(3, 5, 7)},
    }
    assert [len(family.space.dimensions[name]) for name in ("depth", "width", "expansion", "kernel")] == [5, 6, 15, 15]


def test_a_first_block_never_becomes_residual() -> None:
    """The fourth stage does not stride, and its first block would be, if it were as wide as the third."""
    for channels in (1, 3):
        family = family_of(input_channels=channels)
        members = [family.space.largest(), *(family.space.sample(random.Random(seed)) for seed in range(20))]
        for network in (family.build(member, initialise=False) for member in members):
            residual = [layer.use_res_connect for layer in network.features if isinstance(layer, InvertedResidual)]
            assert residual.count(False) == len(STAGES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": ()}, "depth must be positive, ascending whole numbers, got []"),
        ({"depth": (2, 1)}, "depth must be positive, ascending whole numbers, got [2, 1]"),
        ({"kernel": (3, 4)}, "kernel sizes must be odd, got [3, 4]"),
        ({"expansion": (1, 3)}, "expansion must be at least 2, got [1, 3]"),
        ({"width": (0.5,)}, "width must be ascending fractions that end in 1, got [0.5]"),
        ({"resolution": (16, 64)}, "at least the network's stride of 32 pixels, got [16, 64]"),
        ({"resolution": (0.5, 1.0)}, "resolution must be positive, ascending whole numbers"),
        ({"depth": tuple(range(1, 10))}, "depth can be 8 at most"),
        ({"depth": (True, 2)}, "depth is (True, 2); it must be a tuple of numbers"),
        ({"expansion": tuple(range(2, 19))}, "expansion has 17 choices, at most 16 are allowed"),
    ],
)
def test_wrong_choices_are_refused(wrong: dict[str, Any], message: str) -> None:
    refused(message, MobileNetChoices, **wrong)
    if wrong not in ({"resolution": (0.5, 1.0)}, {"depth": (True, 2)}):
        refused(message, MobileNetChoices.from_json, {key: list(values) for key, values in wrong.items()})


def test_choices_are_read_from_json() -> None:
    assert MobileNetChoices.from_json({"depth": [1, 2]}) == MobileNetChoices(depth=(1, 2))
    assert MobileNetChoices.from_json("paper") == CHOICES["paper"]
    refused("the search space 'huge' is not known; known by name: default, paper", MobileNetChoices.from_json, "huge")
    refused("has the fields depth, expansion, kernel, resolution, width", MobileNetChoices.from_json, {"levels": 1})
    assert MobileNetChoices.from_json({"depth": 3}) == MobileNetChoices(depth=(3,))
    refused(
        "resolution must be of type tuple[int, ...], got [0.5, 1.0]", MobileNetChoices.from_json, {"resolution": [0.5, 1.0]}
    )


def test_images_have_one_or_three_channels_and_there_are_two_classes() -> None:
    refused("images have 1 or 3 channels, got 2", family_of, input_channels=2)
    refused("there must be 2 classes at least, got 1", MobileNetFamily, input_channels=1, num_classes=1)


@pytest.mark.parametrize("wrong", [{}, {"blocks": 1}, {"blocks": [[1, 2]], "input_channels": 1}, {"blocks": None}])
def test_other_architectures_are_refused(wrong: Any) -> None:
    refused("not the architecture of a MobileNetV3", build_network, wrong)
