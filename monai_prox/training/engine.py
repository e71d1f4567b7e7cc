"""The training of a supernet by a schedule: from a batch to gradients, and from an epoch to a stage.

Loaders, optimizers and loops are those of nnU-Net or MONAI.
"""

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
        monitor: closes choices that are not worth their cost, in monitored stages. The host validates the members that
            ``compared`` returns, and gives their scores to ``observe``. None or False means that no choice is closed.

    Raises:
        ProXError: a stage has no member, ``calibrate`` is needed, channels of the network cannot be reordered, or ``monitor``
            is not a Monitor.

    >>> import torch
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
        """The current stage. It raises ProXError before the first ``begin_epoch``."""
        return self.schedule.stages[self._open_index()]

    @property
    def space(self) -> SearchSpace:
        """The part of the search space that is open now. It raises ProXError before the first ``begin_epoch``."""
        return self._spaces[self._open_index()]

    def _open_index(self) -> int:
        if self._index is None:
            raise ProXError("no stage is open yet: call begin_epoch, which opens the stage of an epoch")
        return self._index

    @property
    def final_space(self) -> SearchSpace:
        """The part of the search space that will be open at the end, unless more choices are closed."""
        return self._spaces[-1]

    @property
    def trial(self) -> SearchSpace | None:
        """The part of the open search space without the choice that is on trial, or None if no choice is on trial."""
        return self._trial

    @property
    def teacher(self) -> Subnet | None:
        """The frozen member that teaches now, or None."""
        return None if self._teacher is None else self._teacher.subnet

    def _open_spaces(self) -> list[SearchSpace]:
        """The part of the search space that is open, for each stage."""
        spaces = [stage.space(self.supernet.family.space) for stage in self.schedule.stages]
        if not self.closed:
            return spaces
        counts = [{dimension: space.choice_count(dimension) for dimension in space.dimensions} for space in spaces]
        return [
            space.restrict({d: min(n, self.closed.get(d, n)) for d, n in each.items()})
            for space, each in zip(spaces, counts, strict=True)
        ]

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
        """Sets everything of a stage but weights. It depends on the index, the closed choices and the monitor's state only."""
        self._index = index
        old = self._spaces[index - 1].largest() if index else None
        frozen = frozen_parts(self.supernet, old, self.space.largest(), self.stage.freeze)
        self._guard.freeze(frozen, resumes=resumes)
        self._trial = None if self.monitor is None else self.monitor.trial(self.space)

    # ------------------------------------------------------------------ monitor
    def compared(self, epoch: int, interval: int) -> list[Subnet]:
        """The members whose scores the monitor needs after an epoch. Comparisons need two members, so they are more frequent.

        Args:
            epoch: counts from 0.
            interval: epochs between validations of the named members. The monitor compares about three times as often.

        Returns:
            The members. There are none if the monitor needs no scores now.
        """
        monitors = self.monitor is not None and self.stage.monitored
        due = monitors and self.schedule.is_due(epoch, max(1, round(interval / 3)))
        return self.monitor.members(self.space) if self.monitor is not None and due else []

    @property
    def comparisons(self) -> list[Comparison]:
        """All comparisons, also of a monitor that the training had before it continued without a monitor."""
        if self.monitor is not None:
            return self.monitor.history
        return [Comparison(**comparison) for comparison in (self._monitored or {}).get("history", ())]

    def observe(self, epoch: int, scores: Mapping[Subnet, Mapping[str, float]]) -> Comparison | None:
        """Lets the monitor compare members, and closes the choice on trial if the verdict is "closed".

        Args:
            epoch: counts from 0.
            scores: scores by case of the members that ``compared`` returned. They are the same in all ranks.

        Returns:
            The comparison, or None, see ``Monitor.observe``.

        Raises:
            ProXError: the engine has no monitor.
        """
        if self.monitor is None:
            raise ProXError("the engine has no monitor, so it compares no scores: give it one, or do not call observe")
        comparison = self.monitor.observe(epoch, self.space, scores)
        if comparison is not None and comparison.verdict == "closed":
            self.close(comparison.dimension)
        self._trial = self.monitor.trial(self.space)
        return comparison

    def close(self, dimension: str) -> None:
        """Closes the last open choice of a dimension for the rest of the training. Its weights are not trained any more.

        Args:
            dimension: the dimension.

        Raises:
            ProXError: ``begin_epoch`` was not called, or only one choice is open.
        """
        self.space.without_last(dimension)  # raises
        self.closed[dimension] = self.space.choice_count(dimension) - 1
        self._spaces = self._open_spaces()
        self._enter(self._open_index())

    # ------------------------------------------------------------------ steps
    def guard(self, optimizer: Optimizer) -> None:
        """Makes every step of an optimizer respect the current stage.

        Steps then do not change weights that are frozen or not yet open, and use the learning rate of the stage's warm-up. The
        updates of the first guarded optimizer are counted.

        Args:
            optimizer: the optimizer.

        Raises:
            ProXError: the optimizer has none of the supernet's weights.
        """
        self._guard.add(optimizer)

    @property
    def warmup_factor(self) -> float:
        """The factor of the learning rate in the current update.

        A warm-up takes at most a quarter of its stage. The length of the stage in updates is estimated from the epochs before.
        """
        index, stage = self._open_index(), self.stage
        start, end = (*self.schedule.starts, self.schedule.epochs)[index : index + 2]
        warmup = min(stage.warmup, self._opened / start * (end - start) / 4) if start else stage.warmup
        return min(1.0, (self._guard.updates - self._opened) / warmup) if warmup else 1.0

    def members(self, epoch: int, step: int) -> list[Subnet]:
        """The members that train in a step, each once, in the order of the stage's roles.

        Args:
            epoch: counts from 0.
            step: number of the step in the epoch, from 0.
        """
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
        """The search space and the stages as plain data. A training and its continuation have the same."""
        stages = [stage.to_json() for stage in self.schedule.stages]
        return {"space": self.supernet.family.space.to_json(), "stages": stages}

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data and tensors, which load with ``weights_only=True``."""
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
        """Restores a state.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            ProXError: the state has another format or is of another schedule.
        """
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
        """Restores a monitor's state. Without a monitor the state is kept for a continuation that has a monitor.

        Args:
            state: what ``Monitor.state_dict`` returned, or None.
        """
        self._monitored = None if state is None else dict(state)
        if self.monitor is not None and state is not None:
            self.monitor.load_state_dict(state)
            self._trial = None if self._index is None else self.monitor.trial(self.space)


def _notice_pretrained(engine: Engine) -> None:
    """Notes that the network is pretrained if weights are loaded into it before a stage opens."""
    living = weakref.ref(engine)

    def loaded(*_: Any) -> None:
        engine = living()
        if engine is not None and engine._index is None:
            engine._pretrained = True

    network: Any = engine.supernet.network
    network.register_load_state_dict_post_hook(loaded)
