"""The training of a supernet by a schedule: from a batch to gradients, and from an epoch to a stage.

Loaders, optimizers and loops are those of nnU-Net or MONAI.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from monai_prox.core.distributed import average, world_size
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet, finest
from monai_prox.errors import ProXError
from monai_prox.training import distill
from monai_prox.training.calibrate import keeps_statistics
from monai_prox.training.growth import Freezer, frozen_parts, give_birth
from monai_prox.training.importance import narrower_members, permute, shallower_members, sort_channels
from monai_prox.training.schedule import Role, Schedule, Stage

FORMAT = 4  # of state_dict
FROZEN = ("previous", "first")  # teachers
POOL = 32  # random members of an epoch and space: each needs a skeleton built once, and so does each shape in cuDNN and oneDNN


class Step(NamedTuple):
    """What a step reports, detached: its members' losses, of the first the task loss and the output at full resolution."""

    loss: Tensor
    output: Tensor
    losses: tuple[Tensor, ...]


def check_format(state: Mapping[str, Any]) -> None:
    """Raises ProXError where another version of this package made an engine's ``state``."""
    if state.get("format") != FORMAT:
        raise ProXError(f"cannot continue: the checkpoint is of format {state.get('format')}, and this version reads {FORMAT}")


class Engine:
    """Trains a supernet by a schedule.

    The members of a step depend on (seed, epoch, step), on what is open and on what is on trial only. So a resumed training
    draws the same members, and all ranks of a distributed training train the same member.

    Args:
        supernet: the supernet. Its weights are in the optimizer.
        schedule: stages with their epochs.
        task_loss: (outputs, target) -> scalar. ``outputs`` are a member's, a list under deep supervision.
        seed: seed of the members that are drawn.
        exclusive: whether a voxel has one class (softmax). False for regions that overlap.
        calibrate: gives a teacher's norms their own statistics, see ``monai_prox.training.calibrate``. It is needed if norms
            keep statistics and the schedule has frozen teachers.

    Raises:
        ProXError: a stage has no member, ``calibrate`` is needed, or channels of the network cannot be sorted.

    >>> from monai_prox import MobileNetChoices, MobileNetFamily, make_schedule
    >>> choices = MobileNetChoices(depth=(1,), expansion=(2,), kernel=(3,), width=(0.5, 1.0), resolution=(32,))
    >>> family = MobileNetFamily(input_channels=1, num_classes=2, choices=choices)
    >>> supernet = SuperNet(family)
    >>> engine = Engine(supernet, make_schedule("prox", family.space, epochs=3), nn.CrossEntropyLoss(), seed=0)
    >>> optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
    >>> engine.guard(optimizer)
    >>> for epoch in range(3):
    ...     opened = engine.begin_epoch(epoch)
    ...     optimizer.zero_grad()
    ...     result = engine.step(torch.zeros(2, 1, 32, 32), torch.tensor([0, 1]), epoch=epoch, step=0)
    ...     optimizer.step()
    >>> engine.stage.name, result.output.shape
    ('everyone', torch.Size([2, 2]))
    """

    def __init__(
        self,
        supernet: SuperNet,
        schedule: Schedule,
        task_loss: Callable[[Any, Any], Tensor],
        *,
        seed: int,
        exclusive: bool = True,
        calibrate: Callable[[nn.Module, Subnet], Any] | None = None,
    ) -> None:
        self.calibrate = calibrate
        self.supernet, self.schedule, self.task_loss = supernet, schedule, task_loss
        self.seed, self.exclusive = seed, exclusive
        self.trial: SearchSpace | None = None  # what is open but for what a monitor has on trial; state_dict leaves it to that
        self.keep_weights = False  # pretrained weights are there already; growing only opens them
        self.closed: dict[str, int] = {}  # choices that remain in a dimension whose last ones were closed
        self._spaces = self._open_spaces()
        for stage, space in zip(schedule.stages, self._spaces, strict=True):
            if space.size() == 0:
                raise ProXError(f"the stage {stage.name!r} opens no member, for of its choices some must differ: {space}")
        self._stage = -1
        self._epoch: int | None = None  # that has begun in this process
        self._pending = False  # gradients of steps that no guarded optimizer has taken yet
        self._updates = self._opened = 0  # updates by the first optimizer, in all and before the stage opened
        self._freezer = Freezer({})
        self._optimizers: list[Optimizer] = []
        self._teacher: tuple[Subnet, nn.Module] | None = None
        frozen_teachers = any(stage.teacher in FROZEN for stage in schedule.stages)
        if frozen_teachers and calibrate is None and keeps_statistics(supernet.network):
            raise ProXError("the network's norms keep statistics, of which every teacher needs its own: give calibrate")
        if any(stage.sort_channels for stage in schedule.stages):
            sort_channels(deepcopy(supernet.network))  # refuses now what it would refuse after days of training
        _refuse_unguarded(self)

    # ------------------------------------------------------------------ stages
    @property
    def stage(self) -> Stage:
        """The current stage. Before the first epoch it is the first stage."""
        return self.schedule.stages[max(self._stage, 0)]

    @property
    def space(self) -> SearchSpace:
        """The part of the search space that is open now."""
        return self._spaces[max(self._stage, 0)]

    @property
    def final_space(self) -> SearchSpace:
        """The part of the search space that will be open at the end, unless more choices are closed."""
        return self._spaces[-1]

    def _open_spaces(self) -> list[SearchSpace]:
        """The part of the search space that is open, for each stage."""
        spaces = [stage.space(self.supernet.family.space) for stage in self.schedule.stages]
        if not self.closed:
            return spaces
        counts = [{dimension: space.choice_count(dimension) for dimension in space.dimensions} for space in spaces]
        return [
            space.restrict({d: min(count, self.closed.get(d, count)) for d, count in of.items()})
            for space, of in zip(spaces, counts, strict=True)
        ]

    def close(self, dimension: str) -> None:
        """Closes the last open choice of a dimension for the rest of the training. Its weights are not trained any more.

        Args:
            dimension: the dimension.

        Raises:
            ProXError: ``begin_epoch`` was not called, or only one choice is open.
        """
        if self._stage < 0:
            raise ProXError("close was called before begin_epoch, which opens the choices")
        self.space.without_last(dimension)  # raises
        self.closed[dimension] = self.space.choice_count(dimension) - 1
        self._spaces = self._open_spaces()
        self._move(self._stage)

    @property
    def teacher(self) -> Subnet | None:
        """The frozen member that teaches now, or None."""
        return None if self._teacher is None else self._teacher[0]

    def guard(self, optimizer: Optimizer) -> None:
        """Lets every step of an optimizer respect the current stage.

        Steps then do not change weights that are frozen or not yet open, and use the learning rate of the stage's warm-up. The
        updates of the first guarded optimizer are counted.

        Args:
            optimizer: the optimizer.

        Raises:
            ProXError: the optimizer has none of the supernet's weights.
        """
        if self.guards(optimizer):
            return
        if not self.holds_any(optimizer):
            raise ProXError("the optimizer holds none of the supernet's weights: make it of supernet.parameters()")
        counts, rates = not self._optimizers, list[Any]()

        def cool() -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=False):
                group["lr"] = rate
            rates.clear()

        def before(*_: Any) -> None:
            self._pending = False
            self._freezer.before_step()
            self._updates += counts
            cool()  # where the step before has raised
            for group in optimizer.param_groups:
                rates.append(group["lr"])
                group["lr"] = group["lr"] * self.warmth

        def after(*_: Any) -> None:
            cool()
            self._freezer.after_step()

        self._optimizers.append(optimizer)
        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def guards(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer is guarded.

        Args:
            optimizer: the optimizer.
        """
        return any(optimizer is guarded for guarded in self._optimizers)

    def holds_any(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer has weights of the supernet.

        Args:
            optimizer: the optimizer.
        """
        return not _held_by([optimizer]).isdisjoint(map(id, self.supernet.parameters()))

    @property
    def warmth(self) -> float:
        """The factor of the learning rate in the current update.

        A warm-up takes at most a quarter of its stage. The length of the stage in updates is estimated from the epochs before.
        """
        start, end = (*self.schedule.starts, self.schedule.epochs)[max(self._stage, 0) :][:2]
        warmup = min(self.stage.warmup, self._opened / start * (end - start) / 4) if start else self.stage.warmup
        return min(1.0, (self._updates - self._opened) / warmup) if warmup else 1.0

    def begin_epoch(self, epoch: int) -> bool:
        """Opens the stage of an epoch if it is not open.

        Args:
            epoch: counts from 0.

        Returns:
            Whether a stage opened.

        Raises:
            ProXError: the schedule does not have the epoch, or its stage is over.
        """
        if not 0 <= epoch < self.schedule.epochs:
            raise ProXError(f"there is no epoch {epoch}: the schedule has the epochs 0 to {self.schedule.epochs - 1}")
        index = self.schedule.index(epoch)
        if index < self._stage:
            over = self.schedule.stages[index].name
            raise ProXError(f"epoch {epoch} is of the stage {over!r}, which is over: {self.stage.name!r} has begun")
        opens = index > self._stage
        while index > self._stage:
            self._open(self._stage + 1)
        self._epoch = epoch
        return opens

    def _largest(self, index: int) -> Subnet | None:
        return self._spaces[index].largest() if index >= 0 else None

    def _open(self, index: int) -> None:
        stage, old, new = self.schedule.stages[index], self._largest(index - 1), self._largest(index)
        assert new is not None
        if not stage.teacher == self.stage.teacher == "first":  # that one stays
            self._teacher = None
            if stage.teacher in FROZEN and old is not None:
                self._teacher = old, self.supernet.extract(old)
                if self.calibrate is not None:
                    self.calibrate(self._teacher[1], old)
        if stage.sort_channels:
            self._sort_channels(index)
        if stage.birth == "preserving" and old is not None and not self.keep_weights:
            give_birth(self.supernet, old, new)
        self._opened = self._updates
        self.trial = None
        self._move(index)

    def _sort_channels(self, index: int) -> None:
        narrower = narrower_members(self.supernet, self._spaces[index - 1]) if index else []
        permuted = sort_channels(self.supernet.network, *shallower_members(self.supernet), narrower=narrower)
        for optimizer in self._optimizers:  # momentum belongs to a weight, wherever that goes
            for parameter, permutations in permuted.items():
                state = optimizer.state.get(parameter, {})
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[key] = permute(value, permutations)

    def _move(self, index: int) -> None:
        """Enters a stage, in which other weights train than before."""
        former = self._freezer
        self._enter(index)
        for optimizer in self._optimizers:
            self._freezer.renew(optimizer, former)

    def _enter(self, index: int) -> None:
        """Sets everything of a stage but weights. It depends on the index only."""
        self._stage = index
        new = self._largest(index)
        assert new is not None
        self._freezer = Freezer(frozen_parts(self.supernet, self._largest(index - 1), new, self.stage.freeze))
        if self._teacher is not None:
            self._teacher[1].eval().requires_grad_(False)

    # ------------------------------------------------------------------ steps
    def members(self, epoch: int, step: int) -> list[Subnet]:
        """The members that train in a step, each once, in the order of the stage's roles.

        Args:
            epoch: counts from 0.
            step: number of the step in the epoch, from 0.
        """
        generator = random.Random(f"{self.seed} {epoch} {step}")
        # As often with what is on trial as without, for members that train less lose every comparison
        space = self.space if self.trial is None or generator.random() < 0.5 else self.trial

        def member(role: Role) -> Subnet:
            if role == "random":
                return space.sample(random.Random(f"{self.seed} {epoch} pool {generator.randrange(POOL)}"))
            if role == "largest":
                return space.largest()
            return space.smallest()

        # An epoch begins one turn further on than the one before, so that all have their turns in epochs of a step or two
        roles = [role if isinstance(role, str) else role[(epoch + step) % len(role)] for role in self.stage.train]
        return list(dict.fromkeys(map(member, roles)))

    def step(
        self,
        x: Tensor,
        target: Any,
        *,
        epoch: int,
        step: int,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        forward: Callable[[Tensor, Subnet], Any] | None = None,
    ) -> Step:
        """Accumulates the gradients of one step.

        Under torch.distributed the gradients are averaged over the ranks, and batch norms use the batches of all ranks. So
        equal parts of a batch give the same result as the whole batch in one process.

        Args:
            x: (B, C, *spatial).
            target: the second argument of the task loss.
            epoch: counts from 0.
            step: number of the step in the epoch, from 0.
            backward: called with each member's loss, for example to scale it.
            precision: makes the context of forward passes, for example an autocast.
            forward: runs a member, if a host wraps the supernet. None means the supernet itself.

        Raises:
            ProXError: an optimizer that holds weights is not guarded, which would change frozen weights, or ``begin_epoch`` was
                not called for the epoch.
        """
        if not self._optimizers:
            raise ProXError("the engine guards no optimizer: call guard(optimizer) before the first step")
        held = _held_by(self._optimizers)
        if missing := [name for name, p in self.supernet.named_parameters() if p.requires_grad and id(p) not in held]:
            raise ProXError(
                f"no guarded optimizer holds {len(missing)} of the supernet's weights, the first is {missing[0]}: guard the "
                "one that does, or set their requires_grad to False"
            )
        if epoch != self._epoch if self._epoch is not None else self.schedule.index(epoch) != self._stage:
            raise ProXError(f"a step of epoch {epoch} needs begin_epoch({epoch}) first, which opens its stage")
        self._pending = True
        forward = forward or self.supernet
        with precision():
            teacher = self._teacher_logits(x)
        first: tuple[Tensor, Tensor] | None = None
        losses: list[Tensor] = []
        for member in self.members(epoch, step):
            with precision():
                outputs = forward(x, member)
                task = self.task_loss(outputs, target)
                loss = task
                if teacher is not None:
                    weight = self.stage.distillation
                    loss = (1 - weight) * task + weight * self._distance(finest(outputs), teacher)
            backward(loss)
            losses.append(loss.detach())
            if first is None:
                first = task.detach(), finest(outputs).detach()
                if self.stage.teacher == "largest":
                    teacher = first[1]
        self._average_gradients()
        self._freezer.mask_gradients()
        assert first is not None
        return Step(*first, tuple(losses))

    def _teacher_logits(self, x: Tensor) -> Tensor | None:
        if self._teacher is None:
            return None
        subnet, network = self._teacher
        with torch.no_grad():
            return finest(self.supernet.family.run(network, x, subnet))

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.stage.distance == "mse":
            return distill.mse(student, teacher)
        return distill.kl(student, teacher, exclusive=self.exclusive)

    def _average_gradients(self) -> None:
        # Not left to DistributedDataParallel: it reduces within one backward, and a step here may have several.
        if world_size() > 1:
            for parameter in self.supernet.parameters():
                if parameter.grad is not None:  # the same on all ranks: they train the same members
                    average(parameter.grad)

    def broadcast(self) -> None:
        """Copies the weights of the first rank of a distributed training to all ranks."""
        if world_size() > 1:
            for tensor in [*self.supernet.parameters(), *self.supernet.buffers()]:
                dist.broadcast(tensor.data, src=0)

    # ------------------------------------------------------------------ resume
    @property
    def origin(self) -> dict[str, Any]:
        """The search space and the stages as plain data. A training and its continuation have the same."""
        return {
            "space": self.supernet.family.space.to_json(),
            "stages": [stage.to_json() for stage in self.schedule.stages],
        }

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data and tensors, which load with ``weights_only=True``."""
        teacher, transforms = self._teacher, self.supernet.kernel_transforms
        return {
            "format": FORMAT,
            "stage": self._stage,
            "updates": self._updates,
            "opened": self._opened,
            "closed": dict(self.closed),
            "keep_weights": self.keep_weights,
            "teacher": teacher and {"subnet": teacher[0].to_json(), "weights": teacher[1].state_dict()},
            "kernel_transforms": transforms and transforms.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            ProXError: the state has another format or is of another schedule.
        """
        check_format(state)
        if not -1 <= state["stage"] < len(self.schedule.stages):
            raise ProXError(f"cannot continue: the checkpoint is of stage {state['stage']} of {len(self.schedule.stages)}")
        if self.supernet.kernel_transforms is not None:
            self.supernet.kernel_transforms.load_state_dict(state["kernel_transforms"])
        self.keep_weights, self.closed = state["keep_weights"], dict(state["closed"])
        self._updates, self._opened = state["updates"], state["opened"]
        self._spaces = self._open_spaces()
        self._teacher = self._epoch = None
        if state["teacher"] is not None:
            subnet = Subnet.from_json(state["teacher"]["subnet"])
            network = self.supernet.extract(subnet)
            network.load_state_dict(state["teacher"]["weights"])
            self._teacher = subnet, network
        if state["stage"] >= 0:
            self._enter(state["stage"])


def _held_by(optimizers: Iterable[Optimizer]) -> set[int]:
    """The ids of the weights in some optimizers."""
    return {id(weight) for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]}


def _refuse_unguarded(engine: Engine) -> None:
    """As long as ``engine`` lives, raises ProXError where another optimizer than those guarded takes gradients of its steps.

    After the step and not before: an optimizer may wrap one that is guarded.
    """
    living = weakref.ref(engine)

    def after(optimizer: Optimizer, *_: Any) -> None:
        one = living()
        if one is not None and one._pending and not one.guards(optimizer) and one.holds_any(optimizer):
            raise ProXError("an optimizer that the engine does not guard has changed the supernet's weights: guard it first")

    weakref.finalize(engine, register_optimizer_step_post_hook(after).remove)
