"""From a batch to gradients, and from an epoch to a stage. No loader, optimizer or loop: nnU-Net and MONAI bring theirs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from monai_prox.core.distributed import average_gradients
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet, finest
from monai_prox.errors import ProXError
from monai_prox.training import distill
from monai_prox.training.calibrate import keeps_statistics
from monai_prox.training.drawing import draw_members
from monai_prox.training.growth import frozen_parts, initialise_preserving
from monai_prox.training.guard import Guard
from monai_prox.training.monitor import Comparison, Monitor
from monai_prox.training.resume import FORMAT, upgraded
from monai_prox.training.stage import Schedule, Stage
from monai_prox.training.teacher import FrozenTeacher

FROZEN = ("previous", "first")  # teachers


class Step(NamedTuple):
    """What a step reports, detached: its members' losses, of the first the task loss and the output at full resolution."""

    loss: Tensor
    output: Tensor
    losses: tuple[Tensor, ...]


class Engine:
    """Trains a supernet by a schedule.

    supernet: its largest network is what the optimizer holds.
    schedule: stages over epochs.
    task_loss: (outputs, target) -> scalar; outputs are a member's, a list under deep supervision.
    seed: of the members drawn. What is drawn is a pure function of (seed, epoch, step) and of what is open and on trial, so a
        resumed run draws the same and all ranks of a distributed run train the same member.
    exclusive: classes exclude each other (softmax); False for regions.
    calibrate: gives the norms of a cut out member, a teacher to be, its own statistics, see
        ``monai_prox.training.calibrate``. Families whose norms keep statistics need it if the schedule has frozen teachers.
    monitor: closes choices that are not worth what they cost, in stages that are monitored; None closes nothing. The host
        validates the members that ``compared`` names and gives their scores to ``observe``.
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
        monitor: Monitor | Literal[False] | None = None,
    ) -> None:
        self.supernet, self.schedule, self.task_loss = supernet, schedule, task_loss
        if monitor not in (None, False) and not isinstance(monitor, Monitor):
            raise ProXError(f"monitor is {monitor!r:.80}; it is a Monitor, with threshold and patience, or false for none")
        self.seed, self.exclusive, self.calibrate, self.monitor = seed, exclusive, calibrate, monitor or None
        self.closed: dict[str, int] = {}  # choices that remain in a dimension whose last ones were closed
        self._spaces = self._open_spaces()
        for stage, space in zip(schedule.stages, self._spaces, strict=True):
            if space.size() == 0:
                raise ProXError(f"the stage {stage.name!r} opens no member, for of its choices some must differ: {space}")
        self._index: int | None = None  # of the stage; none is open before begin_epoch
        self._epoch: int | None = None  # that has begun in this process
        self._opened = 0  # updates before the stage opened
        self._pretrained = False  # weights were loaded before the training: growing opens them as they are
        self._trial: SearchSpace | None = None
        self._monitored: dict[str, Any] | None = None  # the state of a monitor that the training had before, and has no more
        self._teacher: FrozenTeacher | None = None
        self._guard = Guard(supernet, lambda: self.warmup_factor)
        _notice_pretrained(self)
        frozen_teachers = any(stage.teacher in FROZEN for stage in schedule.stages)
        if frozen_teachers and calibrate is None and keeps_statistics(supernet.network):
            raise ProXError("the network's norms keep statistics, of which every teacher needs its own: give calibrate")
        for reorder in {stage.reorder for stage in schedule.stages if stage.reorder is not None}:
            reorder(SuperNet(supernet.family, deepcopy(supernet.network)), None)  # refuses now and not after days of training

    # ------------------------------------------------------------------ stages
    @property
    def stage(self) -> Stage:
        """The stage that is open. Raises ProXError before ``begin_epoch``."""
        return self.schedule.stages[self._open_index()]

    @property
    def space(self) -> SearchSpace:
        """What is open now. Raises ProXError before ``begin_epoch``."""
        return self._spaces[self._open_index()]

    def _open_index(self) -> int:
        if self._index is None:
            raise ProXError("no stage is open yet: call begin_epoch, which opens the stage of an epoch")
        return self._index

    @property
    def final_space(self) -> SearchSpace:
        """What will be open in the end, unless more is closed."""
        return self._spaces[-1]

    @property
    def trial(self) -> SearchSpace | None:
        """What is open without the choice that the monitor has on trial; None if no choice is."""
        return self._trial

    @property
    def teacher(self) -> Subnet | None:
        """The frozen member that teaches now, beside those in training."""
        return None if self._teacher is None else self._teacher.subnet

    def _open_spaces(self) -> list[SearchSpace]:
        """What is open in each stage."""
        spaces = [stage.space(self.supernet.family.space) for stage in self.schedule.stages]
        if not self.closed:
            return spaces
        counts = [{dimension: space.choice_count(dimension) for dimension in space.dimensions} for space in spaces]
        return [
            space.restrict({d: min(n, self.closed.get(d, n)) for d, n in each.items()})
            for space, each in zip(spaces, counts, strict=True)
        ]

    def begin_epoch(self, epoch: int) -> bool:
        """Brings the supernet into the stage of ``epoch``; True if a stage opened.

        Raises ProXError for an epoch that the schedule does not have, and for one of a stage that is over.
        """
        if not 0 <= epoch < self.schedule.epochs:
            raise ProXError(f"there is no epoch {epoch}: the schedule has the epochs 0 to {self.schedule.epochs - 1}")
        index = self.schedule.index(epoch)
        if self._index is not None and index < self._index:
            over = self.schedule.stages[index].name
            raise ProXError(f"epoch {epoch} is of the stage {over!r}, which is over: {self.stage.name!r} has begun")
        due = range(0 if self._index is None else self._index + 1, index + 1)
        for stage in due:
            self._open(stage)
        self._epoch = epoch
        return bool(due)

    def _open(self, index: int) -> None:
        stage, former = self.schedule.stages[index], self.schedule.stages[max(index - 1, 0)]
        before = self._spaces[index - 1] if index else None
        old = None if before is None else before.largest()
        if not stage.teacher == former.teacher == "first":  # that one stays
            self._teacher = None
            if stage.teacher in FROZEN and old is not None:
                self._teacher = FrozenTeacher.of(self.supernet, old, self.calibrate)
        if stage.reorder is not None:
            self._guard.permute(stage.reorder(self.supernet, before))
        if stage.new_weights == "preserving" and old is not None and not self._pretrained:
            initialise_preserving(self.supernet, old, self._spaces[index].largest())
        self._opened = self._guard.updates
        if self.monitor is not None:
            self.monitor.abandon()
        self._enter(index)

    def _enter(self, index: int, *, resumes: bool = False) -> None:
        """What a stage needs beside weights: a function of its index, of what is closed and of the monitor's state."""
        self._index = index
        old = self._spaces[index - 1].largest() if index else None
        frozen = frozen_parts(self.supernet, old, self.space.largest(), self.stage.freeze)
        self._guard.freeze(frozen, resumes=resumes)
        self._trial = None if self.monitor is None else self.monitor.trial(self.space)

    # ------------------------------------------------------------------ monitor
    def compared(self, epoch: int, interval: int) -> list[Subnet]:
        """The members whose scores after ``epoch`` the monitor needs; none if it needs no scores now.

        interval: epochs between validations of the named members, of which there are more than two. So comparisons come about
        three times as often.
        """
        monitors = self.monitor is not None and self.stage.monitored
        due = monitors and self.schedule.is_due(epoch, max(1, round(interval / 3)))
        return self.monitor.members(self.space) if self.monitor is not None and due else []

    @property
    def comparisons(self) -> list[Comparison]:
        """What the monitor has compared, also before the training went on without one."""
        if self.monitor is not None:
            return self.monitor.history
        return [Comparison(**comparison) for comparison in (self._monitored or {}).get("history", ())]

    def observe(self, epoch: int, scores: Mapping[Subnet, Mapping[str, float]]) -> Comparison | None:
        """Lets the monitor compare, and closes the choice that it finds not worth its cost.

        scores: by case, of ``compared``; the same in all ranks. Returns the comparison, with a verdict if there is one.
        """
        if self.monitor is None:
            raise ProXError("the engine has no monitor, so it compares no scores: give it one, or do not call observe")
        comparison = self.monitor.observe(epoch, self.space, scores)
        if comparison is not None and comparison.verdict == "closed":
            self.close(comparison.dimension)
        self._trial = self.monitor.trial(self.space)
        return comparison

    def close(self, dimension: str) -> None:
        """Closes the last open choice of ``dimension`` for good: its weights stay as they are and train no more.

        Raises ProXError before ``begin_epoch``, and if only one choice is open.
        """
        self.space.without_last(dimension)  # raises
        self.closed[dimension] = self.space.choice_count(dimension) - 1
        self._spaces = self._open_spaces()
        self._enter(self._open_index())

    # ------------------------------------------------------------------ steps
    def guard(self, optimizer: Optimizer) -> None:
        """Makes every step of ``optimizer`` leave frozen weights and those not yet open untouched, and take the learning rate
        of the stage's warm-up. The updates of the first one that is guarded count.

        Raises ProXError if ``optimizer`` holds none of the supernet's weights.
        """
        self._guard.add(optimizer)

    @property
    def warmup_factor(self) -> float:
        """The factor of the learning rate in the present update.

        A warm-up takes a quarter of its stage at most, which is as long as the epochs before let expect.
        """
        index, stage = self._open_index(), self.stage
        start, end = (*self.schedule.starts, self.schedule.epochs)[index : index + 2]
        warmup = min(stage.warmup, self._opened / start * (end - start) / 4) if start else stage.warmup
        return min(1.0, (self._guard.updates - self._opened) / warmup) if warmup else 1.0

    def members(self, epoch: int, step: int) -> list[Subnet]:
        """The members that train in this step, each once, in the order of the stage's roles."""
        return draw_members(self.stage, self.space, trial=self._trial, seed=self.seed, epoch=epoch, step=step)

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

        x: (B, C, *spatial). ``backward`` gets each member's loss: give it a gradient scaler's. Forward passes run within
        ``precision()``, e.g. an autocast; ``forward`` stands for the supernet's own where a host wraps it. Under
        torch.distributed the gradients are averaged over the ranks, and batch norms use all ranks' batches, so equal parts of
        a batch give what the whole does in one process.

        Raises ProXError before ``guard`` of all that hold weights, without which weights that should stay would train, and for
        another epoch than the one that has begun; in a training that goes on, before ``begin_epoch``, one of another stage.
        """
        self._guard.check()
        if epoch != self._epoch if self._epoch is not None else self.schedule.index(epoch) != self._index:
            raise ProXError(f"a step of epoch {epoch} needs begin_epoch({epoch}) first, which opens its stage")
        self._guard.pending = True
        forward = forward or self.supernet
        with precision():
            teacher = None if self._teacher is None else self._teacher.logits(x)
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
        average_gradients(self.supernet)
        self._guard.mask_gradients()
        assert first is not None
        return Step(*first, tuple(losses))

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.stage.distance == "mse":
            return distill.mse(student, teacher)
        return distill.kl(student, teacher, exclusive=self.exclusive)

    # ------------------------------------------------------------------ resume
    @property
    def origin(self) -> dict[str, Any]:
        """What a training and the one that continues it have in common: search space and stages, as plain data."""
        stages = [stage.to_json() for stage in self.schedule.stages]
        return {"space": self.supernet.family.space.to_json(), "stages": stages}

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors; loads with ``weights_only=True``."""
        teacher, transforms = self._teacher, self.supernet.kernel_transforms
        return {
            "format": FORMAT,
            "stage": self._index,
            "updates": self._guard.updates,
            "opened": self._opened,
            "closed": dict(self.closed),
            "pretrained": self._pretrained,
            "teacher": teacher and teacher.state_dict(),
            "kernel_transforms": transforms and transforms.state_dict(),
            "monitor": self._monitored if self.monitor is None else self.monitor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ProXError if ``state`` is of another format or schedule."""
        state = upgraded(state)
        if state["stage"] is not None and not 0 <= state["stage"] < len(self.schedule.stages):
            raise ProXError(f"cannot continue: the checkpoint is of stage {state['stage']} of {len(self.schedule.stages)}")
        if self.supernet.kernel_transforms is not None:
            self.supernet.kernel_transforms.load_state_dict(state["kernel_transforms"])
        self.closed, self._pretrained = dict(state["closed"]), state["pretrained"]
        self._guard.updates, self._opened = state["updates"], state["opened"]
        self._spaces = self._open_spaces()
        self._teacher = self._epoch = self._index = None
        if state["teacher"] is not None:
            self._teacher = FrozenTeacher.from_state(self.supernet, state["teacher"])
        if state["stage"] is not None:
            self._enter(state["stage"], resumes=True)
        self.load_monitor(state["monitor"])

    def load_monitor(self, state: Mapping[str, Any] | None) -> None:
        """Goes on with a monitor's state. Without a monitor it is kept for a continuation that has one."""
        self._monitored = None if state is None else dict(state)
        if self.monitor is not None and state is not None:
            self.monitor.load_state_dict(state)
            self._trial = None if self._index is None else self.monitor.trial(self.space)


def _notice_pretrained(engine: Engine) -> None:
    """Weights that are loaded into the supernet's network before a stage opens are pretrained ones."""
    living = weakref.ref(engine)

    def loaded(*_: Any) -> None:
        engine = living()
        if engine is not None and engine._index is None:
            engine._pretrained = True

    network: Any = engine.supernet.network
    network.register_load_state_dict_post_hook(loaded)
