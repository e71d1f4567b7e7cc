"""nnU-Net's U-Nets: a member sliced out of the supernet, the same member cut out, and nnU-Net's own network are one."""

import gc
import random
import weakref
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from helpers.architectures import EVERYTHING, FLAT, KINDS, every_other, randomise_norms, unet_architecture, unet_family
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn
from torch.nn import functional as F

import monai_prox.core.supernet
from monai_prox.core import cost
from monai_prox.core.slicing import place
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import PAPER_CHOICES, UNetChoices

CASES = {  # the widths have equal and unequal neighbours, on which the projections of residual stages depend
    "2d": {"patch": (48, 48), "features": (4, 8, 8, 12)},
    "2d anisotropic": {"patch": (24, 48), "features": (4, 8, 8, 12), "anisotropic": True},
    "3d": {"patch": (24, 24, 24), "features": (4, 6, 6)},
    "3d anisotropic": {"patch": (12, 24, 24), "features": (4, 6, 6), "anisotropic": True},
}
MEMBERS = 8  # of each of the 16 networks, 128 in all
every_kind = pytest.mark.parametrize("kind", KINDS)
every_case = pytest.mark.parametrize("case", CASES)
every_network = pytest.mark.parametrize(
    ("kind", "case", "deep_supervision"), every_other(KINDS, CASES, {"plain": False, "deep supervision": True})
)


def supernet_of(kind: str, case: str = "2d", *, deep_supervision: bool = False, **changes: Any) -> SuperNet:
    torch.manual_seed(0)
    supernet = SuperNet(unet_family(kind, **CASES[case] | changes))
    randomise_norms(supernet.network)
    supernet.network.decoder.deep_supervision = deep_supervision
    return supernet


def stock_network(family: UNetFamily, subnet: Subnet, *, deep_supervision: bool) -> nn.Module:
    """Built by nnU-Net itself from the member's ``architecture`` entry."""
    entry = family.architecture_of(subnet)
    return get_network_from_plans(
        entry["network_class_name"],
        entry["arch_kwargs"],
        entry["_kw_requires_import"],
        family.input_channels,
        family.num_classes,
        deep_supervision=deep_supervision,
    )


def image(family: UNetFamily, size: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(size, family.input_channels, *family.patch_size, generator=torch.Generator().manual_seed(seed))


def listed(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else outputs


def equal(one: Any, other: Any) -> bool:
    return len(listed(one)) == len(listed(other)) and all(map(torch.equal, listed(one), listed(other)))


# ---------------------------------------------------------------------- the equivalence
@every_network
def test_sliced_extracted_and_stock_networks_are_equal_bit_for_bit(kind: str, case: str, deep_supervision: bool) -> None:
    supernet = supernet_of(kind, case, deep_supervision=deep_supervision)
    family, generator, seen = supernet.family, random.Random(f"{kind} {case} {deep_supervision}"), set()
    x = image(family)
    with torch.no_grad():
        for _ in range(MEMBERS):
            subnet = family.space.sample(generator)
            seen.add(subnet)
            sliced = supernet(x, subnet)
            extracted = supernet.extract(subnet)
            stock = stock_network(family, subnet, deep_supervision=deep_supervision)
            stock.load_state_dict(extracted.state_dict(), strict=True)
            assert len(listed(sliced)) == (subnet["levels"][0] - 1 if deep_supervision else 1)
            assert listed(sliced)[0].shape == (1, family.num_classes, *family.patch_size)
            assert equal(sliced, family.run(extracted, x, subnet)), subnet
            assert equal(sliced, family.run(stock, x, subnet)), subnet
            assert equal(sliced, supernet.member(subnet)(x)), subnet
    assert len(seen) > MEMBERS // 2


@every_case
@every_kind
def test_the_supernet_has_no_parameter_beyond_its_largest_stock_network(kind: str, case: str) -> None:
    supernet = supernet_of(kind, case)
    supernet(image(supernet.family), supernet.family.space.smallest())
    stock = stock_network(supernet.family, supernet.family.space.largest(), deep_supervision=False)
    shapes = [(f"network.{name}", p.shape) for name, p in stock.named_parameters()]
    assert [(name, p.shape) for name, p in supernet.named_parameters()] == shapes
    assert {f"network.{key}" for key in stock.state_dict()} == set(supernet.state_dict())


@every_case
@every_kind
def test_the_largest_of_the_default_choices_is_the_plans_own_network(kind: str, case: str) -> None:
    settings = CASES[case]
    depths = [3, 1, 4, 6][: len(settings["features"])]
    settings = settings | {"depths": depths, "decoder_depths": [2, 1, 3][: len(depths) - 1]}
    family = unet_family(kind, choices=UNetChoices(), **settings)
    patch = settings.pop("patch")
    entry = unet_architecture(kind, axes=len(patch), **settings)
    assert family.architecture_of(family.space.largest()) == entry
    assert family.space.largest()["resolution"] == (1.0,)


def test_plans_may_give_one_number_for_all_levels_and_axes() -> None:
    entry = unet_architecture(features=(4, 4, 4))
    short = unet_architecture(features=(4, 4, 4))
    short["arch_kwargs"] |= {"features_per_stage": 4, "kernel_sizes": 3, "strides": [1, 2, 2]}
    short["arch_kwargs"] |= {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
    long, brief = (UNetFamily(e, input_channels=1, num_classes=2, patch_size=(24, 24)) for e in (entry, short))
    assert brief.space == long.space
    assert brief.architecture_of(brief.space.smallest()) == long.architecture_of(long.space.smallest())


# ---------------------------------------------------------------------- where weights live
def test_members_share_first_channels_kernel_centres_and_top_levels() -> None:
    supernet = supernet_of("PlainConvUNet", "2d", features=(4, 8, 12), patch=(24, 24))
    full = dict(supernet.network.named_parameters())
    subnet = Subnet.from_values(
        levels=(2,), resolution=(1.0,), depth=(1, 2, 0), decoder_depth=(1, 0), width=(2, 6, 0), kernel=(3, 5, 0)
    )
    member = dict(supernet.extract(subnet).named_parameters())
    expected = {
        "encoder.stages.0.0.convs.0.conv.weight": full["encoder.stages.0.0.convs.0.conv.weight"][:2, :, 1:4, 1:4],
        "encoder.stages.0.0.convs.0.conv.bias": full["encoder.stages.0.0.convs.0.conv.bias"][:2],
        "encoder.stages.0.0.convs.0.norm.weight": full["encoder.stages.0.0.convs.0.norm.weight"][:2],
        "encoder.stages.1.0.convs.0.conv.weight": full["encoder.stages.1.0.convs.0.conv.weight"][:6, :2],
        "encoder.stages.1.0.convs.1.conv.weight": full["encoder.stages.1.0.convs.1.conv.weight"][:6, :6],
        # the member's only decoder stage is the supernet's second; transposed convolutions count inputs first
        "decoder.transpconvs.0.weight": full["decoder.transpconvs.1.weight"][:6, :2],
        "decoder.stages.0.convs.0.norm.bias": full["decoder.stages.1.convs.0.norm.bias"][:2],
        "decoder.seg_layers.0.weight": full["decoder.seg_layers.1.weight"][:, :2],
        "decoder.seg_layers.0.bias": full["decoder.seg_layers.1.bias"],
        "decoder.stages.0.convs.0.conv.weight": torch.cat(
            [
                full["decoder.stages.1.convs.0.conv.weight"][:2, :2, 1:4, 1:4],
                full["decoder.stages.1.convs.0.conv.weight"][:2, 4:6, 1:4, 1:4],
            ],
            dim=1,
        ),
    }
    for name, weight in expected.items():
        assert torch.equal(member[name], weight), name
    unnamed = {name for name in member if name not in expected}
    assert all(".bias" in name or "norm" in name for name in unnamed)
    assert not any("convs.2" in name or "stages.2" in name for name in member)


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0])
@every_kind
def test_first_decoder_columns_are_of_the_upsampled_half_at_every_width(kind: str, width: float) -> None:
    """Where the supernet's columns for the skip are zero, no member's decoder sees its skips; and the reverse."""
    supernet = supernet_of(kind, features=(4, 8, 16), patch=(24, 24))
    widths = tuple(int(width * features) for features in (4, 8, 16))
    subnet = Subnet.from_values(**dict(supernet.family.space.largest()) | {"width": widths})
    convolutions = [stage.convs[0].conv.weight for stage in supernet.network.decoder.stages]
    untouched = [weight.detach().clone() for weight in convolutions]
    generator = torch.Generator().manual_seed(1)

    def skips() -> list[Tensor]:
        sizes = zip(widths, (24, 12, 6), strict=True)
        return [torch.randn(1, channels, size, size, generator=generator) for channels, size in sizes]

    (*first, bottom), (*second, other_bottom) = skips(), skips()

    def decode(*features: Tensor) -> Tensor:
        return supernet.extract(subnet).decoder(list(features))

    with torch.no_grad():
        for weight in convolutions:
            weight[:, weight.shape[1] // 2 :] = 0
        assert torch.equal(decode(*first, bottom), decode(*second, bottom))
        assert not torch.allclose(decode(*first, bottom), decode(*first, other_bottom))
        for weight, old in zip(convolutions, untouched, strict=True):
            weight.copy_(old)
            weight[:, : weight.shape[1] // 2] = 0
        assert torch.equal(decode(*first, bottom), decode(*first, other_bottom))
        assert not torch.allclose(decode(*first, bottom), decode(*second, bottom))


@pytest.mark.parametrize("case", ["2d", "3d anisotropic"])
@every_kind
def test_gradients_reach_exactly_the_region_used(kind: str, case: str) -> None:
    """They are the extracted network's own, at their place in the largest network's tensors, and zero elsewhere."""
    supernet = supernet_of(kind, case, deep_supervision=True)
    family, generator = supernet.family, random.Random(0)
    parameters = dict(supernet.network.named_parameters())
    for subnet in [
        family.space.smallest(),
        family.space.largest(),
        *(family.space.sample(generator) for _ in range(3)),
    ]:
        x = image(family)
        extracted = supernet.extract(subnet)
        for outputs in (supernet(x, subnet), family.run(extracted, x, subnet)):
            sum((output**2).mean() for output in outputs).backward()
        expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for name, parameter in extracted.named_parameters():
            source, region = family.locate(name, tuple(parameter.shape), subnet)
            place([expected[source]], [region], [parameter.grad])
            if parameter.ndim > 1:
                assert (parameter.grad != 0).any(), name
        for name, parameter in parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert torch.equal(gradient, expected[name]), (name, subnet)
            parameter.grad = None


def test_extraction_copies_and_keeps_mode_and_switches() -> None:
    supernet = supernet_of("PlainConvUNet", features=(4, 8, 8), patch=(24, 24), deep_supervision=True)
    for training in (True, False):
        network = supernet.train(training).extract(supernet.family.space.smallest())
        assert network.training == training and network.decoder.deep_supervision
    before = [p.detach().clone() for p in supernet.parameters()]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(map(torch.equal, before, supernet.parameters()))


@pytest.fixture
def empty_memory_is_nan() -> Iterator[None]:
    """torch fills what it allocates with NaN, not with what was there before."""
    torch.use_deterministic_algorithms(True)  # and torch.utils.deterministic.fill_uninitialized_memory is its default
    yield
    torch.use_deterministic_algorithms(False)


@every_kind
def test_extraction_writes_every_tensor_and_draws_no_random_number(kind: str, empty_memory_is_nan: None) -> None:
    supernet, generator = supernet_of(kind, features=(4, 8, 8), patch=(24, 24)), random.Random(0)
    family = supernet.family
    empty: Any = family.build(family.space.smallest(), initialise=False)
    assert all(parameter.isnan().all() for parameter in empty.parameters())
    before = torch.get_rng_state()
    for subnet in (family.space.largest(), *(family.space.sample(generator) for _ in range(5))):
        tensors = supernet.extract(subnet).state_dict()
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("resolution", [0.75, 1.0])
def test_a_view_is_a_member_s_finest_output_in_the_supernet_s_own_weights(resolution: float) -> None:
    supernet = supernet_of("PlainConvUNet", features=(4, 8, 8), patch=(24, 24), deep_supervision=True)
    subnet = Subnet.from_values(**dict(supernet.family.space.largest()) | {"width": (2, 4, 4), "resolution": (resolution,)})
    view, x = supernet.view(subnet), image(supernet.family)
    with torch.no_grad():
        first = view(x)
        assert first.shape[2:] == x.shape[2:] and torch.equal(first, supernet.member(subnet)(x)[0])
        supernet.network.decoder.seg_layers[-1].bias += 1
        torch.testing.assert_close(view(x), first + 1, rtol=0, atol=1e-5)
        supernet.network.decoder.deep_supervision = False
        assert torch.equal(view(x), supernet(x, subnet))


def test_a_member_drops_out_while_the_supernet_trains_alone() -> None:
    supernet = supernet_of("PlainConvUNet", features=(4, 8, 8), patch=(24, 24), dropout=0.5)
    subnet, x = supernet.family.space.smallest(), image(supernet.family)
    for training in (True, False, True):
        supernet.train(training)
        with torch.no_grad():
            assert torch.equal(supernet(x, subnet), supernet(x, subnet)) != training


def test_the_given_network_is_used_not_copied() -> None:
    family = unet_family()
    network = family.build(family.space.largest())
    assert SuperNet(family, network).network is network


def test_no_subnet_beyond_the_space_is_run() -> None:
    supernet = supernet_of("PlainConvUNet")
    stranger = Subnet.from_values(**dict(supernet.family.space.largest()) | {"width": (4, 8, 8, 13)})
    run = partial(supernet, image(supernet.family))
    for use in (supernet.extract, supernet.member, supernet.view, supernet.shapes, supernet.regions, run):
        with pytest.raises(ProXError, match=r"width\[3\] = 13 is not legal"):
            use(stranger)


# ---------------------------------------------------------------------- residual projections
def test_residual_members_keep_the_projections_of_the_plan() -> None:
    """Stages 1 and 2 of widths (4, 8, 8, 12) are equally wide in every member, the other neighbours never are."""
    space = unet_family("ResidualEncoderUNet", **CASES["2d"]).space
    generator = random.Random(0)
    for _ in range(200):
        first, second, third, fourth = space.sample(generator)["width"]
        assert first != second and third in (0, second) and (fourth == 0 or fourth != third)
    assert unet_family("PlainConvUNet", **CASES["2d"]).space.size() > space.size()


# ---------------------------------------------------------------------- resolution
@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize(("case", "working"), [("2d", (40, 40)), ("3d anisotropic", (12, 20, 20))])
def test_a_lower_resolution_member_is_its_stock_network_between_two_resamplings(
    case: str, working: tuple[int, ...], deep_supervision: bool
) -> None:
    supernet = supernet_of("PlainConvUNet", case, deep_supervision=deep_supervision)
    family = supernet.family
    largest = family.space.largest()
    subnet = Subnet.from_values(**dict(largest) | {"resolution": (0.75,)})
    assert family.input_size(family.patch_size, 0.75) == working
    stock = stock_network(family, subnet, deep_supervision=deep_supervision)
    stock.load_state_dict(supernet.extract(subnet).state_dict())
    x, mode = image(family), "bilinear" if len(working) == 2 else "trilinear"
    with torch.no_grad():
        outputs, full = listed(supernet(x, subnet)), listed(supernet(x, largest))
        low = listed(stock(F.interpolate(x, working, mode=mode, align_corners=False)))
    assert [o.shape for o in outputs] == [o.shape for o in full]
    assert low[0].shape[2:] == working
    for output, small in zip(outputs, low, strict=True):
        up = F.interpolate(small, output.shape[2:], mode=mode, align_corners=False)
        torch.testing.assert_close(output, up, rtol=0, atol=0)


def test_resolutions_that_round_to_the_same_size_are_one() -> None:
    choices = UNetChoices(levels=0, resolution=(0.7, 0.75, 0.98, 1.0))
    family = unet_family(choices=choices, features=(4, 8, 8), patch=(16, 16))  # multiples of 4: 12 and 16
    (slot,) = family.space.dimensions["resolution"]
    assert [family.input_size((16, 16), value) for value in slot.choices] == [(12, 12), (16, 16)]


def test_inputs_of_any_size_are_resampled_to_multiples_of_the_divisor() -> None:
    family = unet_family(**CASES["3d anisotropic"])
    assert family.divisor == (2, 4, 4)
    assert family.input_size((30, 52, 100), 1.0) == (30, 52, 100)
    assert family.input_size((30, 52, 100), 0.75) == (30, 40, 76)


@every_kind
@pytest.mark.parametrize("case", ["2d anisotropic", "3d anisotropic"])
def test_an_axis_of_thick_slices_keeps_its_kernels_strides_and_resolution(kind: str, case: str) -> None:
    family = unet_family(kind, **CASES[case])
    generator, thin = random.Random(0), set()
    for _ in range(50):
        subnet = family.space.sample(generator)
        kwargs = family.architecture_of(subnet)["arch_kwargs"]
        assert kwargs["kernel_sizes"][0][0] == 1 and kwargs["strides"][1][0] == 1
        assert len(set(kwargs["kernel_sizes"][0][1:])) == 1 and kwargs["kernel_sizes"][0][1] in (3, 5)
        assert len(set(kwargs["kernel_sizes"][1])) == 1
        thin.add(family.input_size(family.patch_size, subnet["resolution"][0])[0])
    assert thin == {family.patch_size[0]}


# ---------------------------------------------------------------------- choices
@pytest.mark.parametrize(
    ("features", "widths"),
    [
        ((16, 64, 320), [(4, 8, 12, 16), (16, 32, 48, 64), (80, 160, 240, 320)]),
        ((15, 32, 64), [(8, 11, 15), (16, 24, 32), (32, 48, 64)]),  # a quarter of 15 is less than 4
    ],
)
def test_the_default_choices_are_parts_of_the_width(features: tuple[int, ...], widths: list[tuple[int, ...]]) -> None:
    family = unet_family(choices=UNetChoices(), features=features, depths=(1, 3, 6), decoder_depths=(2, 4), patch=(32, 32))
    found = {name: [slot.choices for slot in slots] for name, slots in family.space.dimensions.items()}
    assert found == {
        "levels": [(3,)],
        "resolution": [(1.0,)],
        "depth": [(1,), (3,), (6,)],
        "decoder_depth": [(4,), (2,)],  # the top level first
        "width": widths,
        "kernel": [(3,), (3,), (3,)],
    }


def test_widths_and_depths_that_are_asked_for_are_taken_as_they_are() -> None:
    choices = UNetChoices(depth="thirds", width=(0.125, 1.0), levels=1, resolution=(0.75, 1.0))
    family = unet_family(choices=choices, features=(12, 64, 128), depths=(1, 3, 6), decoder_depths=(2, 4), patch=(32, 32))
    found = {name: [slot.choices for slot in slots] for name, slots in family.space.dimensions.items()}
    assert found == {
        "levels": [(2, 3)],
        "resolution": [(0.75, 1.0)],
        "depth": [(1,), (1, 2, 3), (2, 4, 6)],
        "decoder_depth": [(2, 3, 4), (1, 2)],
        "width": [(2, 12), (8, 64), (16, 128)],
        "kernel": [(3,), (3,), (3,)],
    }


def test_paper_choices_count_members_as_the_paper_does() -> None:
    """Three levels of two convolutions: depth, width and kernel are one bit per encoder stage, depth per decoder's."""
    family = unet_family(choices=PAPER_CHOICES, features=(4, 8, 16))
    assert family.space.size() == 2 ** (3 + 2 + 3 + 3)
    assert all(slot.choices == (3, 5) for slot in family.space.dimensions["kernel"])
    assert [slot.choices for slot in family.space.dimensions["width"]] == [(2, 4), (4, 8), (8, 16)]
    assert family.space.dimensions["levels"][0].choices == (3,)
    assert family.space.dimensions["resolution"][0].choices == (1.0,)
    assert family.space.smallest()["depth"] == (1, 1, 1) and family.space.largest()["depth"] == (2, 2, 2)


def test_at_least_two_levels_stay() -> None:
    family = unet_family(choices=UNetChoices(levels=9), features=(4, 8, 8))
    assert family.space.dimensions["levels"][0].choices == (2, 3)
    assert family.space.smallest()["depth"][2] == 0


def test_full_depth_is_the_plans_only() -> None:
    space = unet_family(choices=UNetChoices(depth="full"), depths=(3, 2), decoder_depths=(2,)).space
    assert space.smallest()["depth"] == (3, 2) and space.smallest()["decoder_depth"] == (2,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": "half"}, "depth is 'half'; allowed: 'thirds', 'all', 'full'"),
        ({"width": ()}, "width must be ascending fractions that end in 1"),
        ({"width": (0.5, 0.75)}, "width must be ascending fractions that end in 1, got [0.5, 0.75]"),
        ({"width": (1.0, 0.5)}, "width must be"),
        ({"width": (0.0, 1.0)}, "width must be"),
        ({"resolution": (0.5, 0.5, 1.0)}, "resolution must be ascending fractions that end in 1"),
        ({"resolution": (1.0, 1.5)}, "resolution must be"),
        ({"kernel": ()}, "kernel sizes must be odd"),
        ({"kernel": (3, 4)}, "kernel sizes must be odd, got [3, 4]"),
        ({"kernel": (-1, 3)}, "kernel sizes must be odd"),
        ({"kernel": (2.5, 3)}, "kernel sizes must be odd"),
        ({"levels": -1}, "levels counts the levels that may be missing, got -1"),
        ({"levels": "1"}, "levels counts the levels that may be missing, got 1"),
        ({"levels": 1.5}, "levels counts the levels that may be missing, got 1.5"),
    ],
)
def test_refused_choices_say_why(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ProXError) as refusal:
        UNetChoices(**wrong)
    assert message in str(refusal.value)
    with pytest.raises(ProXError) as refusal:
        UNetChoices.from_json({key: list(value) if isinstance(value, tuple) else value for key, value in wrong.items()})
    (name,) = wrong
    assert message in str(refusal.value) or f"a search space: {name} must be of type" in str(refusal.value)


@pytest.mark.parametrize("wrong", [{"levels": True}, {"depth": ["all"]}, {"width": "1"}, {"kernel": [True, 3]}])
def test_choices_of_another_type_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ProXError, match=f"a search space: {name} must be of type"):
        UNetChoices.from_json(wrong)


def test_more_choices_than_anybody_means_are_refused() -> None:
    """Else counting the members of a space, which a file asks for, takes minutes."""
    many = tuple(index / 10_000 for index in range(1, 10_001))
    with pytest.raises(ProXError, match="width has 10,000 choices, at most 16 are allowed"):
        UNetChoices(width=many)
    with pytest.raises(ProXError, match="kernel sizes can be 15 at most"):
        UNetChoices(kernel=(3, 17))


@pytest.mark.parametrize("wrong", [{"width": 0.5}, {"kernel": 4}, {"resolution": "1"}, {"width": ("0.5", 1.0)}])
def test_choices_that_are_no_numbers_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ProXError, match=f"{name} is .*; it must be a tuple of numbers"):
        UNetChoices(**wrong)


def test_sizes_of_another_number_of_axes_are_refused() -> None:
    family = supernet_of(next(iter(KINDS))).family
    for size in ((32,), (32, 32, 32)):
        with pytest.raises(ProXError, match=r"the size is \[32.*\]; inputs of this family have 2 axes"):
            cost.macs(family, family.space.largest(), size)
    with pytest.raises(ProXError, match="patch_size is 32; it must be two or three positive whole numbers"):
        UNetFamily(family.architecture_of(family.space.largest()), input_channels=1, num_classes=2, patch_size=32)


@pytest.mark.parametrize("data", [None, [], "papers", {"widths": [1.0]}, {"width": ["1"]}, {"kernel": "3"}])
def test_malformed_choices_are_refused(data: object) -> None:
    with pytest.raises(ProXError, match="search space"):
        UNetChoices.from_json(data)


def test_single_numbers_are_choices_of_one() -> None:
    assert UNetChoices.from_json({"kernel": 3, "width": 1}) == UNetChoices(kernel=(3,), width=(1,))


def test_choices_from_json() -> None:
    asked = {"depth": "all", "width": [0.5, 1.0], "kernel": [3, 5], "levels": 0, "resolution": [1.0]}
    assert UNetChoices.from_json(asked) == PAPER_CHOICES
    assert UNetChoices.from_json({}) == UNetChoices.from_json("default") == UNetChoices()
    assert UNetChoices.from_json("paper") == PAPER_CHOICES


# ---------------------------------------------------------------------- closed choices
NARROWINGS = 1  # of each of the 16 networks


def narrowings(space: SearchSpace, generator: random.Random) -> Iterator[dict[str, int]]:
    """Without the last choice of each dimension alone, then of random ones without random many."""
    counts = {dimension: count for dimension in space.dimensions if (count := space.choice_count(dimension)) > 1}
    for dimension, count in counts.items():
        yield {dimension: count - 1}
    for _ in range(NARROWINGS):
        some = generator.sample(list(counts), generator.randint(1, len(counts)))
        yield {dimension: generator.randint(1, counts[dimension]) for dimension in some}


@every_network
def test_members_of_a_narrowed_family_are_those_of_the_whole_one_bit_for_bit(
    kind: str, case: str, deep_supervision: bool
) -> None:
    supernet = supernet_of(kind, case, deep_supervision=deep_supervision)
    generator = random.Random(f"{kind} {case} {deep_supervision}")
    x = image(supernet.family)
    for open in narrowings(supernet.family.space, generator):
        family = unet_family(kind, open=open, **CASES[case])
        smaller = SuperNet(family, supernet.extract(family.space.largest()))
        with torch.no_grad():
            sampled = family.space.sample(generator)
            for subnet in [family.space.largest(), sampled]:
                assert equal(smaller(x, subnet), supernet(x, subnet)), subnet
                assert family.architecture_of(subnet) == supernet.family.architecture_of(subnet)
                for name in smaller.regions(subnet):
                    born, shapes = family.passes_through(name), dict(smaller.network.named_parameters())
                    assert born is None or 0 <= born < shapes[name].shape[1]
            weights = supernet.extract(sampled).state_dict()
            assert all(torch.equal(weight, weights[name]) for name, weight in smaller.extract(sampled).state_dict().items())


@every_kind
def test_what_is_narrowed_away_is_no_member(kind: str) -> None:
    whole = unet_family(kind, **CASES["2d"])
    family = unet_family(kind, open={"levels": 1, "kernel": 1, "resolution": 1}, **CASES["2d"])
    assert family.space == whole.space.restrict(
        {d: whole.space.choice_count(d) for d in ("depth", "decoder_depth", "width")}  # the others keep one
    )
    assert family.space.largest()["levels"] == (3,) and set(family.space.largest()["kernel"]) == {3, 0}
    with pytest.raises(ProXError, match=r"levels\[0\] = 4 is not legal: allowed here: \[3\]"):
        family.architecture_of(whole.space.largest())
    # a member works at the same size in both, though fewer levels would allow others
    assert family.divisor == whole.divisor == (8, 8)
    assert family.input_size((44, 100), 0.75) == whole.input_size((44, 100), 0.75)


@pytest.mark.parametrize(
    ("open", "message"),
    [
        ({"breadth": 1}, "there is no dimension 'breadth' whose choices could be closed; known: levels, resolution, depth"),
        ({"kernel": 0}, "of kernel, 1 to 2 choices can remain open, got 0"),
        ({"kernel": 3}, "of kernel, 1 to 2 choices can remain open, got 3"),
        ({"depth": 1, "width": 1.0}, "of width, 1 to 3 choices can remain open, got 1.0"),
        ({"width": True}, "of width, 1 to 3 choices can remain open, got True"),
    ],
)
def test_a_narrowing_that_the_space_has_not_is_refused(open: dict[str, Any], message: str) -> None:
    with pytest.raises(ProXError, match=message):
        unet_family(open=open)


def test_nothing_closed_is_the_whole_family() -> None:
    assert unet_family(open={}).space == unet_family(open=None).space == unet_family().space


# ---------------------------------------------------------------------- refused plans
@pytest.mark.parametrize("name", ["monai.networks.nets.UNet", "ResidualUNet", "PlainConvUNet.evil"])
def test_other_networks_are_refused(name: str) -> None:
    entry = unet_architecture() | {"network_class_name": name}
    with pytest.raises(ProXError, match=f"plans ask for the network {name}; supported .* PlainConvUNet, ResidualEnc"):
        UNetFamily(entry, input_channels=1, num_classes=2, patch_size=(16, 16))


@pytest.mark.parametrize("key", ["conv_op", "dropout_op", "nonlin"])
@pytest.mark.parametrize("value", ["os.system", "torch.hub.load", "torch.nnx.ReLU"])
def test_a_plan_imports_nothing_but_torch_nn(key: str, value: str) -> None:
    entry = unet_architecture()
    entry["arch_kwargs"][key] = value
    with pytest.raises(ProXError, match=f"the plan's {key} is '{value}'; allowed: torch.nn."):
        UNetFamily(entry, input_channels=1, num_classes=2, patch_size=(16, 16))


@pytest.mark.parametrize("extra", [{"bottleneck_channels": 2}, {"stem_channels": 8}, {"squeeze_excitation": True}])
def test_residual_variants_that_planners_do_not_write_are_refused(extra: dict[str, int]) -> None:
    entry = unet_architecture("ResidualEncoderUNet")
    entry["arch_kwargs"] |= extra
    with pytest.raises(ProXError, match=f"plans with {next(iter(extra))} are not supported"):
        UNetFamily(entry, input_channels=1, num_classes=2, patch_size=(16, 16))


def test_kernels_that_differ_between_axes_are_refused() -> None:
    entry = unet_architecture()
    entry["arch_kwargs"]["kernel_sizes"][1] = [3, 5]
    with pytest.raises(ProXError, match=r"kernel at level 1 is \[3, 5\]; axes other than 1 must agree"):
        UNetFamily(entry, input_channels=1, num_classes=2, patch_size=(16, 16))


def test_kernels_larger_than_the_smallest_feature_map_are_refused() -> None:
    unet_family(choices=FLAT, features=(4, 8, 8), patch=(20, 20))
    with pytest.raises(ProXError, match=r"kernel 5 is larger than the feature map 4x4 of level 2 at resolution 1;"):
        unet_family(choices=FLAT, features=(4, 8, 8), patch=(16, 16))
    with pytest.raises(ProXError, match=r"feature map 4x4 of level 2 at resolution 0\.75; leave out"):
        unet_family(choices=EVERYTHING, features=(4, 8, 8), patch=(20, 20))
    with pytest.raises(ProXError, match="feature map 3x6x6 of level 2"):
        unet_family(choices=FLAT, features=(4, 8, 8), patch=(6, 24, 24), anisotropic=True)


def test_the_plans_own_kernels_are_not_refused() -> None:
    unet_family(choices=UNetChoices(levels=0, resolution=(1.0,)), features=(4, 8, 8), patch=(8, 8))


def test_kernels_smaller_than_the_plans_are_refused() -> None:
    with pytest.raises(ProXError, match=r"kernel \[1\] would make the largest member smaller than the plan's, 3"):
        unet_family(choices=UNetChoices(kernel=(1,)))


# ---------------------------------------------------------------------- skeletons
@every_kind
def test_a_skeleton_keeps_no_weights_after_a_training_step(kind: str) -> None:
    supernet = supernet_of(kind, features=(4, 8, 8), patch=(24, 24))
    generator = random.Random(0)
    for _ in range(3):
        subnet = supernet.family.space.sample(generator)
        supernet(image(supernet.family), subnet).sum().backward()
        skeleton = supernet.shapes(subnet)
        parameters = [p for module in skeleton.modules() for p in module.parameters(recurse=False)]
        assert parameters and all(p.is_meta and p.grad is None and isinstance(p, nn.Parameter) for p in parameters)
        assert {name for name, _ in skeleton.named_parameters()} == {
            name for name, _ in supernet.extract(subnet).named_parameters()
        }
        held = [value for module in skeleton.modules() for value in vars(module).values()]
        assert not any(isinstance(value, Tensor) for value in held)


def test_only_so_many_skeletons_are_kept_and_the_latest_used_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monai_prox.core.supernet, "SKELETONS", 3)
    supernet, generator = supernet_of("PlainConvUNet", features=(4, 8), patch=(24, 24)), random.Random(0)
    always, *others = {supernet.family.space.sample(generator): None for _ in range(20)}
    first = supernet.shapes(always)
    skeletons = []
    for subnet in others:
        skeletons.append(weakref.ref(supernet.shapes(subnet)))
        assert supernet.shapes(always) is first
    gc.collect()
    assert [reference() is not None for reference in skeletons] == [False] * (len(others) - 2) + [True] * 2


def test_members_are_the_same_whatever_was_asked_before() -> None:
    """Passed, never set: no member leaves a trace in the next."""
    supernet, generator = supernet_of("ResidualEncoderUNet", features=(4, 8, 8), patch=(24, 24)), random.Random(0)
    members = [supernet.family.space.sample(generator) for _ in range(6)]
    x = image(supernet.family)
    with torch.no_grad():
        there = [supernet(x, subnet) for subnet in members]
        back = [supernet(x, subnet) for subnet in reversed(members)][::-1]
    assert all(map(torch.equal, there, back))


def test_every_member_of_a_small_space_can_be_cut_out() -> None:
    choices = UNetChoices(depth="all", width=(0.5, 1.0), kernel=(3,), levels=1, resolution=(1.0,))
    for kind, anisotropic in product(KINDS, (False, True)):
        family = unet_family(
            kind, choices=choices, features=(2, 4, 4), depths=(1, 2, 1), decoder_depths=(1, 1), anisotropic=anisotropic
        )
        supernet, generator, seen = SuperNet(family), random.Random(0), set()
        while len(seen) < family.space.size():
            seen.add(family.space.sample(generator))
        for subnet in seen:
            for name, region in supernet.regions(subnet).items():
                assert name in dict(supernet.network.named_parameters()) and region
