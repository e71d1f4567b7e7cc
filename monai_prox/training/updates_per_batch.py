"""How many updates a training makes with each batch: one, a number that is asked for, or as many as its loader has time for."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from monai_prox.core.distributed import gather
from monai_prox.errors import ProXError
from monai_prox.training.idle_time import MOST, IdleTime

FILL: Literal["fill"] = "fill"
Asked = int | Literal["fill"]


def is_number(value: Any) -> bool:
    """Whether a value is a number of updates that a batch may have.

    Args:
        value: any value.

    >>> [value for value in (0, 1, 8, 9, True, 2.0, "2") if is_number(value)]
    [1, 8]
    """
    return type(value) is int and 1 <= value <= MOST


class UpdatesPerBatch:
    """Makes one or several updates with each batch.

    Each update is a step of the engine, which draws its own members: with ``number`` updates a batch, update i of batch b is
    step b * number + i of the epoch. So the roles of a stage take their turns from update to update.

    With "fill" each stage has its own number, because its members take longer than those of the stage before. The first epoch
    of a stage, or of a continued training within it, is not measured: networks of new members are built in it. The second one
    is measured. Both make one update a batch. From the third one on the stage has its number, also if the training is
    continued. So a stage of two epochs is never filled.

    Args:
        asked: 1 to ``MOST``, or "fill".
        stages: number of stages of the schedule.
        measures: whether "fill" measures. If not, stages without a number make one update a batch.
    """

    def __init__(self, asked: Asked, stages: int, *, measures: bool = True) -> None:
        self.number = 1 if asked == FILL else asked
        self.step = 0  # the next one of the epoch
        self._fills, self._measures = asked == FILL, measures
        self._by_stage: list[int | None] = [None] * stages
        self._stage: int | None = None
        self._idle: IdleTime | None = None

    def begin_epoch(self, stage: int, batches: int) -> None:
        """Sets ``number`` to that of an epoch, and ``step`` to 0.

        Args:
            stage: index of the stage of the epoch.
            batches: number of batches of the epoch.
        """
        self.step = 0
        if not self._fills:
            return
        known, new = self._by_stage[stage], stage != self._stage
        self.number, self._stage = known or 1, stage
        self._idle = IdleTime(batches) if self._measures and known is None and not new else None

    def run(self, update: Callable[[int], tuple[Tensor, bool]]) -> tuple[Tensor, bool]:
        """Makes the updates with a batch.

        After an update that is skipped there are no more with the batch, so that ``Updates`` counts each batch once.

        Args:
            update: makes the update of a step. It returns the loss, a scalar, and whether the update took place.

        Returns:
            The mean loss of the updates that took place, or the loss of the one that was skipped, on the CPU, and whether any
            update took place.
        """
        began, steps, losses = perf_counter(), range(self.step, self.step + self.number), list[Tensor]()
        self.step = steps.stop
        for step in steps:
            loss, updated = update(step)
            if not updated:
                break
            losses.append(loss)
        mean = torch.stack(losses or [loss]).mean().cpu()  # waits until the GPU has finished
        if self._idle is not None:
            self._idle.add(began, perf_counter())
        return mean, bool(losses)

    def end_epoch(self) -> str | None:
        """Fixes the number of the stage if the epoch was measured.

        Under torch.distributed all ranks get the largest number that a rank has measured. Ranks wait for each other within an
        update, so that a rank with a fast loader sees long updates, and one with a slow loader the time that is left.

        Returns:
            A line for the log, or None if the epoch was not measured.
        """
        if self._idle is None or self._stage is None:
            return None
        idle, self._idle = self._idle, None
        number = self._by_stage[self._stage] = max(gather(idle.updates))
        return f"waited for batches in {idle.share:.0%} of the time; updates with each batch from now on: {number}"

    def state_dict(self) -> list[int | None]:
        """The numbers that were fixed, by stage, as plain data."""
        return list(self._by_stage)

    def load_state_dict(self, state: Any) -> None:
        """Restores the numbers that were fixed.

        Args:
            state: what ``state_dict`` returned, or None of a training before there was one.

        Raises:
            ProXError: the state is of another schedule, or none at all. Nothing has changed then.
        """
        if state is None:
            return
        stages = len(self._by_stage)
        if not isinstance(state, list) or len(state) != stages or not all(n is None or is_number(n) for n in state):
            raise ProXError(
                f"cannot continue: the checkpoint's updates_per_batch are {stages} numbers from 1 to {MOST}, or null, got "
                f"{state!r:.80}"
            )
        self._by_stage = list(state)
