"""From batches to gradients and from epochs to stages: what is trained, who teaches it, and that it can be resumed."""

import io
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from architectures import FLAT, batch, randomise_norms, segmentation_loss, unet_family
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from monai_prox import distill
from monai_prox.engine import Engine
from monai_prox.errors import ProXError
from monai_prox.families.unet import UNetChoices
from monai_prox.schedule import Schedule, Stage, prox, prox_paper
from monai_prox.slicing import fill
from monai_prox.space import SearchSpace, Subnet
from monai_prox.supernet import SuperNet

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
Recipe = Callable[[SearchSpace], tuple[Stage, ...]]


def engine_of(
    recipe: Recipe | tuple[Stage, ...],
    epochs: int | None = None,
    *,
    seed: int = 0,
    weights: int = 0,
    choices: UNetChoices = FLAT,
    deep_supervision: bool = True,
    dropout: float = 0.0,
    **settings: Any,
) -> Engine:
    """An engine on a small U-Net whose initial weights are a function of ``weights``."""
    torch.manual_seed(weights)
    supernet = SuperNet(unet_family(choices=choices, features=(4, 8, 8), dropout=dropout))
    randomise_norms(supernet.network)
    supernet.network.decoder.deep_supervision = deep_supervision
    stages = recipe if isinstance(recipe, tuple) else recipe(supernet.family.space)
    schedule = Schedule(stages, epochs or len(stages))
    return Engine(supernet, schedule, segmentation_loss, seed=seed, **settings)


def sgd(engine: Engine) -> Optimizer:
    return SGD(engine.supernet.network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)


def adamw(engine: Engine) -> Optimizer:
    return AdamW(engine.supernet.network.parameters(), 0.003)


def train(engine: Engine, optimizer: Optimizer, epochs: range, *, steps: int = 2) -> list[float]:
    losses = []
    for epoch in epochs:
        engine.begin_epoch(epoch)
        for step in range(steps):
            optimizer.zero_grad()
            losses.append(engine.step(*batch(100 * epoch + step), epoch=epoch, step=step).loss.item())
            optimizer.step()
    return losses


def gradients(engine: Engine) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in engine.supernet.network.named_parameters()
    }


def finest(outputs: Tensor | list[Tensor]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


# ---------------------------------------------------------------------- members
def test_members_are_a_pure_function_of_seed_epoch_and_step() -> None:
    engine, again, other = (
        engine_of((SANDWICH,), 9),
        engine_of((SANDWICH,), 9, weights=1),
        engine_of((SANDWICH,), 9, seed=1),
    )
    times = [(epoch, step) for epoch in range(4) for step in range(5)]
    forwards = {time: engine.members(*time) for time in times}
    train(engine, sgd(engine), range(1))
    torch.manual_seed(99)
    assert {time: again.members(*time) for time in reversed(times)} == forwards
    assert {time: engine.members(*time) for time in times} == forwards
    assert {time: other.members(*time) for time in times} != forwards
    assert len({members[-1] for members in forwards.values()}) > 15


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


def test_a_member_drawn_twice_trains_once() -> None:
    """At the smallest stage everyone is the smallest: three roles make the same gradient as one."""
    roles = ("largest", "smallest", "random")
    three, one = (engine_of((Stage(name="smallest", train=r),)) for r in (roles, ("random",)))
    for engine in (three, one):
        engine.begin_epoch(0)
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


def test_only_a_preserving_birth_writes_weights_and_not_over_pretrained_ones() -> None:
    for birth, pretrained, kept in (
        ("random", False, True),
        ("preserving", True, True),
        ("preserving", False, False),
    ):
        stages = (Stage(name="a"), Stage(name="b", open=ALL, birth=birth))
        engine = engine_of(stages)
        engine.keep_weights = pretrained
        engine.begin_epoch(0)
        before = {name: p.detach().clone() for name, p in engine.supernet.network.named_parameters()}
        engine.begin_epoch(1)
        after = dict(engine.supernet.network.named_parameters())
        assert all(torch.equal(before[name], after[name]) for name in before) == kept


def test_preserving_birth_computes_what_the_stage_before_did() -> None:
    engine = engine_of((Stage(name="a"), Stage(name="b", open={"width": 2, "kernel": 2}, birth="preserving")))
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
                fill(here, region, parameter.grad)
                total[source] += here
    return total


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
    engine.begin_epoch(0)
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
        engine.begin_epoch(0)
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
        assert taught.supernet.training
        taught.supernet.eval()
        taught.step(*batch(0), epoch=1, step=0)
        assert not any((gradient != 0).any() for gradient in gradients(taught).values())


def test_a_stage_without_a_teacher_keeps_none() -> None:
    engine = engine_of((Stage(name="a"), Stage(name="b", open=ALL, teacher="previous"), SANDWICH))
    teachers = [engine.begin_epoch(epoch) and engine.state_dict()["teacher"] is not None for epoch in range(3)]
    assert teachers == [False, True, False]


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


@pytest.mark.parametrize(
    ("choices", "optimizer_of"),
    [(FLAT, sgd), (FLAT, adamw), (LOW_RESOLUTION, sgd)],
    ids=["sgd", "adamw", "levels and resolution"],
)
@pytest.mark.parametrize("recipe", [prox_paper, prox])
def test_an_interrupted_run_continues_bit_for_bit(
    recipe: Recipe, choices: UNetChoices, optimizer_of: Callable[[Engine], Optimizer]
) -> None:
    """Whether it is interrupted within a stage or between two; loaded into an engine that began elsewhere."""
    epochs = 7
    engine = engine_of(recipe, epochs, choices=choices)
    optimizer = optimizer_of(engine)
    engine.guard(optimizer)
    checkpoints, losses = {}, {}
    for epoch in range(epochs):
        checkpoints[epoch] = saved(engine, optimizer)
        losses[epoch] = train(engine, optimizer, range(epoch, epoch + 1))
    whole = engine.supernet.network.state_dict()
    stages = [engine.schedule.index(epoch) for epoch in range(epochs)]
    starts = (1, 3, 5)
    assert len(set(stages)) == len(engine.schedule.stages) < epochs
    assert {stages[start] == stages[start - 1] for start in starts} == {True, False}

    for start, file in ((start, checkpoints[start]) for start in starts):
        again = engine_of(recipe, epochs, choices=choices, weights=start + 1)
        updates = optimizer_of(again)
        again.guard(updates)
        state = torch.load(file, weights_only=True)
        again.supernet.network.load_state_dict(state["network"])
        updates.load_state_dict(state["optimizer"])
        again.load_state_dict(state["engine"])
        rest = train(again, updates, range(start, epochs))
        assert rest == [loss for epoch in range(start, epochs) for loss in losses[epoch]], start
        for key, tensor in again.supernet.network.state_dict().items():
            assert torch.equal(tensor, whole[key]), (start, key)


def test_keeping_weights_is_resumed() -> None:
    engine, again = engine_of(prox), engine_of(prox)
    engine.keep_weights = True
    again.load_state_dict(engine.state_dict())
    assert again.keep_weights


@pytest.mark.parametrize("wrong", [{"format": 99}, {"format": None}, {"stage": 5}, {"stage": -2}])
def test_a_state_of_another_format_or_schedule_is_refused(wrong: dict[str, Any]) -> None:
    engine = engine_of(prox)
    engine.begin_epoch(0)
    state = engine.state_dict()
    engine.load_state_dict(state)
    with pytest.raises(ProXError, match=r"cannot continue: format .*, stage "):
        engine.load_state_dict(state | wrong)
    with pytest.raises(ProXError, match="cannot continue"):
        engine.load_state_dict({})


# ---------------------------------------------------------------------- several ranks
def _rank(rank: int, file: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    engine = engine_of((SANDWICH,))
    engine.begin_epoch(0)
    engine.step(*batch(rank), epoch=0, step=3)
    torch.save(gradients(engine), f"{out}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks_train_the_same_members_and_average_their_gradients(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path / "rendezvous"), str(tmp_path / "out")), nprocs=2)
    ranks = [torch.load(tmp_path / f"out.{rank}") for rank in (0, 1)]
    alone = []
    for seed in (0, 1):
        engine = engine_of((SANDWICH,))
        engine.begin_epoch(0)
        engine.step(*batch(seed), epoch=0, step=3)
        alone.append(gradients(engine))
    for name, gradient in ranks[0].items():
        assert torch.equal(gradient, ranks[1][name]), name
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2)
