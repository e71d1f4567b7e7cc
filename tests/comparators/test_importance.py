"""Sorting channels changes their order and nothing else."""

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from helpers.architectures import EVERYTHING, KINDS, batch, randomise_norms, segmentation_loss, unet_family
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim import SGD, AdamW

from monai_prox.comparators.importance import narrower_members, shallower_members, sort_channels
from monai_prox.core.slicing import Permutations, permute
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.families.unet_choices import UNetChoices

CASES = {  # stages of equal width are tied by their residuals, others have projections
    "2d": {"patch": (24, 24), "features": (4, 8, 8)},
    "2d anisotropic": {"patch": (12, 24), "features": (4, 6, 8), "anisotropic": True},
    "3d": {"patch": (12, 12, 12), "features": (4, 6)},
    "3d anisotropic": {"patch": (6, 12, 12), "features": (4, 6, 6), "anisotropic": True},
}
CHOICES = UNetChoices(depth="all", width=(0.5, 1.0), levels=1, resolution=(1.0,))
every_kind = pytest.mark.parametrize("kind", KINDS)
every_case = pytest.mark.parametrize("case", CASES)


def unet(kind: str, *, patch: Sequence[int] = (24, 24), **architecture: Any) -> nn.Module:
    """With all its heads, in double precision."""
    torch.manual_seed(0)
    family = unet_family(kind, patch=patch, choices=CHOICES, **architecture)
    network = randomise_norms(family.build(family.space.largest())).double()
    network.decoder.deep_supervision = True
    return network


class Toy(nn.Module):
    """``compute(self, x)`` with ``layers``."""

    def __init__(self, compute: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.compute = compute

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def randomised(network: nn.Module) -> nn.Module:
    """In double precision, with random parameters and running statistics, for prediction."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5 if name.endswith("running_var") else -1, 1.5, generator=generator)
    return network.double().eval()


def identities(permuted: dict[nn.Parameter, Permutations]) -> bool:
    return all(torch.equal(order, torch.arange(len(order))) for axes in permuted.values() for _, order in axes)


def outputs_of(network: nn.Module, *inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        outputs = network(*inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def assert_close(ones: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def sorts(network: nn.Module, *inputs: Tensor) -> dict[nn.Parameter, Permutations]:
    """Sorts channels, of which some are not in order yet, and checks that only their order changes, and only once."""
    before, outputs = {p: p.detach().clone() for p in network.parameters()}, outputs_of(network, *inputs)
    permuted = sort_channels(network)
    assert not identities(permuted)
    assert_close(outputs_of(network, *inputs), outputs)
    for parameter, old in before.items():
        assert torch.equal(parameter, permute(old, permuted.get(parameter, [])))
    assert identities(sort_channels(network))
    return permuted


def read(weight: Tensor, axis: int = 1) -> Tensor:
    """L1 norms of what reads each input channel."""
    return weight.detach().abs().sum([a for a in range(weight.ndim) if a != axis])


def descending(importance: Tensor) -> bool:
    return bool((importance.diff() <= 0).all())


# ---------------------------------------------------------------------- U-Nets
@every_case
@every_kind
def test_sorted_unets_compute_what_they_did_at_all_heads(kind: str, case: str) -> None:
    architecture = CASES[case]
    network = unet(kind, **architecture)
    x, _ = batch(0, patch=architecture["patch"])
    assert len(outputs_of(network, x.double())) == len(architecture["features"]) - 1
    permuted = sorts(network, x.double())
    names = {name: [axis for axis, _ in permuted.get(p, [])] for name, p in network.named_parameters()}
    (first,) = [name for name, p in network.named_parameters() if name.endswith("conv.weight") and p.shape[1] == 2]
    assert names[first] == [0]
    assert all(axes == [0, 1] for name, axes in names.items() if name.endswith("conv.weight") and name != first)
    assert all(axes == [0, 1] for name, axes in names.items() if "transpconvs" in name and name.endswith("weight"))
    assert all(axes == [1] for name, axes in names.items() if "seg_layers" in name and name.endswith("weight"))
    assert all(axes == [] for name, axes in names.items() if "seg_layers" in name and name.endswith("bias"))


def test_single_precision_is_close_too() -> None:
    network = unet("ResidualEncoderUNet", features=(4, 8, 8)).float()
    x, _ = batch(0)
    before = outputs_of(network, x)
    sort_channels(network)
    torch.testing.assert_close(outputs_of(network, x), before, rtol=1e-4, atol=1e-5)
    assert identities(sort_channels(network))


def test_importance_counts_every_reader_of_a_plain_unets_channels() -> None:
    network = unet("PlainConvUNet", features=(4, 8, 12), patch=(24, 24))
    encoder, decoder = network.encoder.stages, network.decoder
    sort_channels(network)

    def weight(stage: Any, index: int) -> Tensor:
        return stage.convs[index].conv.weight

    for stage in [*(level[0] for level in encoder), *decoder.stages]:
        assert descending(read(weight(stage, 1)))
    up, skip = read(weight(decoder.stages[0], 0)).split(8)
    assert descending(up)
    assert descending(skip + read(weight(encoder[2][0], 0)))
    assert not descending(skip)
    assert descending(read(decoder.transpconvs[0].weight, axis=0))
    assert descending(read(decoder.transpconvs[1].weight, axis=0) + read(decoder.seg_layers[0].weight))
    assert descending(read(decoder.seg_layers[1].weight))


def test_importance_counts_every_reader_of_a_residual_stage() -> None:
    """The second and third stage are tied, for their widths are the same; what is between a block's convolutions is not."""
    network = unet("ResidualEncoderUNet", features=(4, 8, 8))
    stages, decoder = network.encoder.stages, network.decoder
    sort_channels(network)
    total = read(decoder.transpconvs[0].weight, axis=0) + read(decoder.stages[0].convs[0].conv.weight)[8:]
    for block in [stages[1].blocks[1], *stages[2].blocks]:
        total = total + read(block.conv1.conv.weight)
    assert descending(total)
    assert all(descending(read(block.conv2.conv.weight)) for stage in stages for block in stage.blocks)


@settings(max_examples=20)
@given(data=st.data())
def test_any_unet_computes_what_it_did(data: st.DataObject) -> None:
    levels = data.draw(st.integers(2, 3))

    def per_level(count: int, low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    axes = data.draw(st.sampled_from([2, 2, 3]))
    patch = (8,) * axes if levels == 2 else (16,) * 2 + (8,) * (axes - 2)
    network = unet(
        data.draw(st.sampled_from(KINDS)),
        patch=patch,
        features=per_level(levels, 2, 7),
        depths=per_level(levels, 1, 3),
        decoder_depths=per_level(levels - 1, 1, 2),
        anisotropic=data.draw(st.booleans()),
        nonlin=data.draw(st.sampled_from(["torch.nn.LeakyReLU", "torch.nn.ReLU", "torch.nn.SiLU"])),
        dropout=data.draw(st.sampled_from([0.0, 0.5])),
    ).eval()
    x, _ = batch(1, patch=patch)
    before = outputs_of(network, x.double())
    sort_channels(network)
    assert_close(outputs_of(network, x.double()), before)
    assert identities(sort_channels(network))


def test_all_heads_have_to_run() -> None:
    network = unet("PlainConvUNet", features=(4, 8, 8))
    network.decoder.deep_supervision = False
    before = deepcopy(network.state_dict())
    with pytest.raises(ProXError, match=r"while decoder\.seg_layers\.0\.weight takes no part; let all heads run"):
        sort_channels(network)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


# ---------------------------------------------------------------------- members
def supernet_of(kind: str, **changes: Any) -> SuperNet:
    torch.manual_seed(0)
    supernet = SuperNet(unet_family(kind, **{"choices": CHOICES, "features": (4, 8, 8)} | changes)).double()
    randomise_norms(supernet.network)
    supernet.network.decoder.deep_supervision = True
    return supernet


def test_the_narrower_member_keeps_the_most_important_channels() -> None:
    supernet = supernet_of("PlainConvUNet", features=(4, 8))
    first, second = (supernet.network.encoder.stages[0][0].convs[index].conv.weight for index in (0, 1))
    with torch.no_grad():
        for channel, value in enumerate([-0.1, 0.4, 0.2, -0.3]):
            second[:, channel] = value
    original = first.detach().clone()
    sort_channels(supernet.network)
    half = Subnet.from_values(**dict(supernet.family.space.largest()) | {"width": (2, 4)})
    member = supernet.extract(half).encoder.stages[0][0]
    assert torch.equal(member.convs[0].conv.weight, original[[1, 3]])
    assert torch.equal(member.convs[1].conv.weight[0, :, 0, 0], torch.tensor([0.4, -0.3]).double())


def test_the_first_half_of_each_concatenated_part_is_kept() -> None:
    """A narrower member reads the most important upsampled channels and the most important of the skip."""
    supernet = supernet_of("PlainConvUNet", features=(4, 8))
    reader = supernet.network.decoder.stages[0].convs[0].conv.weight
    with torch.no_grad():
        supernet.network.encoder.stages[1][0].convs[0].conv.weight.fill_(1)
        for channel, value in enumerate([1.0, 3.0, 2.0, 4.0, 50.0, 30.0, 40.0, 60.0]):
            reader[:, channel] = value
    sort_channels(supernet.network)
    assert reader[0, :, 0, 0].tolist() == [4, 3, 2, 1, 60, 50, 40, 30]
    half = supernet.extract(Subnet.from_values(**dict(supernet.family.space.largest()) | {"width": (2, 4)}))
    assert half.decoder.stages[0].convs[0].conv.weight[0, :, 0, 0].tolist() == [4, 3, 60, 50]


@every_kind
def test_members_with_fewer_layers_compute_what_they_did_if_they_are_given(kind: str) -> None:
    architecture = {"features": (4, 8, 8, 12), "depths": (2, 3, 1, 2), "decoder_depths": (2, 3, 1), "patch": (48, 48)}
    choices = UNetChoices(depth="all", width=(0.5, 1.0), kernel=(3, 5), levels=2, resolution=(0.75, 1.0))
    supernet = supernet_of(kind, choices=choices, **architecture)
    space, generator = supernet.family.space, random.Random(0)
    full_width = space.restrict({"levels": 9, "depth": 9, "decoder_depth": 9, "kernel": 9, "resolution": 9}, start="largest")
    members = [full_width.sample(generator) for _ in range(12)]
    x, _ = batch(0, patch=(48, 48), size=1)

    def computed() -> list[Tensor]:
        with torch.no_grad():
            return [output for subnet in members for output in supernet(x.double(), subnet)]

    before, shallower = computed(), shallower_members(supernet)
    parameters = set(supernet.network.parameters())
    assert len(shallower) == 2 + 2 + 2  # depths, decoder depths and levels
    assert all(set(member.parameters()) < parameters and member.decoder.deep_supervision for member in shallower)
    assert not identities(sort_channels(supernet.network, *shallower))
    assert_close(computed(), before)
    assert identities(sort_channels(supernet.network, *shallower))
    sort_channels(supernet.network)
    assert max(float((one - other).abs().max()) for one, other in zip(computed(), before, strict=True)) > 1


def test_channels_stay_within_the_widths_that_are_given() -> None:
    supernet = supernet_of("PlainConvUNet", features=(4, 8))
    skip = supernet.network.encoder.stages[0][0].convs[1].conv.weight
    reader = supernet.network.decoder.stages[0].convs[0].conv.weight
    with torch.no_grad():
        for channel, value in enumerate([-0.1, 0.4, 0.2, -0.3]):
            skip[:, channel] = value
        supernet.network.encoder.stages[1][0].convs[0].conv.weight.fill_(1)
        for channel, value in enumerate([1.0, 3.0, 4.0, 2.0, 30.0, 50.0, 40.0, 60.0]):
            reader[:, channel] = value
    narrower = narrower_members(supernet, supernet.family.space)
    sort_channels(supernet.network, narrower=narrower)
    assert skip[0, :, 0, 0].tolist() == [0.4, -0.1, -0.3, 0.2]
    assert reader[0, :, 0, 0].tolist() == [3, 1, 4, 2, 50, 30, 60, 40]


@every_kind
def test_members_of_widths_that_are_given_compute_what_they_did(kind: str) -> None:
    choices = UNetChoices(depth="all", width=(0.25, 0.5, 0.75, 1.0), kernel=(3, 5), levels=1, resolution=(1.0,))
    supernet = supernet_of(kind, choices=choices, features=(8, 16, 16))
    space, generator = supernet.family.space, random.Random(0)
    opened = dict.fromkeys(space.dimensions, 9) | {"width": 3}
    trained = space.restrict(opened, start="largest")
    members = [trained.smallest(), trained.largest(), *(trained.sample(generator) for _ in range(10))]
    assert {width for member in members for width in member["width"]} >= {4, 6, 8, 12, 16}
    x, _ = batch(0, size=1)

    def computed(subnets: Sequence[Subnet]) -> list[Tensor]:
        with torch.no_grad():
            return [output for subnet in subnets for output in supernet(x.double(), subnet)]

    before, untrained = computed(members), computed([space.smallest()])
    shallower, narrower = shallower_members(supernet), narrower_members(supernet, trained)
    assert not identities(sort_channels(supernet.network, *shallower, narrower=narrower))
    assert_close(computed(members), before)
    assert identities(sort_channels(supernet.network, *shallower, narrower=narrower))
    assert not torch.allclose(computed([space.smallest()])[0], untrained[0])


def test_where_all_members_have_the_same_layers_none_is_shallower() -> None:
    choices = UNetChoices(depth="full", width=(0.5, 1.0), kernel=(3, 5), levels=0, resolution=(0.75, 1.0))
    for kind in KINDS:
        assert shallower_members(supernet_of(kind, choices=choices)) == []


def test_widths_that_cannot_all_be_the_smallest_do_not_hinder() -> None:
    """One channel in both stages would need no projection, and then is no member."""
    choices = UNetChoices(depth="all", width=(0.4, 1.0), levels=0, resolution=(1.0,))
    supernet = supernet_of("ResidualEncoderUNet", choices=choices, features=(2, 3))
    assert supernet.family.space.restrict({"width": 1}).size() == 0
    assert len(shallower_members(supernet)) == 2


# ---------------------------------------------------------------------- an optimizer's state
@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@every_kind
def test_training_goes_on_as_if_nothing_had_been_sorted(kind: str, optimizer: type[Any]) -> None:
    options: dict[str, Any] = {"momentum": 0.9} if optimizer is SGD else {}
    original = unet(kind, features=(4, 8), patch=(16, 16))
    sorted_ = deepcopy(original)
    optimizers = [optimizer(network.parameters(), lr=0.01, **options) for network in (original, sorted_)]

    def step(seed: int) -> None:
        x, target = batch(seed, patch=(16, 16))
        for network, its in zip((original, sorted_), optimizers, strict=True):
            its.zero_grad()
            segmentation_loss(network(x.double()), target).backward()
            its.step()

    step(0)
    permuted = sort_channels(sorted_)
    for parameter, axes in permuted.items():
        for key, value in optimizers[1].state[parameter].items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                optimizers[1].state[parameter][key] = permute(value, axes)
    assert not identities(permuted)
    for seed in (1, 2, 3):
        step(seed)
    for one, other in zip(original.parameters(), sorted_.parameters(), strict=True):
        torch.testing.assert_close(permute(one, permuted.get(other, [])), other, rtol=1e-6, atol=1e-8)


def test_gradients_are_sorted_with_their_weights() -> None:
    network = unet("ResidualEncoderUNet", features=(4, 8), patch=(16, 16))
    x, target = batch(0, patch=(16, 16))
    segmentation_loss(network(x.double()), target).backward()
    next(network.parameters()).grad = None
    gradients = {p: p.grad.clone() for p in network.parameters() if p.grad is not None}
    permuted = sort_channels(network)
    assert all(torch.equal(p.grad, permute(old, permuted.get(p, []))) for p, old in gradients.items())
    assert next(network.parameters()).grad is None


# ---------------------------------------------------------------------- by hand
def filled(layer: Any, values: list[Any], *, bias: list[float]) -> Any:
    """values: (out, in), or (in, out) of a transposed convolution."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values, dtype=torch.float32).reshape(layer.weight.shape))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def test_a_chain_by_hand() -> None:
    network = nn.Sequential(
        filled(nn.Conv2d(1, 3, 1), [1, 2, 3], bias=[10, 20, 30]),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        filled(nn.ConvTranspose2d(3, 2, 1), [[1, -2], [0, 0.5], [-4, 3]], bias=[7, 8]),  # 3, 0.5 and 7
        filled(nn.Conv2d(2, 2, 1), [[1, 3], [-1, -2]], bias=[5, 6]),  # 2 and 5
    )
    with torch.no_grad():
        for tensor in (network[1].weight, network[1].bias, network[1].running_mean, network[1].running_var):
            tensor.copy_(torch.tensor([0.1, 0.2, 0.3]))
    permuted = sort_channels(network)
    first, norm, _, transposed, last = network
    assert first.weight.flatten().tolist() == [3, 1, 2] and first.bias.tolist() == [30, 10, 20]
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert torch.equal(tensor, torch.tensor([0.3, 0.1, 0.2]))
    assert transposed.weight[..., 0, 0].tolist() == [[3, -4], [-2, 1], [0.5, 0]] and transposed.bias.tolist() == [8, 7]
    assert last.weight[..., 0, 0].tolist() == [[3, 1], [-2, -1]] and last.bias.tolist() == [5, 6]
    three, two = [2, 0, 1], [1, 0]
    listed = {p: [(axis, order.tolist()) for axis, order in axes] for p, axes in permuted.items()}
    assert listed == {
        first.weight: [(0, three)],
        first.bias: [(0, three)],
        norm.weight: [(0, three)],
        norm.bias: [(0, three)],
        transposed.weight: [(0, three), (1, two)],
        transposed.bias: [(0, two)],
        last.weight: [(1, two)],
    }


def test_channels_of_equal_importance_keep_their_order() -> None:
    network = nn.Sequential(
        filled(nn.Conv2d(1, 5, 1), [0, 1, 2, 3, 4], bias=[0] * 5),
        filled(nn.Conv2d(5, 2, 1), [[1, 0, 2, 0.5, 3], [-1, 2, 1, 1.5, 0]], bias=[0] * 2),  # 2, 2, 3, 2, 3
    )
    sort_channels(network)
    assert network[0].weight.flatten().tolist() == [2, 4, 0, 1, 3]


def test_neither_many_channels_nor_rounding_break_their_order() -> None:
    """All have the importance 1e8 + 2016, in sums of another order; in single precision one at least comes out different."""
    reader = nn.Conv2d(64, 64, 1)
    with torch.no_grad():
        for channel in range(64):
            reader.weight[:, channel, 0, 0] = torch.arange(64.0).index_fill(0, torch.tensor([0]), 1e8).roll(channel)
    assert len(set(read(reader.weight).tolist())) > 1
    network = nn.Sequential(nn.Conv2d(1, 64, 1), reader)
    assert identities(sort_channels(network))


def test_a_residual_ties_and_a_concatenation_does_not() -> None:
    network = Toy(
        lambda self, x: self.read(torch.cat((self.a(x) + self.b(x), self.c(x)), 1)),
        a=filled(nn.Conv2d(1, 2, 1), [1, 2], bias=[0, 0]),
        b=filled(nn.Conv2d(1, 2, 1), [3, 4], bias=[0, 0]),
        c=filled(nn.Conv2d(1, 3, 1), [5, 6, 7], bias=[0, 0, 0]),
        read=filled(nn.Conv2d(5, 1, 1), [1, 2, 10, 30, 20], bias=[0]),
    )
    sort_channels(network)
    assert [layer.weight.flatten().tolist() for layer in (network.a, network.b, network.c)] == [[2, 1], [4, 3], [6, 7, 5]]
    assert network.read.weight.flatten().tolist() == [2, 1, 30, 20, 10]


def mobile(*, channels: int = 6, squeezed: int = 3) -> Toy:
    """An inverted bottleneck with squeeze and excitation, its residual and a classifier, as in MobileNetV3."""

    def compute(self: Any, x: Tensor) -> Tensor:
        x = self.norm0(self.stem(x))
        y = self.act(self.norm2(self.depthwise(self.act(self.norm1(self.expand(x))))))
        gate = self.gate(self.excite(self.act(self.squeeze(self.pool(y)))))
        x = x + self.norm3(self.project(gate * y))
        return self.classifier(torch.flatten(self.pool(x), 1))

    return Toy(
        compute,
        **{f"norm{index}": nn.BatchNorm2d(width) for index, width in enumerate((4, channels, channels, 4))},
        stem=nn.Conv2d(2, 4, 3, stride=2),
        expand=nn.Conv2d(4, channels, 1, bias=False),
        depthwise=nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        squeeze=nn.Conv2d(channels, squeezed, 1),
        excite=nn.Conv2d(squeezed, channels, 1),
        project=nn.Conv2d(channels, 4, 1),
        act=nn.Hardswish(),
        gate=nn.Hardsigmoid(),
        pool=nn.AdaptiveAvgPool2d(1),
        classifier=nn.Sequential(nn.Linear(4, 5), nn.Hardswish(), nn.Dropout(), nn.Linear(5, 3)),
    )


def test_an_inverted_bottleneck_with_squeeze_and_excitation() -> None:
    network = randomised(mobile())
    permuted = sorts(network, torch.randn(2, 2, 9, 9, generator=torch.Generator().manual_seed(0)).double())
    orders = {
        name: {axis: order.tolist() for axis, order in permuted[p]} for name, p in network.named_parameters() if p in permuted
    }
    hidden = orders["expand.weight"][0]
    assert orders["depthwise.weight"] == orders["depthwise.bias"] == {0: hidden}
    assert orders["squeeze.weight"][1] == orders["excite.weight"][0] == orders["project.weight"][1] == hidden
    assert orders["stem.weight"] == {0: orders["expand.weight"][1]} == {0: orders["project.weight"][0]}
    assert "classifier.3.bias" not in orders and list(orders["classifier.3.weight"]) == [1]
    # the depthwise convolution does not count as a reader
    assert descending(read(network.squeeze.weight) + read(network.project.weight))
    assert descending(read(network.excite.weight))
    assert descending(read(network.expand.weight) + read(network.classifier[0].weight))
    assert descending(read(network.classifier[3].weight))


# ---------------------------------------------------------------------- operations
def between(compute: Callable[[Any, Tensor, Tensor], Tensor], *, outputs: int = 6, **layers: nn.Module) -> Toy:
    """Two convolutions to six channels, ``compute`` on these, and a convolution that reads ``outputs`` channels."""
    first, second, last = nn.Conv2d(2, 6, 3), nn.Conv2d(2, 6, 3), nn.Conv2d(outputs, 2, 1)
    return Toy(lambda s, x: s.last(compute(s, s.first(x), s.second(x))), first=first, second=second, last=last, **layers)


def in_place(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


KNOWN = {
    "+": between(lambda s, x, y: x + y),
    "+=": between(lambda s, x, y: in_place(x, y)),
    "torch.add": between(lambda s, x, y: torch.add(x, y, alpha=2)),
    "add_": between(lambda s, x, y: x.add_(y)),
    "__add__": between(lambda s, x, y: x.__add__(y)),
    "- *": between(lambda s, x, y: (x - y) * torch.mul(x, y)),
    "/": between(lambda s, x, y: x / (torch.sigmoid(y) + 1)),
    "numbers": between(lambda s, x, y: 2 * x + y.mul(0.5) - x / 3),
    "twice the same": between(lambda s, x, y: x * x + y),
    "sizes": between(lambda s, x, y: x * x.size(2) + y * (y.shape[3] + 1)),
    "broadcast": between(lambda s, x, y: x * s.one(y) + s.one(x) * y, one=nn.Conv2d(6, 1, 1)),
    "cat": between(lambda s, x, y: torch.cat([x, y, x], dim=1), outputs=18),
    "concat and +": between(lambda s, x, y: torch.concat((x, y), 1) + torch.concatenate((y, x), 1), outputs=12),
    "modules": between(
        lambda s, x, y: s.body(x) + s.body(y),
        body=nn.Sequential(nn.InstanceNorm2d(6), nn.ELU(), nn.Upsample(scale_factor=2), nn.MaxPool2d(2), nn.Dropout2d()),
    ),
    "functions": between(lambda s, x, y: F.dropout(F.gelu(F.avg_pool2d(x, 2)), training=False) + F.max_pool2d(y, 2)),
    "methods": between(lambda s, x, y: x.relu_().contiguous() + y.tanh()),
    "interpolate": between(lambda s, x, y: F.interpolate(F.avg_pool2d(x, 2), size=y.shape[2:], mode="bilinear") + y),
    "one slope": between(lambda s, x, y: s.act(x) + y, act=nn.PReLU()),
    "slopes": between(lambda s, x, y: s.act(x) + y, act=nn.PReLU(6)),
    "depthwise transposed": between(lambda s, x, y: s.up(x) + s.up(y), up=nn.ConvTranspose2d(6, 6, 2, groups=6)),
    "a layer used twice": between(lambda s, x, y: s.shared(x) + 2 * s.shared(y), shared=nn.Conv2d(6, 6, 1)),
    "mean, kept": between(lambda s, x, y: x.mean((2, 3), True) * y + torch.mean(y, dim=[-1, -2], keepdim=True) * x),
    "mean of a cat": Toy(
        lambda s, x: s.last(torch.cat((x, s.first(x)), 1).mean((2, 3))), first=nn.Conv2d(2, 6, 1), last=nn.Linear(8, 2)
    ),
    "mean": Toy(lambda s, x: s.last(s.first(x).mean(3).mean(2)), first=nn.Conv2d(2, 6, 3), last=nn.Linear(6, 2)),
    "means": Toy(lambda s, x: s.last(s.first(x).mean([2, -1])), first=nn.Conv2d(2, 6, 3), last=nn.Linear(6, 2)),
    "flatten": nn.Sequential(nn.Conv2d(2, 6, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 2)),
    "flatten method": Toy(
        lambda s, x: s.last(F.adaptive_avg_pool2d(s.first(x), 1).flatten(start_dim=1)),
        first=nn.Conv2d(2, 6, 3),
        last=nn.Linear(6, 2),
    ),
    "several outputs": Toy(
        lambda s, x: (s.a(s.first(x)), s.b(s.first(x)).relu()),
        first=nn.Conv2d(2, 6, 3),
        a=nn.Conv2d(6, 3, 1),
        b=nn.Conv2d(6, 3, 1),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_operations(name: str) -> None:
    network = randomised(deepcopy(KNOWN[name]))
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    sorts(network, x.double())


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(1)


def with_constant() -> Toy:
    toy = between(lambda s, x, y: x + y * s.mul)  # named like an operation, which it is not
    toy.register_buffer("mul", torch.arange(6.0).reshape(1, 6, 1, 1))
    return toy


UNKNOWN = {
    "GLU": between(lambda s, x, y: s.act(torch.cat((x, y), 1)), act=nn.GLU(1)),
    "GroupNorm": between(lambda s, x, y: s.norm(x) + y, norm=nn.GroupNorm(2, 6)),
    "PixelShuffle": between(lambda s, x, y: s.up(torch.cat((x, y, x, y), 1)), up=nn.PixelShuffle(2)),
    "softmax": between(lambda s, x, y: torch.softmax(x, 1) + y),
    "flip": between(lambda s, x, y: x.flip(1) + y),
    "getitem": between(lambda s, x, y: x[:, :3] + y[:, 3:], outputs=3),
    "glu": between(lambda s, x, y: F.glu(torch.cat((x, y), 1), 1)),
    "_tensor_constant0": between(lambda s, x, y: x + y * torch.arange(2.0)),
    "cat": between(lambda s, x, y: torch.cat((x, y), 2)),
    "mean": between(lambda s, x, y: x.mean(1, keepdim=True) + y),
    "view": Toy(lambda s, x: s.last(s.first(x).view(2, -1)), first=nn.Conv2d(2, 6, 8), last=nn.Linear(6, 2)),
    "flatten": Toy(lambda s, x: s.last(torch.flatten(s.first(x))), first=nn.Conv2d(2, 6, 8), last=nn.Linear(12, 2)),
    "Flatten": nn.Sequential(nn.Conv2d(2, 6, 8), nn.Flatten(0), nn.Linear(12, 2)),
    "Linear": nn.Sequential(nn.Conv2d(2, 6, 3), nn.Linear(6, 2)),
    "AvgPool1d": nn.Sequential(nn.Conv2d(2, 6, 8), nn.Flatten(), nn.AvgPool1d(2), nn.Linear(3, 2)),
    "mul, mul": with_constant(),
    "ParametrizedConv2d": nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 6, 3)), nn.Conv2d(6, 2, 1)),
}


def refused(network: nn.Module, message: str) -> None:
    before = deepcopy(network.state_dict())
    with pytest.raises(ProXError, match=message) as refusal:
        sort_channels(network)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_operations_are_refused_by_name(name: str) -> None:
    refused(deepcopy(UNKNOWN[name]), f"channels cannot be sorted through .*{name}: ")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, groups=2)), "_1, Conv2d: .* only depthwise ones .* not 2 groups"),
        (nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 12, 3, groups=6)), "not 6 groups"),
        (
            nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(24, 2)),
            r"Linear: its weights are for 24 channels, the graph has \[6\]",
        ),
        (
            between(lambda s, x, y: torch.cat((x, y, y), 1) + s.wide(x), outputs=18, wide=nn.Conv2d(6, 18, 1)),
            r"add: it ties channels in parts of \[6, 6, 6\] to channels in parts of \[18\]",
        ),
        (
            between(lambda s, x, y: x * s.gate(y.mean((2, 3))), gate=nn.Linear(6, 6)),
            "mul: its inputs have 2 and 0 axes after that of channels",
        ),
        (
            Toy(lambda s, x: s.last(torch.cat((s.first(x + 1), x), 1)), first=nn.Identity(), last=nn.Conv2d(4, 2, 1)),
            r"last, Conv2d: its weights are for 4 channels, the graph has \[0, 0\], 0 if not known",
        ),
        (
            Toy(
                lambda s, x: s.last(s.first(x).flatten(1) * s.dense(s.second(x).flatten(1))),
                first=nn.Conv2d(2, 1, (8, 3)),  # one channel of six values, which are not one channel each
                second=nn.Conv2d(2, 3, 8),
                dense=nn.Linear(3, 6),
                last=nn.Linear(6, 2),
            ),
            r"mul: it ties channels in parts of \[1\] to channels in parts of \[6\]",
        ),
        (
            Toy(lambda s, x: s.last(s.first(x)) if x.sum() > 0 else x, first=nn.Conv2d(2, 6, 3), last=nn.Conv2d(6, 2, 1)),
            "torch.fx cannot trace Toy: symbolically traced variables cannot be used as inputs to control flow",
        ),
        (
            Toy(lambda s, x: s.first(x), first=nn.Conv2d(2, 6, 3), never=nn.Conv2d(2, 2, 1)),
            "while never.weight takes no part",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(network: nn.Module, message: str) -> None:
    refused(network, message)


def test_a_subclass_of_a_known_layer_is_refused() -> None:
    """Whatever it does: here torch.fx looks into it and finds a tensor that is not a layer's."""
    refused(nn.Sequential(Twice(2, 6, 3), nn.Conv2d(6, 2, 1)), "channels cannot be sorted through")


# ---------------------------------------------------------------------- inputs and outputs
def test_inputs_and_outputs_keep_their_order() -> None:
    """Also where they are inputs and outputs on the way: a residual of the input, and features that are returned."""
    network = Toy(
        lambda s, x: (s.last(s.features(s.depthwise(x) + s.back(s.inner(x)))), s.features(x), torch.cat((s.inner(x), x), 1)),
        depthwise=nn.Conv2d(4, 4, 1, groups=4),
        inner=nn.Conv2d(4, 6, 1),
        back=nn.Conv2d(6, 4, 1),
        features=nn.Conv2d(4, 5, 1),
        last=nn.Conv2d(5, 2, 1),
    )
    x = torch.randn(2, 4, 5, 5).double()
    network = randomised(network)
    before = outputs_of(network, x)
    assert sort_channels(network) == {}
    assert all(map(torch.equal, outputs_of(network, x), before))


@pytest.mark.parametrize("swap", [False, True])
def test_what_is_added_to_an_input_has_its_order(swap: bool) -> None:
    """Even where no layer has read the input yet."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.back = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 1)
            self.wide, self.last = nn.Conv2d(10, 3, 1), nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.inner(x)
            total = y + self.back(hidden) if swap else self.back(hidden) + y
            return self.wide(torch.cat((total, hidden), 1)), self.last(total.mean((2, 3)))

    network, generator = randomised(Residual()), torch.Generator().manual_seed(0)
    permuted = sorts(network, *(torch.randn(2, c, 5, 5, generator=generator).double() for c in (2, 4)))
    assert {p: [axis for axis, _ in axes] for p, axes in permuted.items()} == {
        network.inner.weight: [0],
        network.inner.bias: [0],
        network.back.weight: [1],
        network.wide.weight: [1],
    }


def test_an_inputs_channels_beside_hidden_ones_stay() -> None:
    network = Toy(
        lambda s, x: s.last(torch.cat((x, s.first(x)), 1)),
        first=filled(nn.Conv2d(2, 3, 1), [[1, 2], [3, 4], [5, 6]], bias=[1, 2, 3]),
        last=filled(nn.Conv2d(5, 1, 1), [1, 2, 3, 4, 5], bias=[0]),
    )
    ((axis, order),) = sort_channels(network)[network.last.weight]
    assert axis == 1 and order.tolist() == [0, 1, 4, 3, 2]
    assert network.last.weight.flatten().tolist() == [1, 2, 5, 4, 3]
    assert network.first.bias.tolist() == [3, 2, 1]


def test_everything_elastic_at_once() -> None:
    """The family of the other tests, with all its dimensions, and a largest network that is what is sorted."""
    supernet = supernet_of("PlainConvUNet", choices=EVERYTHING)
    x, _ = batch(3)
    before = outputs_of(supernet.network, x.double())
    sort_channels(supernet.network, *shallower_members(supernet))
    assert_close(outputs_of(supernet.network, x.double()), before)
