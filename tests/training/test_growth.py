"""Growing changes no function, and frozen is frozen."""

import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers.architectures import FLAT, KINDS, batch, randomise_norms, segmentation_loss, unet_family
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from monai_prox.core.slicing import fill
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.training.engine import Engine
from monai_prox.training.growth import Freezer, frozen_parts, initialise_preserving
from monai_prox.training.stage import Schedule, Stage

EVERYTHING = {"levels": 9, "depth": 9, "decoder_depth": 9, "width": 9, "kernel": 9}
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda parameters: SGD(parameters, 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
    "AdamW": lambda parameters: AdamW(parameters, 0.01, weight_decay=0.1),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


# ---------------------------------------------------------------------- birth
def grown(
    kind: str, before: Mapping[str, int], after: Mapping[str, int], *, nonlin: str = "torch.nn.LeakyReLU", axes: int = 2
) -> tuple[SuperNet, Subnet, Subnet]:
    """A supernet and its largest members with ``before`` and ``after`` open. Norms of new blocks are as built."""
    torch.manual_seed(0)
    choices = UNetChoices(depth="all", width=(0.5, 1.0), kernel=(3, 5), levels=1, resolution=(1.0,))
    patch = (24, 24) if axes == 2 else (12, 24, 24)
    family = unet_family(kind, choices=choices, features=(4, 8, 8), patch=patch, anisotropic=axes == 3, nonlin=nonlin)
    supernet = SuperNet(family)
    old, new = (family.space.restrict(opened).largest() for opened in (before, after))
    fresh = {name: p.detach().clone() for name, p in supernet.network.named_parameters()}
    randomise_norms(supernet.network)
    with torch.no_grad():
        for name, parameter in supernet.network.named_parameters():
            if name not in supernet.regions(old):
                parameter.copy_(fresh[name])
    return supernet, old, new


@torch.no_grad()
def computed(supernet: SuperNet, subnet: Subnet, *, new_norms_pass_on_since: Subnet | None = None) -> Tensor:
    """What a member makes of a fixed image, in double precision.

    new_norms_pass_on_since: the norms of convolutions that this older member has not, and that pass their input on, are
        left out.
    """
    family, network = supernet.family, supernet.extract(subnet).double()
    if new_norms_pass_on_since is not None:
        before = supernet.regions(new_norms_pass_on_since)
        for name, parameter in list(network.named_parameters()):
            source, _ = family.locate(name, tuple(parameter.shape), subnet)
            if source not in before and family.passes_through(source) is not None:
                block = network.get_submodule(name.removesuffix(".conv.weight"))
                block.all_modules = nn.Sequential(*(m for m in block.all_modules if m is not block.norm))
    x, _ = batch(5, patch=family.patch_size)
    return family.run(network, x.double(), subnet)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-9) -> bool:
    return torch.allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("opens", ["width", "kernel", "width and kernel"])
@every_kind
def test_a_wider_network_and_a_larger_kernel_compute_what_the_old_did(kind: str, opens: str, axes: int) -> None:
    before = {"levels": 9, "depth": 2}
    supernet, old, new = grown(kind, before, before | dict.fromkeys(opens.split(" and "), 9), axes=axes)
    function = computed(supernet, old)
    assert not close(computed(supernet, new), function, 1e-2)
    initialise_preserving(supernet, old, new)
    assert close(computed(supernet, new), function)
    assert torch.equal(computed(supernet, old), function)
    with torch.no_grad():  # and so does the supernet in single precision
        x, _ = batch(5, patch=supernet.family.patch_size)
        assert close(supernet(x, new), supernet(x, old), 1e-5)


def test_a_deeper_residual_network_computes_what_the_old_did() -> None:
    """A fresh residual block adds nothing; its last activation passes on what is not negative."""
    for nonlin, tolerance in (("torch.nn.ReLU", 1e-9), ("torch.nn.LeakyReLU", 0.1)):
        supernet, old, new = grown("ResidualEncoderUNet", {"width": 9}, {"width": 9, "depth": 9}, nonlin=nonlin)
        assert old["depth"] == (1, 1, 0) and new["depth"] == (2, 2, 0)
        function = computed(supernet, old)
        initialise_preserving(supernet, old, new)
        difference = (computed(supernet, new) - function).abs().max()
        assert difference <= tolerance * function.abs().max()


@pytest.mark.parametrize("opens", ["depth", "decoder_depth", "levels", "everything"])
def test_a_deeper_plain_network_computes_what_the_old_did_up_to_the_new_norms(opens: str) -> None:
    """Exactly where activations leave what is not negative alone."""
    after = EVERYTHING if opens == "everything" else {opens: 9}
    supernet, old, new = grown("PlainConvUNet", {}, after, nonlin="torch.nn.ReLU")
    function = computed(supernet, old)
    initialise_preserving(supernet, old, new)
    assert close(computed(supernet, new, new_norms_pass_on_since=old), function)
    assert not close(computed(supernet, new), function, 1e-3)


def test_a_residual_network_that_grows_in_everything_computes_what_the_old_did_up_to_the_new_norms() -> None:
    supernet, old, new = grown("ResidualEncoderUNet", {}, EVERYTHING, nonlin="torch.nn.ReLU")
    function = computed(supernet, old)
    initialise_preserving(supernet, old, new)
    assert close(computed(supernet, new, new_norms_pass_on_since=old), function)


@every_kind
def test_growth_in_several_stages_computes_what_the_first_did(kind: str) -> None:
    steps = [{}, {"width": 9}, {"width": 9, "kernel": 9}, EVERYTHING]
    supernet, first, last = grown(kind, steps[0], steps[-1], nonlin="torch.nn.ReLU")
    function = computed(supernet, first)
    members = [supernet.family.space.restrict(opened).largest() for opened in steps]
    for old, new in pairwise(members):
        initialise_preserving(supernet, old, new)
    assert close(computed(supernet, last, new_norms_pass_on_since=first), function)


@every_kind
def test_birth_leaves_the_old_weights_and_the_new_channels_own_weights_alone(kind: str) -> None:
    """New channels start random: where everything new were zero, nothing would ever be learnt by it."""
    supernet, old, new = grown(kind, {"levels": 9}, {"levels": 9, "width": 9})
    before = {name: p.detach().clone() for name, p in supernet.network.named_parameters()}
    initialise_preserving(supernet, old, new)
    widened = 0
    for name, parameter in supernet.network.named_parameters():
        changed = parameter != before[name]
        inside = torch.zeros_like(changed)
        if name in (regions := supernet.regions(old)):
            fill(inside, regions[name], True)
        assert not (changed & inside).any(), name
        if parameter.ndim > 1 and not name.startswith("decoder.seg_layers") and inside.any():
            output = supernet.family.output_axis(name)
            new_rows = parameter.movedim(output, 0)[parameter.shape[output] // 2 :]
            assert (new_rows != 0).all() and not changed.movedim(output, 0)[parameter.shape[output] // 2 :].any()
            widened += 1
    assert widened >= 7


@pytest.mark.parametrize("opens", [{"kernel": 9}, {"depth": 9}, {"width": 9}])
@every_kind
def test_birth_leaves_alone_what_does_not_grow_and_what_is_not_born_yet(kind: str, opens: dict[str, int]) -> None:
    """Tensors of which the new member has no more than the old one, or nothing."""
    supernet, old, new = grown(kind, {}, opens)
    before = {name: p.detach().clone() for name, p in supernet.network.named_parameters()}
    initialise_preserving(supernet, old, new)
    of_old, of_new = supernet.regions(old), supernet.regions(new)
    same = {name for name in before if of_old.get(name) == of_new.get(name)}
    assert any(name in of_new for name in same) and any(name not in of_new for name in same) and len(same) < len(before)
    for name, parameter in supernet.network.named_parameters():
        assert name not in same or torch.equal(parameter, before[name]), name


# ---------------------------------------------------------------------- freezing
def engine_of(*stages: dict[str, Any], kind: str = "PlainConvUNet") -> Engine:
    """One epoch per stage; every step trains the largest member that is open, all of whose weights have gradients."""
    torch.manual_seed(0)
    supernet = SuperNet(unet_family(kind, choices=FLAT, features=(4, 8, 8)))
    supernet.network.decoder.deep_supervision = True
    randomise_norms(supernet.network)
    recipe = tuple(Stage(name=str(i), train=("largest",), **stage) for i, stage in enumerate(stages))
    return Engine(supernet, Schedule(recipe, len(recipe)), segmentation_loss, seed=0)


def run_epoch(engine: Engine, optimizer: Optimizer, epoch: int, *, steps: int = 3, set_to_none: bool = True) -> None:
    engine.begin_epoch(epoch)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=set_to_none)
        engine.step(*batch(100 * epoch + step), epoch=epoch, step=step)
        optimizer.step()


def weights(engine: Engine) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in engine.supernet.network.named_parameters()}


def moved(engine: Engine, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """True where a weight is no longer the same, by name."""
    return {name: p != before[name] for name, p in engine.supernet.network.named_parameters()}


def inside(engine: Engine, stage: int) -> dict[str, Tensor]:
    """True where the largest member of ``stage`` has its weights, by name."""
    supernet = engine.supernet
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in supernet.network.named_parameters()}
    member = engine.schedule.stages[stage].space(supernet.family.space).largest()
    for name, region in supernet.regions(member).items():
        fill(masks[name], region, True)
    return masks


def mostly(mask: Tensor) -> bool:
    return bool(mask.float().mean() > 0.9)


@pytest.mark.parametrize("set_to_none", [True, False])
@every_optimizer
@every_kind
def test_unborn_weights_stay_bit_for_bit_and_the_others_move(
    kind: str, optimizer: Callable[[Any], Optimizer], set_to_none: bool
) -> None:
    engine = engine_of({}, {"open": {"width": 9}}, {"open": EVERYTHING}, kind=kind)
    updates = optimizer(engine.supernet.network.parameters())
    engine.guard(updates)
    for epoch in range(3):
        before = weights(engine)
        run_epoch(engine, updates, epoch, set_to_none=set_to_none)
        changed, open_now = moved(engine, before), inside(engine, epoch)
        for name, mask in open_now.items():
            assert not (changed[name] & ~mask).any(), (epoch, name)
            if mask.any() and before[name].ndim > 1:
                assert mostly(changed[name][mask]), (epoch, name)
    assert all(mask.all() for mask in open_now.values())


def test_unborn_weights_stay_whatever_the_optimizer_makes_of_gradients_of_zero() -> None:
    engine = engine_of({}, {"open": EVERYTHING})
    updates = AdamW(engine.supernet.network.parameters(), eps=0)  # 0 / 0
    engine.guard(updates)
    before = weights(engine)
    run_epoch(engine, updates, 0, steps=1)
    for name, mask in inside(engine, 0).items():
        assert torch.equal(weights(engine)[name][~mask], before[name][~mask]), name


@every_optimizer
def test_a_grown_kernel_trains_its_shell_alone(optimizer: Callable[[Any], Optimizer]) -> None:
    engine = engine_of({"open": {"width": 9}}, {"open": {"width": 9, "kernel": 9}, "freeze": "grown"})
    updates = optimizer(engine.supernet.network.parameters())
    engine.guard(updates)
    run_epoch(engine, updates, 0)
    before = weights(engine)
    run_epoch(engine, updates, 1)
    kernels = 0
    for name, changed in moved(engine, before).items():
        if not inside(engine, 1)[name].any():
            assert not changed.any(), name
        elif changed.shape[2:] == (5, 5):
            kernels += 1
            assert not changed[:, :, 1:4, 1:4].any(), name
            shell = torch.ones_like(changed)
            shell[:, :, 1:4, 1:4] = False
            assert mostly(changed[shell]), name
        elif changed.ndim > 1:
            assert mostly(changed), name
    assert kernels == 5


@pytest.mark.parametrize("set_to_none", [True, False])
@every_optimizer
@every_kind
def test_a_deeper_stage_trains_its_new_blocks_alone(
    kind: str, optimizer: Callable[[Any], Optimizer], set_to_none: bool
) -> None:
    """The encoder gets deeper, the decoder not: decoder stages train on."""
    engine = engine_of({"open": {"width": 9}}, {"open": {"width": 9, "depth": 9}, "freeze": "grown"}, kind=kind)
    updates = optimizer(engine.supernet.network.parameters())
    engine.guard(updates)
    run_epoch(engine, updates, 0, set_to_none=set_to_none)
    before = weights(engine)
    run_epoch(engine, updates, 1, set_to_none=set_to_none)
    changed = moved(engine, before)
    new_block = "convs.1." if kind == "PlainConvUNet" else "blocks.1."
    for name, born in inside(engine, 1).items():
        if name.startswith("encoder.stages"):
            assert new_block in name or not changed[name].any(), name
        if changed[name].ndim > 1 and born.any() and (new_block in name or name.startswith("decoder")):
            assert mostly(changed[name][born]), name
    assert sum(new_block in name and mask.any().item() for name, mask in changed.items()) > 5


def test_frozen_parts_do_not_count_in_the_gradient_norm() -> None:
    """Gradients are clipped by their norm after a step's backward passes; what does not move must not weigh."""
    engine = engine_of({"open": {"width": 9}}, {"open": {"width": 9, "kernel": 9}, "freeze": "grown"})
    engine.guard(SGD(engine.supernet.parameters(), 0.1))
    engine.begin_epoch(1)
    engine.step(*batch(0), epoch=1, step=0)
    gradient = engine.supernet.network.encoder.stages[0][0].convs[0].conv.weight.grad
    assert (gradient[:, :, 1:4, 1:4] == 0).all() and (gradient[:, :, 0] != 0).any()


@every_optimizer
def test_weights_that_begin_to_train_have_a_fresh_optimizer(optimizer: Callable[[Any], Optimizer]) -> None:
    """Newborn weights and those that thaw take the first step of an optimizer, with Adam their tensor does; others go on."""
    grows = {"width": 9, "kernel": 9}
    engine = engine_of({}, {"open": grows, "freeze": "grown"}, {"open": grows}, {"open": EVERYTHING})
    updates = optimizer(engine.supernet.network.parameters())
    engine.guard(updates)
    former: dict[str, Tensor] = {}
    went_on, new = 0, None
    for stage in range(4):
        engine.begin_epoch(stage)
        old, new = new, engine.space.largest()
        kept = frozen_parts(engine.supernet, old, new, engine.stage.freeze)
        trained = {name: ~kept[parameter] for name, parameter in engine.supernet.network.named_parameters()}
        before = weights(engine)
        run_epoch(engine, updates, stage, steps=1)
        for name, parameter in engine.supernet.network.named_parameters():
            if not (now := trained[name]).any():
                continue
            twin = nn.Parameter(before[name])
            twin.grad = parameter.grad.clone()
            optimizer([twin]).step()
            begins = now & ~former.get(name, torch.zeros_like(now))
            fresh = now if isinstance(updates, AdamW) and begins.any() else begins
            torch.testing.assert_close(parameter[fresh], twin[fresh])
            goes_on = now & ~fresh
            if parameter.ndim > 1 and goes_on.any():
                assert not torch.allclose(parameter[goes_on], twin[goes_on]), name
                went_on += 1
        run_epoch(engine, updates, stage, steps=3)
        former = trained
    assert went_on > 5


@every_optimizer
def test_weights_that_thaw_start_without_momentum(optimizer: Callable[[Any], Optimizer]) -> None:
    """The first block of a stage trains, is frozen while the stage gets deeper, and trains again as if anew."""
    engine = engine_of({}, {"open": {"depth": 9}, "freeze": "grown"}, {"open": {"depth": 9}})
    updates = optimizer(engine.supernet.network.parameters())
    engine.guard(updates)
    run_epoch(engine, updates, 0)
    run_epoch(engine, updates, 1)
    weight = engine.supernet.network.encoder.stages[1][0].convs[0].norm.weight
    engine.begin_epoch(2)
    assert weight.requires_grad
    old = weight.detach().clone()
    run_epoch(engine, updates, 2, steps=1)
    twin = nn.Parameter(old)
    twin.grad = weight.grad.clone()
    born = inside(engine, 2)["encoder.stages.1.0.convs.0.norm.weight"]
    optimizer([twin]).step()
    torch.testing.assert_close(weight[born], twin[born])


def test_adam_takes_no_larger_steps_with_newborn_weights() -> None:
    """Its average of their squared gradients would have begun with nothing, and its correction for that would be long over."""
    engine = engine_of({}, {"open": {"width": 9}})
    updates = AdamW(engine.supernet.network.parameters(), lr := 0.01, weight_decay=0)
    engine.guard(updates)
    for _ in range(20):
        run_epoch(engine, updates, 0)
    engine.begin_epoch(1)
    born = {name: mask & ~inside(engine, 0)[name] for name, mask in inside(engine, 1).items()}
    before = weights(engine)
    run_epoch(engine, updates, 1, steps=1)
    for name, parameter in engine.supernet.network.named_parameters():
        assert not ((parameter - before[name]).abs()[born[name]] > 1.001 * lr).any(), name


def test_wholly_frozen_parameters_need_no_gradient_and_thaw_again() -> None:
    layer = nn.Linear(2, 2)
    Freezer({layer.weight: torch.ones(2, 2, dtype=torch.bool), layer.bias: torch.zeros(2, dtype=torch.bool)})
    assert not layer.weight.requires_grad and layer.bias.requires_grad
    Freezer({layer.weight: torch.zeros(2, 2, dtype=torch.bool), layer.bias: torch.zeros(2, dtype=torch.bool)})
    assert layer.weight.requires_grad


@every_kind
def test_nothing_of_the_largest_member_is_frozen_at_the_end(kind: str) -> None:
    family = unet_family(kind, features=(4, 8, 8))
    supernet, largest = SuperNet(family), family.space.largest()
    for old in (None, family.space.smallest(), family.space.sample(random.Random(0))):
        masks = frozen_parts(supernet, old, largest, "none")
        assert set(masks) == set(supernet.network.parameters()) and not any(m.any() for m in masks.values())
