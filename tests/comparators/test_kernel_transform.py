"""Smaller kernels as learned transforms of larger ones: what they are at first, what they compute, and that they learn."""

import io
import random
from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from math import prod
from typing import Any

import pytest
import torch
from helpers.architectures import KINDS, batch, every_other, randomise_norms, segmentation_loss, unet_family
from torch import Tensor, nn
from torch.optim import SGD

from monai_prox.comparators.kernel_transform import KernelTransforms, kernel_transforms_of
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.families.unet_choices import UNetChoices

CASES = {  # lowest feature maps hold kernels of 7 at the lower resolution
    "2d": {"patch": (48, 48), "features": (4, 8, 8)},
    "3d anisotropic": {"patch": (12, 24, 24), "features": (4, 6), "anisotropic": True},
}
MEMBERS = 5
every_kind = pytest.mark.parametrize("kind", KINDS)
every_case = pytest.mark.parametrize("case", CASES)
KERNELS = {"3 5": (3, 5), "3 5 7": (3, 5, 7)}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
every_network = pytest.mark.parametrize(("kind", "case", "kernel"), every_other(KINDS, CASES, KERNELS))


def family_of(kind: str = "PlainConvUNet", case: str = "2d", kernel: tuple[int, ...] = (3, 5, 7), **changes: Any) -> Any:
    choices = UNetChoices(depth="all", width=(0.5, 1.0), kernel=kernel, levels=1, resolution=(0.75, 1.0))
    return unet_family(kind, **{"choices": choices} | CASES[case] | changes)


def supernet_of(*family: Any, kernel_transforms: bool = True, seed: int = 0, **changes: Any) -> SuperNet:
    torch.manual_seed(seed)
    members = family_of(*family, **changes)
    supernet = SuperNet(members, kernel_transforms=kernel_transforms_of(members) if kernel_transforms else None)
    randomise_norms(supernet.network)
    supernet.network.decoder.deep_supervision = True
    return supernet


@torch.no_grad()
def disturb(transforms: KernelTransforms, seed: int = 0) -> None:
    """Moves every matrix away from the identity."""
    generator = torch.Generator().manual_seed(seed)
    for matrix in transforms.parameters():
        matrix.add_(0.1 * torch.randn(matrix.shape, generator=generator, dtype=matrix.dtype))


def image(supernet: SuperNet, seed: int = 0) -> Tensor:
    return batch(seed, patch=supernet.family.patch_size, size=1)[0]


def members_of(supernet: SuperNet, seed: Any = 0) -> list[Subnet]:
    """Random ones and both extremes."""
    space, generator = supernet.family.space, random.Random(f"{seed}")
    return [space.smallest(), space.largest(), *(space.sample(generator) for _ in range(MEMBERS))]


def with_kernels(supernet: SuperNet, *kernels: int) -> Subnet:
    """The largest member but for its kernels, one per level."""
    return Subnet.from_values(**dict(supernet.family.space.largest()) | {"kernel": kernels})


def equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def elastic_weights(supernet: SuperNet) -> dict[str, Tensor]:
    """Of the convolutions whose kernel size is a choice: all but upsamplings, projections and heads."""
    return {
        name: p
        for name, p in supernet.network.named_parameters()
        if p.ndim > 2 and max(p.shape[2:]) > 2 and "transpconvs" not in name
    }


def level_and_step(key: str) -> tuple[int, int]:
    """Of a matrix in a network of three levels, whose decoder counts from below."""
    name, step = key.rsplit(":", 1)
    part, _, index, *_ = name.split("/")
    return int(index) if part == "encoder" else 1 - int(index), int(step)


# ---------------------------------------------------------------------- at the start
@every_network
def test_at_the_start_members_are_those_of_a_plain_supernet_bit_for_bit(kind: str, case: str, kernel: tuple[int, ...]) -> None:
    plain = supernet_of(kind, case, kernel, kernel_transforms=False)
    transformed = SuperNet(plain.family, plain.network, kernel_transforms=kernel_transforms_of(plain.family))
    x = image(plain)
    with torch.no_grad():
        for subnet in members_of(plain, (kind, case, kernel)):
            assert equal(transformed(x, subnet), plain(x, subnet)), subnet
            extracted, expected = transformed.extract(subnet).state_dict(), plain.extract(subnet).state_dict()
            assert list(extracted) == list(expected)
            assert all(torch.equal(tensor, expected[name]) for name, tensor in extracted.items()), subnet


@every_kind
def test_axes_of_kernel_one_stay_at_one(kind: str) -> None:
    transforms = supernet_of(kind, "3d anisotropic").kernel_transforms
    thin, thick = [(1, 7, 7), (1, 5, 5), (1, 3, 3)], [(7, 7, 7), (5, 5, 5), (3, 3, 3)]
    sizes = {name: list(steps) for name, steps in transforms.sizes.items()}
    assert all(steps == (thick if name.startswith("encoder.stages.1.") else thin) for name, steps in sizes.items())
    assert thin in sizes.values() and thick in sizes.values()
    squares = {tuple(matrix.shape) for matrix in transforms.parameters()}
    assert squares == {(25, 25), (9, 9), (125, 125), (27, 27)}


@every_kernel
@every_case
@every_kind
def test_a_matrix_per_layer_and_step_is_shared_by_the_channels(kind: str, case: str, kernel: tuple[int, ...]) -> None:
    """Their number is the sum of the smaller sizes' taps squared, however many channels there are."""
    supernet = supernet_of(kind, case, kernel)
    weights = elastic_weights(supernet)
    assert set(supernet.kernel_transforms.sizes) == set(weights)
    expected = 0
    for weight in weights.values():
        axes = sum(length > 1 for length in weight.shape[2:])
        expected += sum((smaller**axes) ** 2 for smaller in kernel[:-1])
    number = sum(matrix.numel() for matrix in supernet.kernel_transforms.parameters())
    assert number == expected
    wider = supernet_of(kind, case, kernel, features=tuple(2 * f for f in CASES[case]["features"]))
    assert sum(matrix.numel() for matrix in wider.kernel_transforms.parameters()) == number


@pytest.mark.parametrize("kernel", [None, (3,), (5,)])
def test_where_kernels_are_no_choice_nothing_is_transformed(kernel: tuple[int, ...] | None) -> None:
    supernet = supernet_of("PlainConvUNet", "2d", kernel)
    assert list(supernet.kernel_transforms.parameters()) == []
    supernet(image(supernet), supernet.family.space.smallest())


# ---------------------------------------------------------------------- what is computed
def transforms_of(*sizes: tuple[int, ...], seed: int | None = 0) -> KernelTransforms:
    """Of one layer, "a.weight", in double precision; its matrices are random unless ``seed`` is None."""
    transforms = KernelTransforms({"a.weight": sizes}).double()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for matrix in transforms.parameters():
            nn.init.normal_(matrix, generator=generator)
    return transforms


def weight_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def test_a_chain_goes_through_all_its_matrices_tap_by_tap() -> None:
    transforms, weight = transforms_of((7, 7), (5, 5), (3, 3)), weight_of(2, 3, 7, 7)
    first, second = (matrix.detach().numpy() for matrix in transforms.parameters())
    assert first.shape == (25, 25) and second.shape == (9, 9)
    five, three = transforms("a.weight", weight, (5, 5)), transforms("a.weight", weight, (3, 3))
    assert five.shape == (2, 3, 5, 5) and three.shape == (2, 3, 3, 3)
    for output in range(2):
        for channel in range(3):
            taps = first @ weight[output, channel].numpy()[1:6, 1:6].reshape(25)
            torch.testing.assert_close(five[output, channel], torch.from_numpy(taps.reshape(5, 5)))
            taps = second @ taps.reshape(5, 5)[1:4, 1:4].reshape(9)
            torch.testing.assert_close(three[output, channel], torch.from_numpy(taps.reshape(3, 3)))


def test_thin_kernels_are_transformed_within_their_slice() -> None:
    transforms, weight = transforms_of((1, 5, 5), (1, 3, 3)), weight_of(2, 3, 1, 5, 5)
    (matrix,) = transforms.parameters()
    expected = torch.einsum("jk,oik->oij", matrix, weight[:, :, 0, 1:4, 1:4].reshape(2, 3, 9))
    torch.testing.assert_close(transforms("a.weight", weight, (1, 3, 3)), expected.reshape(2, 3, 1, 3, 3))


def test_a_permutation_matrix_permutes_the_taps() -> None:
    """A row holds what its tap is made of: row j with a one at column p[j] takes tap p[j]."""
    weight = weight_of(2, 3, 5, 5)
    centre = weight[:, :, 1:4, 1:4]
    for order, expected in {
        (0, 1, 2, 3, 4, 5, 6, 7, 8): centre,
        (8, 7, 6, 5, 4, 3, 2, 1, 0): centre.flip(2, 3),
        (0, 3, 6, 1, 4, 7, 2, 5, 8): centre.transpose(2, 3),
        (1, 2, 3, 4, 5, 6, 7, 8, 0): centre.flatten(2).roll(-1, 2).view(2, 3, 3, 3),
    }.items():
        transforms = transforms_of((5, 5), (3, 3), seed=None)
        with torch.no_grad():
            next(transforms.parameters()).copy_(torch.eye(9)[list(order)])
        assert torch.equal(transforms("a.weight", weight, (3, 3)), expected), order


def test_each_channel_is_transformed_by_itself() -> None:
    transforms, weight = transforms_of((7, 7), (5, 5), (3, 3)), weight_of(4, 6, 7, 7)
    whole = transforms("a.weight", weight, (3, 3))
    torch.testing.assert_close(transforms("a.weight", weight[1:3, 2:5], (3, 3)), whole[1:3, 2:5])
    torch.testing.assert_close(transforms("a.weight", 2 * weight, (3, 3)), 2 * whole)


def test_gradients_reach_the_matrices_and_the_large_kernel() -> None:
    """In closed form: with kernel k = M2 P2 M1 P1 w, where P cuts the centre, and a loss whose gradient at k is g."""
    transforms, weight = transforms_of((7, 7), (5, 5), (3, 3)), weight_of(2, 3, 7, 7).requires_grad_()
    g = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    (g * transforms("a.weight", weight, (3, 3))).sum().backward()
    first, second = transforms.parameters()
    with torch.no_grad():
        outer = weight[:, :, 1:6, 1:6].reshape(6, 25)
        inner = (outer @ first.T).view(6, 5, 5)[:, 1:4, 1:4].reshape(6, 9)
        at_second = g.reshape(6, 9)
        torch.testing.assert_close(second.grad, at_second.T @ inner)
        at_first = torch.zeros(6, 5, 5, dtype=torch.double)
        at_first[:, 1:4, 1:4] = (at_second @ second).view(6, 3, 3)
        at_first = at_first.view(6, 25)
        torch.testing.assert_close(first.grad, at_first.T @ outer)
        at_weight = torch.zeros(6, 7, 7, dtype=torch.double)
        at_weight[:, 1:6, 1:6] = (at_first @ first).view(6, 5, 5)
        torch.testing.assert_close(weight.grad, at_weight.view(2, 3, 7, 7))
    assert (weight.grad[:, :, 1, 1:6] != 0).all(), "taps outside of the smaller centre teach it too"


@every_case
@every_kind
def test_the_largest_kernel_is_never_transformed(kind: str, case: str) -> None:
    supernet = supernet_of(kind, case)
    levels = len(CASES[case]["features"])
    weight = next(iter(elastic_weights(supernet).items()))
    assert supernet.kernel_transforms(*weight, weight[1].shape[2:]) is weight[1]
    members = {kernel: with_kernels(supernet, *[kernel] * levels) for kernel in (7, 5, 3)}
    with torch.no_grad():
        for matrix in supernet.kernel_transforms.parameters():
            matrix.fill_(float("nan"))
        finite = {kernel: bool(supernet(image(supernet), member)[0].isfinite().all()) for kernel, member in members.items()}
    assert finite == {7: True, 5: False, 3: False}


def test_a_member_uses_the_matrices_down_to_its_kernels_and_no_others() -> None:
    supernet = supernet_of()
    members = {kernels: with_kernels(supernet, *kernels) for kernels in [(7, 7, 7), (5, 7, 3), (3, 5, 7)]}
    for kernels, member in members.items():
        supernet.zero_grad()
        sum(output.square().mean() for output in supernet(image(supernet), member)).backward()
        for key, matrix in supernet.kernel_transforms.matrices.items():
            level, step = level_and_step(key)
            assert (matrix.grad is not None) == (kernels[level] <= 7 - 2 * step), (kernels, key)


# ---------------------------------------------------------------------- learning
def train(supernet: SuperNet, members: Sequence[Subnet], *, rate: float = 0.05) -> None:
    optimizer = SGD(supernet.parameters(), rate, momentum=0.9)
    for step, member in enumerate(members):
        optimizer.zero_grad()
        x, target = batch(step, patch=supernet.family.patch_size)
        segmentation_loss(supernet(x, member), target).backward()
        optimizer.step()


def test_transforms_are_learned() -> None:
    """By members with smaller kernels, in the layers where theirs are smaller, and in the taps that these read."""
    supernet = supernet_of()
    weight = supernet.network.encoder.stages[0][0].convs[0].conv.weight
    before = weight.detach().clone()
    kernels = (3, 7, 5)
    train(supernet, [with_kernels(supernet, *kernels)] * 3)
    centre = torch.zeros(5, 5, dtype=torch.bool)
    centre[1:4, 1:4] = True
    learned = {  # which rows, those of taps, by step and kernel
        **{(1, 7): torch.zeros(25, dtype=torch.bool), (1, 5): torch.ones(25, dtype=torch.bool), (1, 3): centre.flatten()},
        **{(2, 7): torch.zeros(9, dtype=torch.bool), (2, 5): torch.zeros(9, dtype=torch.bool)},
        (2, 3): torch.ones(9, dtype=torch.bool),
    }
    for key, matrix in supernet.kernel_transforms.matrices.items():
        level, step = level_and_step(key)
        moved, rows = (matrix - torch.eye(len(matrix))).abs() > 1e-7, learned[step, kernels[level]]
        assert not moved[~rows].any(), key
        assert not rows.any() or moved[rows].float().mean() > 0.9, key
    changed = weight != before
    assert changed[:, :, 2:5, 2:5].all() and not changed[:, :, 0].any()


def test_learned_transforms_fit_better_than_the_centre_alone() -> None:
    """Only matrices are trained, so whatever the member with small kernels gains it gains by them."""
    supernet = supernet_of()
    member, (x, target) = with_kernels(supernet, 3, 3, 3), batch(0, patch=(48, 48))
    largest = supernet.extract(supernet.family.space.largest()).state_dict()
    optimizer = SGD(supernet.kernel_transforms.parameters(), 0.05)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(segmentation_loss(supernet(x, member), target))
        losses[-1].backward()
        optimizer.step()
    assert all(after < before for before, after in pairwise(losses))
    after = supernet.extract(supernet.family.space.largest()).state_dict()
    assert all(torch.equal(tensor, largest[name]) for name, tensor in after.items())


@every_network
def test_after_training_sliced_and_extracted_members_are_equal_bit_for_bit(
    kind: str, case: str, kernel: tuple[int, ...]
) -> None:
    supernet = supernet_of(kind, case, kernel)
    disturb(supernet.kernel_transforms)
    space, generator = supernet.family.space, random.Random(f"{kind} {case} {kernel}")
    train(supernet, [space.smallest(), *(space.sample(generator) for _ in range(3))])
    plain, x = SuperNet(supernet.family, supernet.network), image(supernet)
    differs = 0
    with torch.no_grad():
        for subnet in members_of(supernet, (kind, case, kernel)):
            sliced = supernet(x, subnet)
            stock = supernet.family.build(subnet)
            stock.decoder.deep_supervision = True
            stock.load_state_dict(supernet.extract(subnet).state_dict())
            assert equal(sliced, supernet.family.run(stock, x, subnet)), subnet
            assert equal(sliced, supernet.member(subnet)(x)), subnet
            differs += not equal(sliced, plain(x, subnet))
    assert differs > MEMBERS // 2, "the matrices take part"


def test_members_have_the_same_weights_under_autocast() -> None:
    """Extracted before, within or without autocast: matrices are not rounded to the precision of the layers."""
    supernet = supernet_of()
    disturb(supernet.kernel_transforms)
    x = image(supernet)
    with torch.no_grad():
        for subnet in members_of(supernet)[:6]:
            member = supernet.member(subnet)
            with torch.autocast("cpu", torch.bfloat16):
                assert equal(supernet(x, subnet), member(x)), subnet
                within = supernet.extract(subnet).state_dict()
            assert all(torch.equal(tensor, within[name]) for name, tensor in member.network.state_dict().items()), subnet


def test_matrices_are_where_the_network_is_and_in_its_precision() -> None:
    plain = supernet_of(kernel_transforms=False).double()
    supernet = SuperNet(plain.family, plain.network, kernel_transforms=kernel_transforms_of(plain.family))
    assert {p.dtype for p in supernet.parameters()} == {torch.double}
    smallest, x = plain.family.space.smallest(), image(plain).double()
    assert equal(supernet(x, smallest), plain(x, smallest))


# ---------------------------------------------------------------------- saving
def test_transforms_are_saved_with_the_supernet() -> None:
    supernet, again = supernet_of(), supernet_of(seed=1)
    disturb(supernet.kernel_transforms)
    file = io.BytesIO()
    torch.save(supernet.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    numbers = [tensor.numel() for key, tensor in state.items() if key.startswith("kernel_transforms.")]
    assert len(numbers) == 2 * len(elastic_weights(supernet)) and set(numbers) == {prod((25, 25)), prod((9, 9))}
    again.load_state_dict(state)
    x = image(supernet)
    with torch.no_grad():
        for subnet in members_of(supernet):
            assert equal(again(x, subnet), supernet(x, subnet)), subnet


def test_transforms_of_other_kernels_are_not_loaded() -> None:
    supernet, other = supernet_of(), supernet_of("PlainConvUNet", "2d", (3, 7))
    with pytest.raises(RuntimeError, match="kernel_transforms"):
        other.load_state_dict(supernet.state_dict())


def test_a_copy_is_of_its_own() -> None:
    supernet = supernet_of()
    copied = deepcopy(supernet)
    disturb(copied.kernel_transforms)
    assert all(torch.equal(matrix, torch.eye(len(matrix))) for matrix in supernet.kernel_transforms.parameters())
    smallest, x = supernet.family.space.smallest(), image(supernet)
    with torch.no_grad():
        assert not equal(copied(x, smallest), supernet(x, smallest))
