"""From batches to gradients and from epochs to stages: what is trained, who teaches it, and that it can be resumed."""

import gc
import io
import random
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.architectures import FLAT, batch, segmentation_loss, unet_family
from helpers.engines import Recipe, engine_of
from helpers.equality import equal
from helpers.ranks import in_threads, together
from helpers.refusals import refused
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from monai_prox.core.distributed import broadcast
from monai_prox.core.slicing import fill, place
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.training import distill
from monai_prox.training.engine import Engine
from monai_prox.training.recipes import make_schedule, progressive_shrinking, prox, prox_paper, sandwich
from monai_prox.training.stage import Stage

LOW_RESOLUTION = UNetChoices(depth="all", width=(0.5, 1.0), kernel=None, levels=1, resolution=(0.75, 1.0))
ALL = {"depth": 9, "decoder_depth": 9, "width": 9, "kernel": 9, "levels": 9, "resolution": 9}
SANDWICH = Stage(
    name="sandwich",
    open=ALL,
    train=("largest", "smallest", "random"),
    teacher="largest",
    distance="kl",
    distillation=0.25,
)


def sgd(engine: Engine) -> Optimizer:
    return SGD(engine.supernet.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)


def adamw(engine: Engine) -> Optimizer:
    return AdamW(engine.supernet.parameters(), 0.003)


def train(engine: Engine, optimizer: Optimizer, epochs: range, *, steps: int = 2, set_to_none: bool = True) -> list[float]:
    losses = []
    engine.guard(optimizer)
    for epoch in epochs:
        engine.begin_epoch(epoch)
        for step in range(steps):
            optimizer.zero_grad(set_to_none=set_to_none)
            losses.append(engine.step(*batch(100 * epoch + step), epoch=epoch, step=step).loss.item())
            optimizer.step()
    return losses


def begin(engine: Engine, epoch: int = 0) -> None:
    """What an engine needs before a step whose gradients are looked at."""
    engine.guard(sgd(engine))
    engine.begin_epoch(epoch)


def monitored(recipe: Recipe | tuple[Stage, ...], epochs: int | None = None, **settings: Any) -> Engine:
    """An engine with a monitor of these settings."""
    return engine_of(recipe, epochs, monitor=settings)


def put_on_trial(engine: Engine, dimension: str | None) -> None:
    """Whose last choice the monitor has on trial; None ends the trial."""
    assert engine.monitor is not None
    engine.load_monitor(engine.monitor.state_dict() | {"trial": dimension})


def gradients(engine: Engine) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in engine.supernet.network.named_parameters()
    }


def weights_of(engine: Engine) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in engine.supernet.named_parameters()}


def finest(outputs: Tensor | list[Tensor]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


every_optimizer = pytest.mark.parametrize("optimizer_of", [sgd, adamw])


# ---------------------------------------------------------------------- members
def test_members_are_a_pure_function_of_seed_epoch_and_step() -> None:
    engine, again, other = (
        engine_of((SANDWICH,), 9),
        engine_of((SANDWICH,), 9, weights=1),
        engine_of((SANDWICH,), 9, seed=1),
    )
    for each in (engine, again, other):
        each.begin_epoch(0)
    times = [(epoch, step) for epoch in range(4) for step in range(5)]
    forwards = {time: engine.members(*time) for time in times}
    train(engine, sgd(engine), range(1))
    torch.manual_seed(99)
    assert {time: again.members(*time) for time in reversed(times)} == forwards
    assert {time: engine.members(*time) for time in times} == forwards
    assert {time: other.members(*time) for time in times} != forwards
    assert len({members[-1] for members in forwards.values()}) > 10


def test_members_come_in_the_order_of_their_roles_and_from_what_is_open() -> None:
    stage = Stage(name="depth", open={"depth": 2}, train=("largest", "random", "smallest"))
    engine = engine_of((stage, SANDWICH))
    engine.begin_epoch(0)
    space = stage.space(engine.supernet.family.space)
    assert engine.space == space and engine.stage is stage
    for step in range(20):
        members = engine.members(0, step)
        assert members[0] == space.largest() and space.smallest() in members[1:]
        assert all(member in space for member in members)
        assert all(set(member["width"]) == set(space.smallest()["width"]) for member in members)
    engine.begin_epoch(1)
    assert engine.members(1, 0)[0] == engine.supernet.family.space.largest()


@pytest.mark.parametrize("of_epoch", [1, 2, 3, 4, 6])
def test_turns_are_equally_frequent_in_epochs_of_any_length(of_epoch: int) -> None:
    turns = ("largest", "largest", "smallest", "smallest")
    engine = engine_of((Stage(name="all", open=SANDWICH.open, train=(turns,)),), 12)
    engine.begin_epoch(0)
    trained = [engine.members(epoch, step) for epoch in range(12) for step in range(of_epoch)]
    assert trained.count([engine.space.largest()]) == trained.count([engine.space.smallest()]) == 6 * of_epoch


def test_during_a_trial_half_of_the_steps_train_members_without_the_choice() -> None:
    stage = Stage(name="all", open=SANDWICH.open, train=("largest", "random"), monitored=True)
    engine = monitored((SANDWICH, stage))
    for epoch in range(2):
        engine.begin_epoch(epoch)
    largest, trial = engine.space.largest(), engine.space.without_last("width")
    steps = range(200)
    assert all(engine.members(1, step)[0] == largest for step in steps)
    put_on_trial(engine, "width")
    assert engine.trial == trial
    trained = [engine.members(1, step) for step in steps]
    assert trained == [engine.members(1, step) for step in steps]
    without = [members for members in trained if members[0] == trial.largest()]
    assert 0.4 < len(without) / len(trained) < 0.6
    assert all(member in trial for members in without for member in members)
    assert len({members[-1] for members in without}) > 5
    assert all(members[0] == largest for members in trained if members not in without)
    put_on_trial(engine, None)
    engine.close("width")
    assert {engine.members(1, step)[0] for step in steps} == {trial.largest()}


def test_a_trial_ends_with_its_stage() -> None:
    stage = Stage(name="all", open=SANDWICH.open, train=("largest",), monitored=True)
    engine = monitored((stage, replace(stage, name="more")))
    engine.begin_epoch(0)
    put_on_trial(engine, "width")
    engine.begin_epoch(1)
    assert engine.trial is None


def test_a_monitor_s_trial_and_verdict_are_the_engine_s() -> None:
    """What it puts on trial is trained half as often, what it closes is closed, and a resumed engine goes on with both."""
    stage = Stage(name="all", open=SANDWICH.open, train=("largest",), monitored=True)
    engine, other = monitored((stage,), 9, patience=2), monitored((stage,), 9, patience=2)
    engine.begin_epoch(0)
    closed: list[str] = []
    for epoch in range(4):
        compared = engine.compared(epoch, 3)
        assert compared[0] == engine.space.largest() and len(compared) == (1 if epoch == 0 else 2)
        comparison = engine.observe(epoch, {member: {str(case): 0.5 for case in range(9)} for member in compared})
        assert (comparison is None) == (epoch == 0)
        closed += [comparison.dimension] if comparison is not None and comparison.verdict == "closed" else []
        assert engine.trial is not None
    assert list(engine.closed) == closed and len(closed) == 1
    assert [comparison.verdict for comparison in engine.comparisons] == [None, None, "closed"]
    other.load_state_dict(engine.state_dict())
    assert (other.trial, other.closed, other.comparisons) == (engine.trial, engine.closed, engine.comparisons)
    without = engine_of((stage,), 9)
    without.load_state_dict(engine.state_dict())
    assert without.trial is None and without.compared(4, 3) == [] and without.comparisons == engine.comparisons
    assert without.state_dict()["monitor"] == engine.state_dict()["monitor"], "for a training that has one again"
    refused("the engine has no monitor", without.observe, 4, {})


@pytest.mark.parametrize(("interval", "comparing"), [(1, 1), (2, 1), (3, 1), (5, 2), (6, 2), (10, 3), (25, 8)])
def test_comparisons_are_about_three_times_as_frequent_as_validations_of_all_members(interval: int, comparing: int) -> None:
    engine = monitored((Stage(name="all", open=SANDWICH.open, monitored=True),), 100)
    engine.begin_epoch(0)
    compared = [epoch for epoch in range(100) if engine.compared(epoch, interval)]
    assert compared == sorted({*range(comparing - 1, 100, comparing), 99})


def test_a_member_drawn_twice_trains_once() -> None:
    """At the smallest stage everyone is the smallest: three roles make the same gradient as one."""
    roles = ("largest", "smallest", "random")
    three, one = (engine_of((Stage(name="smallest", train=r),)) for r in (roles, ("random",)))
    for engine in (three, one):
        begin(engine)
        assert engine.members(0, 0) == [engine.supernet.family.space.smallest()]
        engine.step(*batch(0), epoch=0, step=0)
    expected = gradients(one)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(three).items())


# ---------------------------------------------------------------------- stages
def test_stages_open_with_their_epoch() -> None:
    stages = (Stage(name="a"), Stage(name="b", open={"width": 2}), Stage(name="c", open=ALL))
    engine = engine_of(stages, 6)
    assert [engine.begin_epoch(epoch) for epoch in range(6)] == [True, False, True, False, True, False]
    assert engine.stage.name == "c"
    late = engine_of(stages, 6)
    assert late.begin_epoch(5) and late.stage.name == "c"


def test_the_final_space_is_that_of_the_last_stage() -> None:
    stages = (
        Stage(name="a"),
        Stage(name="b", open={"width": 2}),
        Stage(name="c", open={"depth": 2}),
        Stage(name="d", open=ALL),
    )
    engine = engine_of(stages)
    whole = engine.supernet.family.space
    for epoch in range(4):
        engine.begin_epoch(epoch)
        assert engine.space == stages[epoch].space(whole) and engine.final_space == whole


def watched_rates(optimizer: Optimizer) -> list[float]:
    """The learning rates that its updates take, relative to that which a scheduler has set."""
    rate, rates = optimizer.param_groups[0]["lr"], list[float]()
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"] / rate))
    return rates


WARM = (Stage(name="small"), Stage(name="wide", open={"width": 9}, warmup=4), Stage(name="on", open={"width": 9}))


@every_optimizer
@pytest.mark.parametrize("warmup", [4, 40], ids=["its own", "a quarter of the stage at most"])
def test_the_learning_rate_rises_as_a_stage_opens(optimizer_of: Callable[[Engine], Optimizer], warmup: int) -> None:
    engine = engine_of((WARM[0], replace(WARM[1], warmup=warmup), WARM[2]), 6)
    optimizer = optimizer_of(engine)
    engine.guard(optimizer)
    rate, rates = optimizer.param_groups[0]["lr"], watched_rates(optimizer)
    for epoch in range(6):
        train(engine, optimizer, range(epoch, epoch + 1), steps=8)
        assert optimizer.param_groups[0]["lr"] == rate  # what a scheduler has set
    assert rates == pytest.approx([1] * 16 + [1 / 4, 2 / 4, 3 / 4] + [1] * 29)


def test_a_warm_up_counts_updates_and_not_the_batches_of_each() -> None:
    engine = engine_of(WARM, 6)
    optimizer = sgd(engine)
    engine.guard(optimizer)
    rates = watched_rates(optimizer)
    for epoch in range(4):
        engine.begin_epoch(epoch)
        for step in range(16):
            engine.step(*batch(step), epoch=epoch, step=step)
            if step % 2:
                optimizer.step()
    assert rates == pytest.approx([1] * 16 + [1 / 4, 2 / 4, 3 / 4] + [1] * 13)


def test_a_first_stage_may_warm_up_for_as_long_as_it_says() -> None:
    """There are no epochs before it by which to tell how many updates a quarter of it has."""
    engine = engine_of((replace(WARM[0], warmup=5), WARM[2]))
    optimizer = sgd(engine)
    engine.guard(optimizer)
    rates = watched_rates(optimizer)
    train(engine, optimizer, range(2), steps=8)
    assert rates == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5] + [1] * 12)


def test_of_several_optimizers_the_first_one_s_updates_count() -> None:
    """And all of them take the rates of the warm-up."""
    engine = engine_of((WARM[0], replace(WARM[1], warmup=2), WARM[2]), 6)
    network = engine.supernet.network
    first = list(network.encoder.parameters())
    rest = [p for p in network.parameters() if not any(p is other for other in first)]
    optimizers = [SGD(first, 0.01), SGD(rest, 0.02)]
    for optimizer in optimizers:
        engine.guard(optimizer)
    rates = [watched_rates(optimizer) for optimizer in optimizers]
    for epoch in range(4):
        engine.begin_epoch(epoch)
        for step in range(4):
            engine.step(*batch(step), epoch=epoch, step=step)
            for optimizer in optimizers:
                optimizer.step()
    assert rates == [pytest.approx([1] * 8 + [1 / 2] + [1] * 7)] * 2


def test_an_optimizer_that_is_guarded_twice_or_fails_keeps_its_learning_rate() -> None:
    engine = engine_of(WARM, 6)
    optimizer = sgd(engine)
    rate = optimizer.param_groups[0]["lr"]
    engine.guard(optimizer)
    engine.guard(optimizer)
    rates = watched_rates(optimizer)
    train(engine, optimizer, range(2), steps=8)
    engine.begin_epoch(2)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(lambda: (_ for _ in ()).throw(RuntimeError("out of memory")))
    train(engine, optimizer, range(2, 3), steps=3)
    assert optimizer.param_groups[0]["lr"] == rate
    assert rates[16:] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])


def test_only_a_preserving_birth_writes_weights_and_not_over_pretrained_ones() -> None:
    for new_weights, pretrained, kept in (
        ("random", False, True),
        ("preserving", True, True),
        ("preserving", False, False),
    ):
        stages = (Stage(name="a"), Stage(name="b", open=ALL, new_weights=new_weights))
        engine = engine_of(stages)
        if pretrained:
            engine.supernet.network.load_state_dict(engine.supernet.network.state_dict())
        engine.begin_epoch(0)
        before = {name: p.detach().clone() for name, p in engine.supernet.network.named_parameters()}
        engine.begin_epoch(1)
        after = dict(engine.supernet.network.named_parameters())
        assert all(torch.equal(before[name], after[name]) for name in before) == kept


def test_given_weights_are_those_that_were_loaded() -> None:
    stages = (Stage(name="a", new_weights="given"), Stage(name="b", open=ALL, new_weights="given"))
    engine = engine_of(stages)
    refused("'a' begins with a network that is trained already, and no weights were loaded", engine.begin_epoch, 0)
    engine = engine_of(stages)
    given = {name: weight.clone() for name, weight in engine.supernet.network.state_dict().items()}
    engine.supernet.network.load_state_dict(given)
    for epoch in range(2):
        engine.begin_epoch(epoch)
        assert equal(dict(engine.supernet.network.state_dict()), given)


def test_a_first_stage_has_nothing_to_preserve() -> None:
    engine = engine_of((Stage(name="a", open=ALL, new_weights="preserving"),))
    before = weights_of(engine)
    engine.begin_epoch(0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(engine).items())


def test_preserving_birth_computes_what_the_stage_before_did() -> None:
    engine = engine_of((Stage(name="a"), Stage(name="b", open={"width": 2, "kernel": 2}, new_weights="preserving")))
    engine.begin_epoch(0)
    x, _ = batch(0)
    old = engine.space.largest()
    with torch.no_grad():
        before = finest(engine.supernet(x, old))
        engine.begin_epoch(1)
        assert engine.space.largest() != old
        torch.testing.assert_close(finest(engine.supernet(x, engine.space.largest())), before, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------- losses
def accumulated(engine: Engine, terms: dict[Subnet, Callable[[Any], Tensor]], x: Tensor) -> dict[str, Tensor]:
    """The sum of the gradients of one loss per member, each computed on the member cut out, at their places."""
    supernet = engine.supernet
    total = {name: torch.zeros_like(p) for name, p in supernet.network.named_parameters()}
    for member, loss in terms.items():
        network = supernet.member(member).requires_grad_()
        loss(network(x)).backward()
        for name, parameter in network.network.named_parameters():
            if parameter.grad is not None:
                source, region = supernet.family.locate(name, tuple(parameter.shape), member)
                here = torch.zeros_like(total[source])
                place([here], [region], [parameter.grad])
                total[source] += here
    return total


def four_members(engine: Engine) -> tuple[int, list[Subnet]]:
    """A step of epoch 0 with as many members, and these."""
    return next((step, members) for step in range(100) if len(members := engine.members(0, step)) == 4)


def inside(engine: Engine, member: Subnet) -> dict[str, Tensor]:
    """True where ``member`` has its weights, by name."""
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in engine.supernet.network.named_parameters()}
    for name, region in engine.supernet.regions(member).items():
        fill(masks[name], region, True)
    return masks


def assert_equal_gradients(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert any((gradient != 0).any() for gradient in other.values())
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("choices", [FLAT, LOW_RESOLUTION], ids=["flat", "levels and resolution"])
def test_a_sandwich_step_is_the_sum_of_its_members_losses(
    choices: UNetChoices, deep_supervision: bool, exclusive: bool
) -> None:
    """The largest learns the task; the others three quarters of the task and a quarter of its detached logits."""
    engine = engine_of((SANDWICH,), choices=choices, deep_supervision=deep_supervision, exclusive=exclusive)
    begin(engine)
    x, target = batch(0)
    members = engine.members(0, 3)
    assert len(members) == 3
    with torch.no_grad():
        outputs = engine.supernet(x, members[0])
    teacher, task = finest(outputs), segmentation_loss(outputs, target)

    def taught(outputs: Any) -> Tensor:
        student = finest(outputs)
        if exclusive:
            divergence = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="sum") / target.numel()
        else:
            divergence = distill.kl(student, teacher, exclusive=False)
        return 0.75 * segmentation_loss(outputs, target) + 0.25 * divergence

    expected = accumulated(
        engine, {members[0]: lambda o: segmentation_loss(o, target), members[1]: taught, members[2]: taught}, x
    )
    reported = engine.step(x, target, epoch=0, step=3).loss
    assert_equal_gradients(gradients(engine), expected)
    torch.testing.assert_close(reported, task)
    assert not reported.requires_grad


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("choices", [FLAT, LOW_RESOLUTION], ids=["flat", "levels and resolution"])
def test_by_the_sandwich_rule_only_the_largest_sees_the_labels(choices: UNetChoices, deep_supervision: bool) -> None:
    """The others learn its detached logits, at full resolution, and nothing else."""
    engine = engine_of(sandwich, choices=choices, deep_supervision=deep_supervision)
    begin(engine)
    x, target = batch(0)
    step, members = four_members(engine)
    assert members[:2] == [engine.space.largest(), engine.space.smallest()]
    with torch.no_grad():
        teacher = finest(engine.supernet(x, members[0]))

    def taught(outputs: Any) -> Tensor:
        return F.kl_div(finest(outputs).log_softmax(1), teacher.softmax(1), reduction="sum") / target.numel()

    losses = {members[0]: lambda o: segmentation_loss(o, target), **dict.fromkeys(members[1:], taught)}
    expected = accumulated(engine, losses, x)
    passed = []
    reported = engine.step(x, target, epoch=0, step=step, backward=lambda loss: passed.append(loss.detach()) or loss.backward())
    assert_equal_gradients(gradients(engine), expected)
    with torch.no_grad():
        alone = torch.stack([loss(engine.supernet(x, member)) for member, loss in losses.items()])
    torch.testing.assert_close(torch.stack(passed), alone)
    torch.testing.assert_close(reported.loss, alone[0])
    assert torch.equal(reported.output, teacher)


def test_students_leave_the_weights_of_larger_members_alone() -> None:
    """No gradient goes through the largest's logits that they learn from: each one's is zero beyond its own weights."""
    engine = engine_of(sandwich, choices=LOW_RESOLUTION)
    begin(engine)
    step, members = four_members(engine)
    after = [gradients(engine)]

    def backward(loss: Tensor) -> None:
        loss.backward()
        after.append(gradients(engine))

    engine.step(*batch(0), epoch=0, step=step, backward=backward)
    assert len(after) == 5
    for member, before, now in zip(members, after[:-1], after[1:], strict=True):
        mine = inside(engine, member)
        assert all(torch.equal(before[name][~mine[name]], gradient[~mine[name]]) for name, gradient in now.items()), member
        changed = [(before[name] != gradient)[mine[name]] for name, gradient in now.items() if mine[name].any()]
        assert torch.cat(changed).float().mean() > 0.9, member
    smallest = inside(engine, members[1])
    beyond = torch.cat([after[1][name][~mask] for name, mask in smallest.items()])
    assert (beyond != 0).float().mean() > 0.9, "there are weights of the largest alone, and it learns by them"


@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_the_papers_loss_is_half_task_and_half_distance_to_the_previous_largest(distance: Any) -> None:
    stages = (Stage(name="a"), Stage(name="b", open={"width": 2}, teacher="previous", distance=distance))
    engine = engine_of(stages)
    train(engine, sgd(engine), range(1))
    teacher = engine.supernet.extract(engine.space.largest()).eval()
    engine.begin_epoch(1)
    x, target = batch(7)
    with torch.no_grad():
        logits = finest(teacher(x))
    between = F.mse_loss if distance == "mse" else distill.kl
    (member,) = engine.members(1, 0)
    expected = accumulated(engine, {member: lambda o: (segmentation_loss(o, target) + between(finest(o), logits)) / 2}, x)
    with torch.no_grad():
        task = segmentation_loss(engine.supernet(x, member), target)
    engine.supernet.zero_grad()
    torch.testing.assert_close(engine.step(x, target, epoch=1, step=0).loss, task)
    assert_equal_gradients(gradients(engine), expected)


def test_every_loss_goes_through_the_given_backward_and_precision() -> None:
    plain, scaled = engine_of((SANDWICH,)), engine_of((SANDWICH,))
    entered = []

    @contextmanager
    def precision() -> Any:
        entered.append("in")
        yield
        entered.append("out")

    def backward(loss: Tensor) -> None:
        assert entered[-1] == "out"  # backward passes run outside of autocast
        (2 * loss).backward()

    for engine in (plain, scaled):
        begin(engine)
    plain.step(*batch(0), epoch=0, step=3)
    scaled.step(*batch(0), epoch=0, step=3, backward=backward, precision=precision)
    assert entered.count("in") >= len(scaled.members(0, 3)) == 3
    doubled = gradients(scaled)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(2 * gradient, doubled[name])


# ---------------------------------------------------------------------- the frozen teacher
def test_the_previous_largest_teaches_as_it_was_when_the_stage_opened() -> None:
    engine = engine_of(prox_paper)
    optimizer = sgd(engine)
    engine.guard(optimizer)
    assert len(engine.schedule.stages) == 4
    for epoch in range(4):
        old = engine.space.largest() if epoch else None
        before = engine.supernet.extract(old).state_dict() if epoch else {}
        engine.begin_epoch(epoch)
        for moment in ("opening", "end"):
            teacher = engine.state_dict()["teacher"]
            if old is None:
                assert teacher is None
                continue
            assert Subnet.from_json(teacher["subnet"]) == old
            assert list(teacher["weights"]) == list(before)
            assert all(torch.equal(before[key], weight) for key, weight in teacher["weights"].items()), moment
            if moment == "opening":
                train(engine, optimizer, range(epoch, epoch + 1))
                after = engine.supernet.extract(old).state_dict()
                assert not all(torch.equal(before[key], weight) for key, weight in after.items())
        train(engine, optimizer, range(epoch, epoch + 1))


def test_the_teacher_drops_nothing_out() -> None:
    """A student that is the teacher, and drops nothing out either, has nothing to learn from it."""
    stages = (Stage(name="a"), Stage(name="b", teacher="previous", distillation=1.0))
    engine = engine_of(stages, dropout=0.5)
    for epoch in range(2):
        engine.begin_epoch(epoch)
    again = engine_of(stages, dropout=0.5)
    again.load_state_dict(engine.state_dict())
    for taught in (engine, again):
        taught.guard(sgd(taught))
        assert taught.supernet.training
        taught.supernet.eval()
        taught.step(*batch(0), epoch=1, step=0)
        assert not any((gradient != 0).any() for gradient in gradients(taught).values())


def test_a_stage_without_a_teacher_keeps_none() -> None:
    engine = engine_of((Stage(name="a"), Stage(name="b", open=ALL, teacher="previous"), SANDWICH))
    teachers = [engine.begin_epoch(epoch) and engine.state_dict()["teacher"] is not None for epoch in range(3)]
    assert teachers == [False, True, False]


def test_the_teacher_is_who_the_stage_says() -> None:
    """Beside members that train anyway."""
    names = ("none", "previous", "first", "first", "previous", "largest")
    stages = tuple(
        Stage(name=str(i), open={"width": 2} if i else {}, teacher=teacher, train=("largest", "smallest"))
        for i, teacher in enumerate(names)
    )
    engine = engine_of(stages)
    assert engine.teacher is None
    space = engine.supernet.family.space
    smallest, wide = space.smallest(), space.restrict({"width": 2}).largest()
    teachers = []
    for epoch in range(6):
        engine.begin_epoch(epoch)
        teachers.append(engine.teacher)
    assert teachers == [None, smallest, wide, wide, wide, None]


def test_each_frozen_teacher_is_calibrated_once_as_its_stage_opens() -> None:
    given: list[tuple[Subnet, Tensor]] = []

    def calibrate(network: nn.Module, subnet: Subnet) -> None:
        given.append((subnet, next(network.parameters()).clone()))
        next(network.parameters()).detach().zero_()  # what it writes stays in the teacher and reaches no supernet

    stages = tuple(
        Stage(name=teacher, open={"width": index + 1}, teacher=teacher, train=("largest",))
        for index, teacher in enumerate(("largest", "previous", "none"))
    )
    engine = engine_of(stages, 6, calibrate=calibrate)
    smallest = engine.supernet.family.space.smallest()
    first = next(engine.supernet.extract(smallest).parameters()).clone()
    for epoch in range(6):
        engine.begin_epoch(epoch)
        if epoch == 2:
            assert not next(iter(engine.state_dict()["teacher"]["weights"].values())).any()
    assert [subnet for subnet, _ in given] == [smallest] and torch.equal(given[0][1], first)
    assert torch.equal(next(engine.supernet.extract(smallest).parameters()), first)


@pytest.mark.parametrize("choices", [FLAT, LOW_RESOLUTION], ids=["flat", "levels and resolution"])
def test_in_shrinking_the_first_largest_teaches_everyone_as_it_was_when_its_stage_ended(choices: UNetChoices) -> None:
    engine = engine_of(progressive_shrinking, choices=choices, kernel_transforms=True)
    optimizer = sgd(engine)
    engine.guard(optimizer)
    train(engine, optimizer, range(1))
    largest = engine.supernet.family.space.largest()
    assert engine.teacher is None and engine.space.largest() == largest
    x, _ = batch(0)
    graduate = engine.supernet.extract(largest)
    where: set[tuple[int, ...]] = set()
    assert len(engine.schedule.stages) == (4 if choices is FLAT else 5)
    for epoch in range(1, len(engine.schedule.stages)):
        train(engine, optimizer, range(epoch, epoch + 1))
        teacher = engine.state_dict()["teacher"]
        assert engine.teacher == largest == Subnet.from_json(teacher["subnet"])
        assert list(teacher["weights"]) == list(graduate.state_dict())
        assert all(torch.equal(graduate.state_dict()[name], weight) for name, weight in teacher["weights"].items()), epoch
        where.add(tuple(weight.data_ptr() for weight in teacher["weights"].values()))
        with torch.no_grad():
            assert not torch.equal(finest(engine.supernet(x, largest)), finest(graduate(x)))
    assert len(where) == 1, "it is made once"
    again = engine_of(progressive_shrinking, choices=choices, kernel_transforms=True, weights=1)
    again.load_state_dict(engine.state_dict())
    restored = again.state_dict()["teacher"]
    assert again.teacher == largest and restored["subnet"] == teacher["subnet"]
    assert all(torch.equal(restored["weights"][name], weight) for name, weight in teacher["weights"].items())


def test_the_first_teacher_is_what_shrinking_members_learn_from() -> None:
    """Half task and half divergence from its logits, for every member of a step."""
    engine = engine_of(progressive_shrinking)
    optimizer = sgd(engine)
    train(engine, optimizer, range(1))
    graduate = engine.supernet.extract(engine.space.largest()).eval()
    train(engine, optimizer, range(1, 3))
    engine.begin_epoch(3)
    x, target = batch(5)
    with torch.no_grad():
        logits = finest(graduate(x))
    step = next(step for step in range(100) if len(engine.members(3, step)) == 4)
    members = engine.members(3, step)

    def taught(outputs: Any) -> Tensor:
        return (segmentation_loss(outputs, target) + distill.kl(finest(outputs), logits)) / 2

    expected = accumulated(engine, dict.fromkeys(members, taught), x)
    engine.supernet.zero_grad()
    engine.step(x, target, epoch=3, step=step)
    assert_equal_gradients(gradients(engine), expected)


# ---------------------------------------------------------------------- sorted channels
def shrunk(choices: UNetChoices, optimizer_of: Callable[[Engine], Optimizer]) -> tuple[Engine, Optimizer, int]:
    """Trained until channels are to be sorted, and the epoch in which they are."""
    engine = engine_of(progressive_shrinking, choices=choices, kernel_transforms=True)
    optimizer = optimizer_of(engine)
    engine.guard(optimizer)
    sorts = [stage.reorder is not None for stage in engine.schedule.stages].index(True)
    train(engine, optimizer, range(sorts))
    return engine, optimizer, sorts


@pytest.mark.parametrize("choices", [FLAT, LOW_RESOLUTION], ids=["flat", "levels and resolution"])
def test_sorted_channels_leave_the_function_of_all_members_of_full_width(choices: UNetChoices) -> None:
    engine, _, epoch = shrunk(choices, sgd)
    space, generator = engine.supernet.family.space, random.Random(0)
    full_width = engine.space
    assert full_width.dimensions["width"] == space.restrict({}, start="largest").dimensions["width"]
    members = [full_width.largest(), full_width.smallest(), *(full_width.sample(generator) for _ in range(8))]
    narrow = space.restrict({d: 9 for d in space.dimensions if d != "width"}).largest()
    assert {m["depth"] for m in members} > {full_width.largest()["depth"]}
    x, _ = batch(0)

    def computed(member: Subnet) -> Tensor:
        with torch.no_grad():
            return torch.cat([output.flatten() for output in engine.supernet(x, member)])

    before, narrows, weights = {member: computed(member) for member in members}, computed(narrow), weights_of(engine)
    engine.begin_epoch(epoch)
    assert engine.stage.reorder
    assert any(not torch.equal(weight, weights[name]) for name, weight in weights_of(engine).items())
    for member, outputs in before.items():
        torch.testing.assert_close(computed(member), outputs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(computed(narrow), narrows, atol=1e-2), "narrower members are other networks now"
    for matrix in engine.supernet.kernel_transforms.matrices:
        name = f"kernel_transforms.matrices.{matrix}"
        assert torch.equal(weights_of(engine)[name], weights[name])


def test_channels_sorted_anew_leave_the_function_of_the_members_that_are_open() -> None:
    choices = replace(FLAT, width=(0.25, 0.5, 1.0))
    engine = engine_of(progressive_shrinking, choices=choices, kernel_transforms=True)
    train(engine, sgd(engine), range(len(engine.schedule.stages) - 1))
    opened, x = engine.space, batch(0)[0]
    members = [opened.smallest(), *(opened.sample(random.Random(seed)) for seed in range(8))]
    narrower = engine.supernet.family.space.smallest()

    def computed(member: Subnet) -> Tensor:
        with torch.no_grad():
            return finest(engine.supernet(x, member))

    disturb(engine, 0)
    before, weights = [computed(member) for member in [*members, narrower]], weights_of(engine)
    engine.begin_epoch(len(engine.schedule.stages) - 1)
    assert engine.stage.reorder and engine.space != opened and narrower not in opened
    assert any(not torch.equal(weight, weights[name]) for name, weight in weights_of(engine).items())
    for member, outputs in zip(members, before, strict=False):
        torch.testing.assert_close(computed(member), outputs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(computed(narrower), before[-1], atol=1e-3)


@pytest.mark.parametrize("optimizer_of", [sgd, adamw])
def test_an_optimizers_state_follows_the_weights_that_are_sorted(optimizer_of: Callable[[Engine], Optimizer]) -> None:
    """Each weight keeps what belongs to it; which one goes where is another test's."""
    engine, optimizer, epoch = shrunk(LOW_RESOLUTION, optimizer_of)

    def belongings() -> dict[str, Tensor]:
        """(numbers per weight, weights), by parameter."""
        together = {}
        for name, parameter in engine.supernet.named_parameters():
            numbers = [v for v in optimizer.state.get(parameter, {}).values() if v.shape == parameter.shape]
            together[name] = torch.stack([parameter.detach(), *numbers]).flatten(1)
        return together

    before, steps = belongings(), [state.get("step") for state in optimizer.state.values()]
    engine.begin_epoch(epoch)
    moved = 0
    for name, after in belongings().items():
        old = before[name]
        assert len(after) == len(old) > 1
        assert sorted(after.T.tolist()) == sorted(old.T.tolist()), name
        if not torch.equal(after, old):
            assert not torch.equal(after[0], old[0]) and not torch.equal(after[1], old[1]), name
            moved += 1
    assert moved > 10
    assert [state.get("step") for state in optimizer.state.values()] == steps


def test_channels_are_sorted_once_for_each_width() -> None:
    """Not again in a later epoch or a run that continues."""
    choices = UNetChoices(depth="all", width=(0.5, 0.75, 1.0), kernel=(3, 5), levels=0, resolution=(1.0,))
    engine = engine_of(progressive_shrinking, 10, choices=choices)
    sorts = []
    for epoch in range(10):
        before = weights_of(engine)
        engine.begin_epoch(epoch)
        if not all(torch.equal(weight, before[name]) for name, weight in weights_of(engine).items()):
            sorts.append(epoch)
        disturb(engine, epoch)
    assert [stage.name for stage in engine.schedule.stages[-2:]] == ["width", "width 3"]
    assert sorts == list(engine.schedule.starts[-2:])

    again = engine_of(progressive_shrinking, 10, choices=choices)
    again.load_state_dict(engine.state_dict())
    disturb(again, 0)
    before = weights_of(again)
    again.begin_epoch(9)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(again).items())


@torch.no_grad()
def disturb(engine: Engine, seed: int) -> None:
    """Gives all weights other values, and their channels another order of importance."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in engine.supernet.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))


# ---------------------------------------------------------------------- closed choices
MANY = UNetChoices(depth="all", width=(0.5, 0.75, 1.0), kernel=(3, 5), levels=1, resolution=(0.75, 1.0))
MONITORED = Stage(
    name="open", open=ALL, train=("largest", "smallest", "random"), teacher="largest", distance="kl", monitored=True
)
DIMENSIONS = ("levels", "resolution", "depth", "decoder_depth", "width", "kernel")
every_dimension = pytest.mark.parametrize("dimension", DIMENSIONS)


def closing(
    dimension: str, optimizer_of: Callable[[Engine], Optimizer] = sgd, *, set_to_none: bool = True
) -> tuple[Engine, Optimizer]:
    """Trained with everything open, and then without the last choice of ``dimension``; two stages, six epochs."""
    stages = (MONITORED, Stage(name="later", open=ALL, train=("random", "random")))
    engine = engine_of(stages, 6, choices=MANY)
    optimizer = optimizer_of(engine)
    engine.guard(optimizer)
    train(engine, optimizer, range(1), set_to_none=set_to_none)
    engine.close(dimension)
    return engine, optimizer


@every_dimension
def test_a_closed_choice_is_open_no_more(dimension: str) -> None:
    """Neither now nor later; the other dimensions stay as they are."""
    engine, _ = closing(dimension)
    whole = engine.supernet.family.space
    expected = {name: whole.choice_count(name) - (name == dimension) for name in whole.dimensions}
    assert engine.closed == {dimension: expected[dimension]}
    drawn = set()
    for epoch in range(6):
        engine.begin_epoch(epoch)
        assert engine.space == engine.final_space == whole.restrict(expected)
        assert whole.largest() not in engine.space and whole.smallest() in engine.space
        drawn |= {member for step in range(20) for member in engine.members(epoch, step)}
    assert all(member in engine.space for member in drawn)
    assert len(drawn) > 20


@pytest.mark.parametrize(
    ("dimension", "set_to_none"),
    [
        *((name, True) for name in DIMENSIONS),
        # By which parts of tensors are closed, and whole ones
        *(pytest.param(name, False, marks=[] if name in ("width", "depth") else pytest.mark.slow) for name in DIMENSIONS),
    ],
)
@every_optimizer
def test_what_is_closed_stays_as_it_is_bit_for_bit(
    dimension: str, optimizer_of: Callable[[Engine], Optimizer], set_to_none: bool
) -> None:
    """Whatever momentum and weight decay its weights have gathered; what remains open trains on."""
    engine, optimizer = closing(dimension, optimizer_of, set_to_none=set_to_none)
    before, remaining = weights_of(engine), inside(engine, engine.space.largest())
    train(engine, optimizer, range(1, 5), set_to_none=set_to_none)
    assert engine.stage.name == "later"
    frozen = 0
    for name, parameter in engine.supernet.network.named_parameters():
        changed, open_ = parameter.detach() != before[f"network.{name}"], remaining[name]
        assert not changed[~open_].any(), name
        assert not open_.any() or parameter.ndim == 1 or changed[open_].float().mean() > 0.9, name
        frozen += int((~open_).sum())
    assert (frozen > 0) == (dimension != "resolution")


@every_optimizer
def test_what_a_closing_thaws_or_freezes_has_no_old_optimizer_state(optimizer_of: Callable[[Engine], Optimizer]) -> None:
    """Where nothing is deeper any more, the blocks that had to stay as they were train again."""
    engine = engine_of((Stage(name="a"), Stage(name="b", open={"depth": 9}, freeze="grown", monitored=True)))
    optimizer = optimizer_of(engine)
    engine.guard(optimizer)
    train(engine, optimizer, range(2))
    parameters = list(engine.supernet.network.parameters())
    trained = {p for p in parameters if p.requires_grad}
    engine.close("depth")
    trains = {p for p in parameters if p.requires_grad}
    assert trains - trained and trained - trains
    assert not any(p in optimizer.state for p in (trains - trained) | (trained - trains))


def test_choices_close_one_by_one() -> None:
    engine, _ = closing("width")
    widths = [slot.choices for slot in engine.supernet.family.space.dimensions["width"]]
    assert [slot.choices for slot in engine.space.dimensions["width"]] == [choices[:2] for choices in widths]
    engine.close("width")
    engine.close("depth")
    assert [slot.choices for slot in engine.space.dimensions["width"]] == [choices[:1] for choices in widths]
    assert engine.closed == {"width": 1, "depth": 1}
    assert engine.space.largest()["depth"] == (1, 1, 1)


def test_what_is_closed_early_does_not_open_later() -> None:
    """Choices that would have opened after the closed one need it."""
    stages = tuple(Stage(name=str(count), open={"width": count, "depth": count}) for count in (2, 3))
    engine = engine_of(stages, choices=MANY)
    engine.begin_epoch(0)
    engine.close("width")
    assert engine.final_space == engine.supernet.family.space.restrict({"width": 1, "depth": 3})
    engine.begin_epoch(1)
    assert engine.space == engine.final_space


@every_optimizer
@pytest.mark.parametrize("dimension", ["levels", "width"])
def test_a_run_with_closed_choices_continues_bit_for_bit(dimension: str, optimizer_of: Callable[[Engine], Optimizer]) -> None:
    engine, optimizer = closing(dimension, optimizer_of)
    train(engine, optimizer, range(1, 2))
    file = saved(engine, optimizer)
    losses = train(engine, optimizer, range(2, 5))
    again = engine_of(engine.schedule.stages, 6, choices=MANY, weights=1)
    updates = continued(again, optimizer_of, file)
    assert again.closed == engine.closed
    assert again.final_space == engine.final_space
    assert train(again, updates, range(2, 5)) == losses
    assert_equal_weights(again, engine)


# ---------------------------------------------------------------------- resume
def saved(engine: Engine, optimizer: Optimizer) -> io.BytesIO:
    file = io.BytesIO()
    state = {
        "network": engine.supernet.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "engine": engine.state_dict(),
    }
    torch.save(state, file)
    file.seek(0)
    return file


def continued(engine: Engine, optimizer_of: Callable[[Engine], Optimizer], file: io.BytesIO) -> Optimizer:
    """Brings an engine that began elsewhere to where the saved one was."""
    optimizer = optimizer_of(engine)
    engine.guard(optimizer)
    state = torch.load(file, weights_only=True)
    engine.supernet.network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    engine.load_state_dict(state["engine"])
    return optimizer


def assert_equal_weights(one: Engine, other: Engine) -> None:
    expected = other.supernet.state_dict()
    for key, tensor in one.supernet.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize(
    ("recipe", "choices", "optimizer_of"),
    [
        pytest.param(prox, FLAT, sgd, id="prox, sgd"),
        pytest.param(prox_paper, LOW_RESOLUTION, sgd, id="prox_paper, levels and resolution"),
        pytest.param(progressive_shrinking, FLAT, adamw, id="progressive_shrinking, adamw"),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in (
                (prox, FLAT, adamw),
                (prox, LOW_RESOLUTION, sgd),
                (prox_paper, FLAT, sgd),
                (prox_paper, FLAT, adamw),
                (progressive_shrinking, FLAT, sgd),
                (progressive_shrinking, LOW_RESOLUTION, sgd),
            )
        ),
    ],
)
def test_an_interrupted_run_continues_bit_for_bit(
    recipe: Recipe, choices: UNetChoices, optimizer_of: Callable[[Engine], Optimizer]
) -> None:
    """Whether it is interrupted within a stage or between two; loaded into an engine that began elsewhere.

    Shrinking comes with kernel transforms, and its channels are sorted in the sixth or the seventh epoch.
    """
    epochs = 7
    settings: dict[str, Any] = {"choices": choices, "kernel_transforms": recipe is progressive_shrinking}
    engine = engine_of(recipe, epochs, **settings)
    optimizer = optimizer_of(engine)
    engine.guard(optimizer)
    checkpoints, losses = {}, {}
    for epoch in range(epochs):
        checkpoints[epoch] = saved(engine, optimizer)
        losses[epoch] = train(engine, optimizer, range(epoch, epoch + 1))
    stages = [engine.schedule.index(epoch) for epoch in range(epochs)]
    starts = (1, 5)
    assert len(set(stages)) == len(engine.schedule.stages) < epochs
    assert {stages[start] == stages[start - 1] for start in starts} == {True, False}

    for start in starts:
        again = engine_of(recipe, epochs, weights=start + 1, **settings)
        updates = continued(again, optimizer_of, checkpoints[start])
        rest = train(again, updates, range(start, epochs))
        assert rest == [loss for epoch in range(start, epochs) for loss in losses[epoch]], start
        assert_equal_weights(again, engine)
    if recipe is progressive_shrinking:
        sorts = [stages.index(index) for index, stage in enumerate(engine.schedule.stages) if stage.reorder]
        assert sorts == ([5] if choices is FLAT else [6])
        for matrix in engine.supernet.kernel_transforms.parameters():
            assert not torch.equal(matrix, torch.eye(len(matrix)))


def test_a_warm_up_goes_on_where_it_was() -> None:
    """It counts the updates since its stage has opened, so both numbers have to come back."""
    engine, again = engine_of(WARM, 6), engine_of(WARM, 6)
    updates, more = sgd(engine), sgd(again)
    engine.guard(updates)
    again.guard(more)
    engine.begin_epoch(0)
    for _ in range(16):
        updates.step()
    engine.begin_epoch(2)
    for number in range(1, 4):
        updates.step()
        assert engine.warmup_factor == number / 4
        again.load_state_dict(engine.state_dict())
        assert again.warmup_factor == number / 4
    more.step()
    assert again.warmup_factor == 1


def test_the_origin_is_the_search_space_and_the_stages() -> None:
    engine = engine_of(prox)
    origin, stages = engine.origin, make_schedule("prox", engine.supernet.family.space, 9).stages
    assert SearchSpace.from_json(origin["space"]) == engine.supernet.family.space
    assert [stage["name"] for stage in origin["stages"]] == [stage.name for stage in stages]
    train(engine, sgd(engine), range(len(engine.schedule.stages)))
    engine.close("width")
    assert engine.origin == origin, "whatever was trained and closed since"


def test_keeping_weights_is_resumed() -> None:
    engine, again = engine_of(prox), engine_of(prox)
    engine.supernet.network.load_state_dict(engine.supernet.network.state_dict())
    again.load_state_dict(engine.state_dict())
    assert engine.state_dict()["pretrained"] and again.state_dict()["pretrained"]
    engine.begin_epoch(0)
    again = engine_of(prox)
    again.load_state_dict(engine.state_dict() | {"pretrained": False})
    again.supernet.network.load_state_dict(engine.supernet.network.state_dict())
    assert not again.state_dict()["pretrained"], "these weights are the training's own"


def test_copies_and_pickles_of_a_network_leave_its_engine_alone() -> None:
    engine, buffer = engine_of(prox), io.BytesIO()
    network = engine.supernet.network
    torch.save(network, buffer)
    buffer.seek(0)
    for copy in (deepcopy(network), torch.load(buffer, weights_only=False)):
        copy.load_state_dict(network.state_dict())
        assert not engine.state_dict()["pretrained"]
    network.load_state_dict(copy.state_dict())
    assert engine.state_dict()["pretrained"]


def test_a_loop_observes_whatever_is_compared() -> None:
    engine = engine_of(prox, 20, monitor={"patience": 1})
    for epoch in range(20):
        engine.begin_epoch(epoch)
        scores = {member: {str(case): 0.5 for case in range(9)} for member in engine.compared(epoch, 9)}
        engine.observe(epoch, scores)
    assert engine.comparisons, "in some epochs members were compared, in others none"


@pytest.mark.parametrize("wrong", [{"format": 99}, {"format": None}, {"stage": 5}, {"stage": -2}])
def test_a_state_of_another_format_or_schedule_is_refused(wrong: dict[str, Any]) -> None:
    engine = engine_of(prox)
    engine.begin_epoch(0)
    state = engine.state_dict()
    engine.load_state_dict(state)
    with pytest.raises(ProXError, match=r"cannot continue: the checkpoint is of (format|stage) (99|None|5|-2)"):
        engine.load_state_dict(state | wrong)
    with pytest.raises(ProXError, match="cannot continue"):
        engine.load_state_dict({})


def test_a_stage_that_opens_no_member_is_refused() -> None:
    """Half of 4 and of 5 channels is 2: these residual stages would need no projection, and then are no member."""
    choices = UNetChoices(depth="all", width=(0.5, 1.0), levels=0, resolution=(1.0,))
    supernet = SuperNet(unet_family("ResidualEncoderUNet", choices=choices, features=(4, 5)))
    with pytest.raises(ProXError, match="the stage 'smallest' opens no member"):
        Engine(supernet, make_schedule("prox", supernet.family.space, 10), segmentation_loss, seed=0)
    Engine(supernet, make_schedule("sandwich", supernet.family.space, 10), segmentation_loss, seed=0)


# ---------------------------------------------------------------------- several ranks
def test_parts_of_a_batch_in_several_ranks_have_the_gradients_of_the_whole() -> None:
    """All of them, in every rank, and no rank is left with those of its own part."""
    engines = [engine_of((SANDWICH,)) for _ in range(3)]
    *ranks, alone = engines
    for engine in engines:
        engine.supernet.double()
        begin(engine)
    x, target = batch(0, size=4)

    def step(engine: Engine, part: slice) -> Tensor:
        return engine.step(x[part].double(), target[part], epoch=0, step=3).loss

    losses = in_threads(2, lambda rank: step(ranks[rank], slice(2 * rank, 2 * rank + 2)))
    whole = step(alone, slice(4))
    torch.testing.assert_close(sum(losses) / 2, whole)
    for name, gradient in gradients(ranks[0]).items():
        assert torch.equal(gradient, gradients(ranks[1])[name]), name
    assert_equal_gradients(gradients(ranks[0]), gradients(alone))


def test_all_ranks_begin_with_the_first_ones_weights() -> None:
    engines = [engine_of((SANDWICH,), weights=weights) for weights in (0, 1, 0)]
    *ranks, first = engines
    in_threads(2, lambda rank: broadcast(ranks[rank].supernet))
    for engine in ranks:
        assert_equal_weights(engine, first)


def _rank(rank: int) -> dict[str, Tensor]:
    engine = engine_of((SANDWICH,))
    begin(engine)
    engine.step(*batch(rank), epoch=0, step=3)
    return gradients(engine)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks_train_the_same_members_and_average_their_gradients() -> None:
    ranks = together(2, _rank)
    alone = []
    for seed in (0, 1):
        engine = engine_of((SANDWICH,))
        begin(engine)
        engine.step(*batch(seed), epoch=0, step=3)
        alone.append(gradients(engine))
    for name, gradient in ranks[0].items():
        assert torch.equal(gradient, ranks[1][name]), name
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2)


# ---------------------------------------------------------------------- what would train something else without a word
def test_a_step_without_a_guarded_optimizer_is_refused() -> None:
    """It would train weights that should stay."""
    engine = engine_of(prox)
    engine.begin_epoch(0)
    refused("guards no optimizer: call guard(optimizer)", engine.step, *batch(0), epoch=0, step=0)
    assert all(parameter.grad is None for parameter in engine.supernet.parameters())
    engine.guard(sgd(engine))
    engine.step(*batch(0), epoch=0, step=0)


def test_a_step_of_a_stage_that_has_not_begun_is_refused() -> None:
    """It would train the smallest member for ever."""
    engine = engine_of(prox)
    engine.guard(sgd(engine))
    refused("a step of epoch 0 needs begin_epoch(0) first", engine.step, *batch(0), epoch=0, step=0)
    engine.begin_epoch(0)
    engine.step(*batch(0), epoch=0, step=0)
    refused("a step of epoch 1 needs begin_epoch(1) first", engine.step, *batch(0), epoch=1, step=0)
    engine.begin_epoch(1)
    again = engine_of(prox)
    again.guard(sgd(again))
    again.load_state_dict(engine.state_dict())
    again.step(*batch(0), epoch=1, step=0)
    last = len(again.schedule.stages) - 1
    refused(f"a step of epoch {last} needs begin_epoch({last}) first", again.step, *batch(0), epoch=last, step=0)


def test_what_is_not_open_cannot_be_closed() -> None:
    engine = engine_of((Stage(name="a"), Stage(name="b", open=ALL)))
    refused("no stage is open yet: call begin_epoch", engine.close, "width")
    engine.begin_epoch(0)
    refused("of width, 1 to 1 choices can remain open, got 0", engine.close, "width")
    engine.begin_epoch(1)
    assert engine.closed == {} and engine.space == engine.final_space
    engine.close("width")
    assert engine.closed == {"width": 1}


def test_a_monitor_that_is_none_is_named() -> None:
    supernet, schedule = engine_of(prox).supernet, engine_of(prox).schedule
    for monitor in (True, {"threshold": 0.1}, 0.1):
        with pytest.raises(ProXError, match=r"monitor is .*; it is a Monitor, with threshold and patience, or false for none"):
            Engine(supernet, schedule, segmentation_loss, seed=0, monitor=monitor)  # type: ignore[arg-type]
    assert Engine(supernet, schedule, segmentation_loss, seed=0, monitor=False).monitor is None


def test_an_optimizer_that_outlives_its_engine_is_free() -> None:
    """It takes the rate and the frozen weights of the engine that guards it now, and of none once all are gone."""
    engine = engine_of((Stage(name="a", warmup=4), Stage(name="b", open=ALL)))
    optimizer, supernet = sgd(engine), engine.supernet
    engine.guard(optimizer)
    engine.begin_epoch(0)
    engine = Engine(supernet, engine.schedule, segmentation_loss, seed=0)
    gc.collect()
    engine.guard(optimizer)
    assert engine.warmup_factor == 1, "no stage is open yet"
    engine.begin_epoch(0)
    engine.step(*batch(0), epoch=0, step=0)
    optimizer.step()
    assert engine.warmup_factor == 1 / 4
    del engine
    gc.collect()
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    for parameter in supernet.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not any(torch.equal(before[name], p) for name, p in supernet.named_parameters() if p.requires_grad)


def test_engines_are_not_copied_and_count_epochs_in_whole_numbers() -> None:
    engine = engine_of(prox)
    refused("an engine is not copied, for it guards optimizers", deepcopy, engine)
    for epoch in (0.5, "1", True, None):
        refused(f"there is no epoch {epoch}", engine.begin_epoch, epoch)


def test_optimizers_that_do_not_hold_the_weights_are_refused() -> None:
    engine = engine_of(sandwich)
    refused("the optimizer holds none of the supernet's weights", engine.guard, SGD(nn.Linear(2, 2).parameters(), 0.1))
    engine.begin_epoch(0)
    encoder, decoder = engine.supernet.network.encoder, engine.supernet.network.decoder
    engine.guard(SGD(encoder.parameters(), 0.1))
    own = set(map(id, encoder.parameters()))  # the decoder has the encoder's, too
    rest = [parameter for parameter in decoder.parameters() if id(parameter) not in own]
    words = refused("no guarded optimizer holds", engine.step, *batch(0), epoch=0, step=0)
    assert f"{len(rest)} of the supernet's weights, the first is network.decoder." in words
    for parameter in rest:
        parameter.requires_grad_(False)
    engine.step(*batch(0), epoch=0, step=0)


def test_an_optimizer_that_is_not_guarded_may_not_take_a_step_s_gradients() -> None:
    """Such as one that replaced the one that is; not so if nothing is of the engine, or a guarded one has taken them."""
    engine = engine_of(sandwich)
    guarded, other = sgd(engine), sgd(engine)
    begin(engine)
    other.step()
    engine.guard(guarded)
    engine.step(*batch(0), epoch=0, step=0)
    with pytest.raises(ProXError, match="an optimizer that the engine does not guard has changed"):
        other.step()
    SGD(nn.Linear(2, 2).parameters(), 0.1).step()
    guarded.step()
    other.step()
    engine.step(*batch(0), epoch=0, step=0)
    del engine
    gc.collect()
    guarded.step()


def test_epochs_are_those_of_the_schedule_one_after_another() -> None:
    engine = engine_of((Stage(name="a"), Stage(name="b", open=ALL)), 8)
    for epoch in (-1, 8):
        refused(f"there is no epoch {epoch}: the schedule has the epochs 0 to 7", engine.begin_epoch, epoch)
    begin(engine, 7)
    for epoch in (-1, 0, 6, 8):
        refused(f"a step of epoch {epoch} needs begin_epoch({epoch}) first", engine.step, *batch(0), epoch=epoch, step=0)
    refused("epoch 0 is of the stage 'a', which is over: 'b' has begun", engine.begin_epoch, 0)
    engine.step(*batch(0), epoch=7, step=0)
