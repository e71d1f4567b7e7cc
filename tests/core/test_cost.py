"""Parameters and multiply-accumulates, derived by hand, and the members that are watched."""

import operator
import os
import random
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architectures import FOUR_DIMENSIONS, KINDS, unet_family
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from monai_prox.core import cost
from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.runtime.sliding_window import starts

EXAMPLES = max(4, settings.default.max_examples // 10)  # a tenth of other properties', for each takes a third of a second
TOY = UNetChoices(depth="all", width=(0.5, 1.0), kernel=(3, 5), levels=0, resolution=(0.5, 1.0))


def toy(kind: str = "PlainConvUNet", **changes: object) -> SuperNet:
    """Two levels of 4 and 8 features, one block each, one channel in and two classes out."""
    settings = {"depths": (1, 1), "decoder_depths": (1,), "input_channels": 1, "num_classes": 2, "choices": TOY}
    return SuperNet(unet_family(kind, patch=(32, 32), features=(4, 8), **settings | changes))


def member(**changes: tuple[float, ...]) -> Subnet:
    own = {"levels": (2,), "resolution": (1.0,), "depth": (1, 1), "decoder_depth": (1,), "width": (4, 8)}
    return Subnet.from_values(**own | {"kernel": (3, 3)} | changes)


# A convolution has inputs x outputs x taps weights, a bias per output, and a norm of two values per output follows it.
# Each weight is used once per output voxel: 256 at the top level and 64 below, for an input of 16 x 16.
PLAIN = {
    "4 and 8 features": (
        member(),
        (1 * 4 * 9 + 3 * 4)  # encoder, top level
        + (4 * 8 * 9 + 3 * 8)  # encoder, lower level
        + (8 * 4 * 4 + 4)  # transposed convolution of 2 x 2 taps, no norm
        + (8 * 4 * 9 + 3 * 4)  # decoder, reads 4 upsampled and 4 skipped features
        + (4 * 2 * 1 + 2),  # class logits
        # a transposed convolution's weights are used once per *input* voxel
        1 * 4 * 9 * 256 + 4 * 8 * 9 * 64 + 8 * 4 * 4 * 64 + 8 * 4 * 9 * 256 + 4 * 2 * 256,
    ),
    "2 and 4 features": (
        member(width=(2, 4)),
        (1 * 2 * 9 + 3 * 2) + (2 * 4 * 9 + 3 * 4) + (4 * 2 * 4 + 2) + (4 * 2 * 9 + 3 * 2) + (2 * 2 * 1 + 2),
        1 * 2 * 9 * 256 + 2 * 4 * 9 * 64 + 4 * 2 * 4 * 64 + 4 * 2 * 9 * 256 + 2 * 2 * 256,
    ),
    "kernel 5 at the lower level": (
        member(kernel=(3, 5)),
        (1 * 4 * 9 + 3 * 4) + (4 * 8 * 25 + 3 * 8) + (8 * 4 * 4 + 4) + (8 * 4 * 9 + 3 * 4) + (4 * 2 * 1 + 2),
        1 * 4 * 9 * 256 + 4 * 8 * 25 * 64 + 8 * 4 * 4 * 64 + 8 * 4 * 9 * 256 + 4 * 2 * 256,
    ),
    "half the resolution, a quarter of the voxels": (
        member(resolution=(0.5,)),
        (1 * 4 * 9 + 3 * 4) + (4 * 8 * 9 + 3 * 8) + (8 * 4 * 4 + 4) + (8 * 4 * 9 + 3 * 4) + (4 * 2 * 1 + 2),
        1 * 4 * 9 * 64 + 4 * 8 * 9 * 16 + 8 * 4 * 4 * 16 + 8 * 4 * 9 * 64 + 4 * 2 * 64,
    ),
}


@pytest.mark.parametrize(("subnet", "parameters", "macs"), PLAIN.values(), ids=PLAIN)
def test_a_plain_network_by_hand(subnet: Subnet, parameters: int, macs: int) -> None:
    supernet = toy()
    for _ in range(2):  # asking twice changes nothing
        assert cost.parameters(supernet.family, subnet) == parameters
        assert cost.macs(supernet.family, subnet, (16, 16)) == macs
        counted = cost.member_cost(supernet.family, subnet, (16, 16))
        assert (counted.parameters, counted.macs) == (parameters, macs)


def test_a_residual_network_by_hand() -> None:
    supernet = toy("ResidualEncoderUNet")
    parameters = (
        (1 * 4 * 9 + 3 * 4)  # stem
        + 2 * (4 * 4 * 9 + 3 * 4)  # top block
        + (4 * 8 * 9 + 3 * 8)  # lower block, strided
        + (8 * 8 * 9 + 3 * 8)
        + (4 * 8 * 1 + 2 * 8)  # its projection after pooling, without a bias
        + (8 * 4 * 4 + 4)
        + (8 * 4 * 9 + 3 * 4)
        + (4 * 2 * 1 + 2)
    )
    top = 1 * 4 * 9 + 2 * (4 * 4 * 9) + 8 * 4 * 9 + 4 * 2
    lower = 4 * 8 * 9 + 8 * 8 * 9 + 4 * 8 + 8 * 4 * 4
    assert cost.parameters(supernet.family, member()) == parameters
    assert cost.macs(supernet.family, member(), (16, 16)) == top * 256 + lower * 64


def test_three_axes_by_hand() -> None:
    choices = UNetChoices(depth="full", width=(1.0,), levels=0, resolution=(1.0,))
    family = unet_family(
        patch=(8, 16, 16), features=(2, 4), depths=(1, 1), decoder_depths=(1,), anisotropic=True, choices=choices
    )
    # kernels 1 x 3 x 3 above and 3 x 3 x 3 below; only the last two axes are halved; two channels in, three classes
    top = (2 * 2 * 9 + 4 * 2 * 9 + 2 * 3) * 8 * 16 * 16
    lower = (2 * 4 * 27 + 4 * 2 * 4) * 8 * 8 * 8
    assert cost.macs(family, family.space.largest(), (8, 16, 16)) == top + lower


def test_macs_grow_with_the_voxels_and_parameters_do_not() -> None:
    supernet = toy()
    assert cost.macs(supernet.family, member(), (32, 48)) == 6 * cost.macs(supernet.family, member(), (16, 16))


def test_a_weight_and_an_element_are_four_bytes() -> None:
    of = cost.Cost(parameters=250_000, macs=7, activations=1_000_000)
    assert (of.file_mb, of.memory_mb) == pytest.approx((1.0, 5.0))


def test_layers_are_counted_in_every_pass_and_every_image_of_a_batch() -> None:
    network = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ConvTranspose2d(1, 2, 2, stride=2), nn.Flatten(), nn.Linear(32, 5))
    once = 3 * 9 * 4 + 2 * 4 * 4 + 32 * 5  # 2 x 2 voxels of 4 x 4, which become 4 x 4 again
    with cost.counting(network) as counted:
        network(torch.zeros(1, 3, 4, 4))
        assert counted.macs == once
        network(torch.zeros(2, 3, 4, 4))
    assert counted.macs == 3 * once


def test_counting_leaves_no_trace() -> None:
    supernet = toy()
    network = supernet.extract(member())
    with cost.counting(network) as counted:
        network(torch.zeros(1, 1, 16, 16))
    before = counted.macs
    network(torch.zeros(1, 1, 16, 16))
    assert counted.macs == before == cost.macs(supernet.family, member(), (16, 16))
    assert not any(layer._forward_hooks for layer in network.modules())


IN_PLACE = (nn.modules.instancenorm._InstanceNorm, nn.BatchNorm2d, nn.Dropout, nn.LeakyReLU, nn.ReLU, nn.Identity)
IN_PLACE = (*IN_PLACE, nn.Hardswish, nn.Hardsigmoid)


def live_elements(network: nn.Module, x: Tensor) -> int:
    """The most there are at once in the graph of ``network``, of what is an input or is used later."""
    traced = fx.symbolic_trace(network)
    ShapeProp(traced).propagate(x)
    owner: dict[fx.Node, fx.Node] = {}  # of the memory a node's result is in
    for node in traced.graph.nodes:
        leaf = traced.get_submodule(node.target) if node.op == "call_module" else None
        flat = node.op == "call_function" and node.target in (operator.iadd, torch.flatten)
        source = node.args[0] if isinstance(leaf, IN_PLACE) or flat else None
        if node.op == "call_function" and node.target in (operator.mul, torch.mul):  # of a map with a scale per channel
            source = max(node.args, key=lambda n: n.meta["tensor_meta"].shape.numel())
        owner[node] = node if source is None else owner[source]
    order = {node: index for index, node in enumerate(traced.graph.nodes)}
    last: dict[fx.Node, int] = {}
    for node in order:
        for used in node.all_input_nodes:
            last[owner[used]] = max(last.get(owner[used], 0), order[node])

    def live(index: int) -> int:
        there = [n for n in order if owner[n] is n and order[n] <= index <= last.get(n, -1)]
        return sum(n.meta["tensor_meta"].shape.numel() for n in there)

    return max(live(index) for index, node in enumerate(order) if node.op != "output")


def counted_and_derived(family: Any, subnet: Subnet, size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Parameters, MACs and live elements of the real network, on the meta device, and in closed form."""
    with torch.device("meta"):
        network = family.build(subnet, initialise=False).eval()
        with cost.counting(network) as counted:
            family.run(network, torch.empty(1, family.input_channels, *size), subnet)
        x = torch.empty(1, family.input_channels, *family.input_size(size, subnet["resolution"][0]))
        real = sum(p.numel() for p in network.parameters()), counted.macs, live_elements(network, x)
    return real, tuple(
        of(family, subnet, *more) for of, *more in ((cost.parameters,), (cost.macs, size), (cost.activations, size))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [2, 3])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_a_unet_costs_what_is_counted_on_it(kind: str, axes: int, seed: int) -> None:
    generator = random.Random(seed)
    patch = (32,) * axes if axes == 2 else (16, 32, 32)
    depths = {"depths": (2, 3, 1), "decoder_depths": (1, 2)}
    choices = UNetChoices(depth="all", width=(0.5, 1.0), kernel=(3, 5), levels=1, resolution=(0.75, 1.0))
    plan = {"features": (4, 8, 8), "patch": patch, "anisotropic": axes == 3, "choices": choices}
    family = unet_family(kind, input_channels=2, num_classes=3, **plan, **depths)
    subnet = family.space.sample(generator)
    size = tuple(length * generator.choice((1, 2)) for length in patch)
    real, derived = counted_and_derived(family, subnet, size)
    assert derived == real


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_a_mobilenet_costs_what_is_counted_on_it(seed: int) -> None:
    family = MobileNetFamily(input_channels=1, num_classes=4)
    subnet = family.space.sample(random.Random(seed))
    real, derived = counted_and_derived(family, subnet, (224, 208))
    assert derived == real


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_costs_between_the_smallest_and_the_largest(kind: str) -> None:
    supernet = SuperNet(unet_family(kind, features=(4, 8, 8)))
    space, generator = supernet.family.space, random.Random(0)

    def costs(subnet: Subnet) -> tuple[int, int]:
        return cost.parameters(supernet.family, subnet), cost.macs(supernet.family, subnet, (24, 24))

    low, high = costs(space.smallest()), costs(space.largest())
    for _ in range(20):
        assert all(a <= b <= c for a, b, c in zip(low, costs(space.sample(generator)), high, strict=True))


# ---------------------------------------------------------------------- tiles
@pytest.mark.parametrize(
    ("image", "patch", "count"),
    [
        ((8, 8, 8), (8, 8, 8), 1),
        ((3, 5, 8), (8, 8, 8), 1),  # smaller than the patch
        ((8, 8, 9), (8, 8, 8), 2),  # a voxel more
        ((8, 12, 13), (8, 8, 8), 1 * 2 * 3),  # half a patch more, and half a patch and a voxel
        ((16, 24, 40), (8, 8, 8), 3 * 5 * 9),
        ((5, 8, 12), (8, 8), 5 * 1 * 2),  # on every slice
        ((5, 8, 12), (1, 8, 8), 5 * 1 * 2),
        ((9,), (7,), 2),
        ((5, 2, 3), (2, 2, 2), 4 * 1 * 2),  # the smallest side that is tiled
    ],
)
def test_tiles_lie_half_a_patch_apart_at_most(image: tuple[int, ...], patch: tuple[int, ...], count: int) -> None:
    assert cost.tiles(image, patch) == count
    assert cost.tiles(image, patch, mirrored=2) == 4 * count
    sides = (1, *patch) if len(patch) < len(image) else patch
    laid = prod(len(starts(max(length, side), side)) for length, side in zip(image, sides, strict=True))
    assert laid == count, "as many as prediction on a device lays"


# ---------------------------------------------------------------------- probes
FOUR = UNetChoices.from_json(FOUR_DIMENSIONS)


def probes_of(choices: UNetChoices = FOUR) -> tuple[SuperNet, dict[str, Subnet]]:
    supernet = SuperNet(unet_family(choices=choices, features=(4, 8, 8)))
    return supernet, named_members(supernet.family, (24, 24))


def test_probes_are_ordered_by_their_macs_and_spread_over_the_range() -> None:
    supernet, probes = probes_of()
    assert list(probes) == ["smallest", "small", "middle", "large", "largest"]
    assert probes["smallest"] == supernet.family.space.smallest()
    assert probes["largest"] == supernet.family.space.largest()
    macs = [cost.macs(supernet.family, subnet, (24, 24)) for subnet in probes.values()]
    assert macs == sorted(macs) and len(set(probes.values())) == 5
    fourth = (macs[-1] / macs[0]) ** (1 / 4)
    for number, value in enumerate(macs):
        assert value == pytest.approx(macs[0] * fourth**number, rel=0.2)
    random.seed(99)  # and no weights and no global randomness decide
    torch.nn.init.zeros_(supernet.network.decoder.seg_layers[-1].weight)
    assert named_members(supernet.family, (24, 24)) == probes


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        ({}, ["largest"]),
        ({"resolution": (0.75, 1.0)}, ["smallest", "largest"]),
        ({"resolution": (0.5, 0.75, 1.0)}, ["smallest", "large", "largest"]),  # nearer to the largest
        ({"resolution": (0.75, 1.0), "levels": 1}, ["smallest", "middle", "large", "largest"]),
    ],
)
def test_small_spaces_have_fewer_probes(choices: dict, names: list[str]) -> None:
    supernet, probes = probes_of(UNetChoices(**{"width": (1.0,)} | choices))
    assert list(probes) == names
    assert len(set(probes.values())) == len(names) == supernet.family.space.size()


@pytest.mark.slow
def test_probes_do_not_depend_on_the_process() -> None:
    """Text hashes to another number in each process, and so the order of a set of subnets is another."""
    code = "from test_cost import probes_of; print(*map(str, probes_of()[1].values()), sep=chr(10))"
    seen = set()
    for seed in ("1", "2"):
        folder = Path(__file__).parent
        path = os.pathsep.join(filter(None, [str(folder.parent), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, check=True)
        seen.add(done.stdout)
    assert len(seen) == 1 and len(seen.pop().splitlines()) == 5
