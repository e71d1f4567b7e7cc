"""The training of a supernet by a schedule: from a batch to gradients, and from an epoch to a stage.

Loaders, optimizers and loops are those of nnU-Net or MONAI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from monai_prox.core.distributed import average_gradients
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet, finest
from monai_prox.errors import ProXError
from monai_prox.training import distill
from monai_prox.training.drawing import draw_members
from monai_prox.training.expansion import Expansion
from monai_prox.training.monitor import Comparison, Monitor
from monai_prox.training.resume import FORMAT, upgraded
from monai_prox.training.stage import Schedule, Stage


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
        self._expansion = Expansion(supernet, schedule, calibrate)
        self._trial: SearchSpace | None = None  # computed once, because every step needs it
        self._monitored: dict[str, Any] | None = None  # the state of a monitor that the training had before, and has no more

    def __deepcopy__(self, memo: Any) -> Engine:
        raise ProXError("an engine is not copied, for it guards optimizers: make another, and give it this one's state_dict")

    # ------------------------------------------------------------------ stages
    @property
    def stage(self) -> Stage:
        """The current stage. It raises ProXError before the first ``begin_epoch``."""
        return self._expansion.stage

    @property
    def space(self) -> SearchSpace:
        """The part of the search space that is open now. It raises ProXError before the first ``begin_epoch``."""
        return self._expansion.space

    @property
    def final_space(self) -> SearchSpace:
        """The part of the search space that will be open at the end, unless more choices are closed."""
        return self._expansion.final_space

    @property
    def closed(self) -> dict[str, int]:
        """The number of choices that remain of each dimension whose last choices were closed."""
        return self._expansion.closed

    @property
    def trial(self) -> SearchSpace | None:
        """The part of the open search space without the choice that is on trial, or None if no choice is on trial."""
        return self._trial

    @property
    def pretrained(self) -> bool:
        """Whether weights were loaded into the supernet's network before the first stage opened."""
        return self._expansion.pretrained

    @property
    def teacher(self) -> Subnet | None:
        """The frozen member that teaches now, or None."""
        return None if self._expansion.teacher is None else self._expansion.teacher.subnet

    def begin_epoch(self, epoch: int) -> bool:
        """Opens the stage of an epoch if it is not open.

        Args:
            epoch: counts from 0.

        Returns:
            Whether a stage opened.

        Raises:
            ProXError: the schedule does not have the epoch, or its stage is over.
        """
        opened = self._expansion.begin_epoch(epoch)
        if opened and self.monitor is not None:
            self.monitor.abandon()
            self._update_trial()
        return opened

    # ------------------------------------------------------------------ monitor
    def compared(self, epoch: int, interval: int) -> list[Subnet]:
        """The members whose scores the monitor needs after an epoch.

        Args:
            epoch: counts from 0.
            interval: epochs between validations of the named members. Comparisons are about three times as frequent, because
                a comparison needs two members only.

        Returns:
            The members. There are none if the monitor needs no scores now.
        """
        if self.monitor is None or not self.stage.monitored:
            return []
        return self.monitor.members(self.space) if self.schedule.is_due(epoch, max(1, round(interval / 3))) else []

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
            scores: scores by case of the members that ``compared`` returned, empty if it returned none. The same in all ranks.

        Returns:
            The comparison, or None, see ``Monitor.observe``. None in a stage that is not monitored.

        Raises:
            ProXError: the engine has no monitor, or there are no scores of a member that it compares.
        """
        if self.monitor is None:
            raise ProXError("the engine has no monitor, so it compares no scores: give it one, or do not call observe")
        if not scores or not self.stage.monitored:
            return None
        comparison = self.monitor.observe(epoch, self.space, scores)
        if comparison is not None and comparison.verdict == "closed":
            self._expansion.close(comparison.dimension)
        self._update_trial()
        return comparison

    def close(self, dimension: str) -> None:
        """Closes the last open choice of a dimension for the rest of the training. Its weights are not trained any more.

        Args:
            dimension: the dimension.

        Raises:
            ProXError: ``begin_epoch`` was not called, or only one choice is open.
        """
        self._expansion.close(dimension)
        self._update_trial()

    def _update_trial(self) -> None:
        self._trial = self.monitor.trial(self.space) if self.monitor is not None and self._expansion.is_open else None

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
        self._expansion.guard.add(optimizer)

    @property
    def warmup_factor(self) -> float:
        """The factor of the learning rate in the current update.

        A warm-up takes at most a quarter of its stage. The length of the stage in updates is estimated from the epochs before.
        """
        return self._expansion.guard.rate_factor

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
        guard, frozen_teacher = self._expansion.guard, self._expansion.teacher
        guard.check()
        if not self._expansion.has_begun(epoch):
            raise ProXError(f"a step of epoch {epoch} needs begin_epoch({epoch}) first, which opens its stage")
        guard.pending = True
        forward = forward or self.supernet
        with precision():
            teacher = None if frozen_teacher is None else frozen_teacher.logits(x)
        first: tuple[Tensor, Tensor] | None = None
        losses: list[Tensor] = []
        for member in self.members(epoch, step):
            with precision():
                outputs = forward(x, member)
                task = self.task_loss(outputs, target)
                loss = task
                if teacher is not None:
                    weight = self.stage.distillation
                    loss = (1 - weight) * task + weight * self._distance(finest(outputs, x), teacher)
            backward(loss)
            losses.append(loss.detach())
            if first is None:
                first = task.detach(), finest(outputs, x).detach()
                if self.stage.teacher == "largest":
                    teacher = first[1]
        average_gradients(self.supernet)
        guard.mask_gradients()
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
        transforms = self.supernet.kernel_transforms
        return {
            "format": FORMAT,
            **self._expansion.state_dict(),
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
        self._expansion.load_state_dict(state)
        if self.supernet.kernel_transforms is not None:
            self.supernet.kernel_transforms.load_state_dict(state["kernel_transforms"])
        self.load_monitor(state["monitor"])

    def load_monitor(self, state: Mapping[str, Any] | None) -> None:
        """Restores a monitor's state. Without a monitor the state is kept for a continuation that has a monitor.

        Args:
            state: what ``Monitor.state_dict`` returned, or None.
        """
        self._monitored = None if state is None else dict(state)
        if self.monitor is not None and state is not None:
            self.monitor.load_state_dict(state)
        self._update_trial()
