"""The expansion of a supernet by a schedule: what is open, and what opening a stage does to the weights."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.training.calibrate import keeps_statistics
from monai_prox.training.growth import frozen_parts, initialise_preserving
from monai_prox.training.guard import Guard
from monai_prox.training.stage import Schedule, Stage
from monai_prox.training.teacher import FrozenTeacher

FROZEN = ("previous", "first")  # teachers


class Expansion:
    """Opens the stages of a schedule. No stage is open before the first ``begin_epoch``.

    ``closed`` is the number of choices that remain of each dimension whose last choices were closed, and ``teacher`` the frozen
    teacher of the stage, or None. ``guard`` protects the weights that are frozen or not yet open.

    Args:
        supernet: the supernet.
        schedule: stages with their epochs.
        calibrate: see ``Engine``.

    Raises:
        ProXError: a stage has no member, ``calibrate`` is needed, or channels of the network cannot be reordered.
    """

    def __init__(
        self, supernet: SuperNet, schedule: Schedule, calibrate: Callable[[nn.Module, Subnet], Any] | None = None
    ) -> None:
        self.supernet, self.schedule, self.calibrate = supernet, schedule, calibrate
        self.closed: dict[str, int] = {}
        self.teacher: FrozenTeacher | None = None
        self._spaces = self._open_spaces()
        for stage, space in zip(schedule.stages, self._spaces, strict=True):
            if space.size() == 0:
                raise ProXError(f"the stage {stage.name!r} opens no member, for of its choices some must differ: {space}")
        self._index: int | None = None  # of the stage
        self._epoch: int | None = None  # the last that has begun in this process
        self.pretrained = False  # weights were loaded before the training: opening a stage does not change them
        self.guard = Guard(supernet)
        network: Any = supernet.network
        network.register_load_state_dict_post_hook(_NoticePretrained(self))
        frozen_teachers = any(stage.teacher in FROZEN for stage in schedule.stages)
        if frozen_teachers and calibrate is None and keeps_statistics(supernet.network):
            raise ProXError("the network's norms keep statistics, of which every teacher needs its own: give calibrate")
        for reorder in {stage.reorder for stage in schedule.stages if stage.reorder is not None}:
            reorder(SuperNet(supernet.family, deepcopy(supernet.network)), None)  # refuses now and not after days of training

    @property
    def stage(self) -> Stage:
        """The current stage. It raises ProXError if no stage is open."""
        return self.schedule.stages[self._open_index()]

    @property
    def space(self) -> SearchSpace:
        """The part of the search space that is open now. It raises ProXError if no stage is open."""
        return self._spaces[self._open_index()]

    @property
    def final_space(self) -> SearchSpace:
        """The part of the search space that will be open at the end, unless more choices are closed."""
        return self._spaces[-1]

    @property
    def is_open(self) -> bool:
        """Whether a stage is open."""
        return self._index is not None

    def has_begun(self, epoch: int) -> bool:
        """Whether steps of an epoch may be trained. A training that was continued may be within any epoch of its stage.

        Args:
            epoch: counts from 0.
        """
        return epoch == self._epoch if self._epoch is not None else self.schedule.index(epoch) == self._index

    def begin_epoch(self, epoch: int) -> bool:
        """Opens the stage of an epoch if it is not open. See ``Engine.begin_epoch``."""
        if type(epoch) is not int or not 0 <= epoch < self.schedule.epochs:
            raise ProXError(f"there is no epoch {epoch}: the schedule has the epochs 0 to {self.schedule.epochs - 1}")
        index = self.schedule.index(epoch)
        if self._index is not None and index < self._index:
            over = self.schedule.stages[index].name
            raise ProXError(f"epoch {epoch} is of the stage {over!r}, which is over: {self.stage.name!r} has begun")
        indices = range(0 if self._index is None else self._index + 1, index + 1)
        for stage_index in indices:
            self._open(stage_index)
        self._epoch = epoch
        return bool(indices)

    def close(self, dimension: str) -> None:
        """Closes the last open choice of a dimension. See ``Engine.close``."""
        self.space.without_last(dimension)  # raises
        self.closed[dimension] = self.space.choice_count(dimension) - 1
        self._spaces = self._open_spaces()
        self._enter(self._open_index())

    def _open_index(self) -> int:
        if self._index is None:
            raise ProXError("no stage is open yet: call begin_epoch, which opens the stage of an epoch")
        return self._index

    def _open_spaces(self) -> list[SearchSpace]:
        """The part of the search space that is open, for each stage."""
        spaces = [stage.space(self.supernet.family.space) for stage in self.schedule.stages]
        return [self._without_closed(space) for space in spaces] if self.closed else spaces

    def _without_closed(self, space: SearchSpace) -> SearchSpace:
        counts = {dimension: space.choice_count(dimension) for dimension in space.dimensions}
        return space.restrict({d: min(count, self.closed.get(d, count)) for d, count in counts.items()})

    def _open(self, index: int) -> None:
        stage, former = self.schedule.stages[index], self.schedule.stages[max(index - 1, 0)]
        before = self._spaces[index - 1] if index else None
        old = None if before is None else before.largest()
        if stage.new_weights == "given" and not self.pretrained:
            raise ProXError(
                f"the stage {stage.name!r} begins with a network that is trained already, and no weights were loaded; load "
                "them into the supernet's network before the first epoch, as monai-prox adopt does"
            )
        if not stage.teacher == former.teacher == "first":  # that one stays
            self.teacher = None
            if stage.teacher in FROZEN and old is not None:
                self.teacher = FrozenTeacher.extract(self.supernet, old, self.calibrate)
        if stage.reorder is not None:
            self.guard.permute(stage.reorder(self.supernet, before))
        if stage.new_weights == "preserving" and old is not None and not self.pretrained:
            initialise_preserving(self.supernet, old, self._spaces[index].largest())
        self.guard.opened = self.guard.updates
        self._enter(index)

    def _enter(self, index: int, *, resumes: bool = False) -> None:
        """Sets everything of a stage but weights. It depends on the index and the closed choices only."""
        self._index = index
        old = self._spaces[index - 1].largest() if index else None
        frozen = frozen_parts(self.supernet, old, self.space.largest(), self.stage.freeze)
        self.guard.freeze(frozen, resumes=resumes)
        start, end = (*self.schedule.starts, self.schedule.epochs)[index : index + 2]
        # The length of the stage in updates is estimated from the epochs before; a warm-up takes at most a quarter of it
        most = self.guard.opened / start * (end - start) / 4 if start else self.stage.warmup
        self.guard.warmup = min(self.stage.warmup, most)

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """The state as plain data and tensors, which load with ``weights_only=True``."""
        return {
            "stage": self._index,
            "updates": self.guard.updates,
            "opened": self.guard.opened,
            "closed": dict(self.closed),
            "pretrained": self.pretrained,
            "teacher": self.teacher and self.teacher.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            ProXError: the state is of another schedule.
        """
        if state["stage"] is not None and not 0 <= state["stage"] < len(self.schedule.stages):
            raise ProXError(f"cannot continue: the checkpoint is of stage {state['stage']} of {len(self.schedule.stages)}")
        self.closed, self.pretrained = dict(state["closed"]), state["pretrained"]
        self.guard.updates, self.guard.opened = state["updates"], state["opened"]
        self._spaces = self._open_spaces()
        self.teacher = self._epoch = self._index = None
        if state["teacher"] is not None:
            self.teacher = FrozenTeacher.from_state(self.supernet, state["teacher"])
        if state["stage"] is not None:
            self._enter(state["stage"], resumes=True)


class _NoticePretrained:
    """A hook that notes that an expansion's network is pretrained if weights are loaded into it before a stage opens.

    Networks are copied and pickled with their hooks. Those of copies and of files do nothing, because they have no expansion.

    Args:
        expansion: the expansion, or None.
    """

    def __init__(self, expansion: Expansion | None) -> None:
        self._expansion = None if expansion is None else weakref.ref(expansion)

    def __call__(self, *_: Any) -> None:
        expansion = None if self._expansion is None else self._expansion()
        if expansion is not None and expansion._index is None:
            expansion.pretrained = True

    def __reduce__(self) -> tuple[type[_NoticePretrained], tuple[None]]:
        return _NoticePretrained, (None,)
