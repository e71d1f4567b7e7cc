"""Stages of a training as data. The stage of an epoch is a function of the epoch only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from torch import nn

from monai_prox.core.slicing import Permutations
from monai_prox.core.space import SearchSpace
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError

Role = Literal["largest", "smallest", "random"]
Reorder = Callable[[SuperNet, SearchSpace | None], Mapping[nn.Parameter, Permutations]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A range of epochs with the same open choices.

    Args:
        name: name of the stage, for logs and plots.
        open: number of open choices by dimension, counted from ``start``. Dimensions that are not named keep one choice.
        start: the member that is trained first, "smallest" or "largest".
        share: part of the epochs, relative to the shares of the other stages.
        train: the members of a training step, in this order. Several members accumulate their gradients. A tuple takes turns
            from step to step, and its turns are shifted by one from epoch to epoch.
        teacher: "none"; "previous", a frozen copy of the largest member of the previous stage; "first", such a copy that stays
            in all following stages with "first"; or "largest", the largest member of the same step (in-place distillation),
            which has to be the first of ``train``.
        distance: between the logits of student and teacher, "mse", or "kl" of the class probabilities.
        distillation: weight w of the teacher in the loss (1 - w) task + w distance.
        new_weights: how weights that open are initialised: "random", as in a new network; "preserving", so that the first step
            computes the same as the previous stage, except for the norm of a new block; or "given", as they were loaded before
            the training, which has to be.
        warmup: number of updates over which the learning rate rises from 0, at most a quarter of the stage's.
        reorder: puts the channels in another order when the stage opens, for example by their importance. It gets the supernet
            and the search space of the previous stage, None for the first stage. It returns the permutations of the parameters
            that it has permuted. The states of the optimizers are permuted likewise.
        freeze: "none", or "grown": only the new part of a tensor that grew is trained, and only the new blocks of a U-Net stage
            that got deeper.
        monitored: whether choices that are not worth their cost are closed, see ``monai_prox.training.monitor``. While a choice
            is on trial, half of the steps train members without it.

    Raises:
        ProXError: a value is not allowed.
    """

    name: str
    open: Mapping[str, int] = field(default_factory=dict)
    start: Literal["smallest", "largest"] = "smallest"
    share: float = 1.0
    train: tuple[Role | tuple[Role, ...], ...] = ("random",)
    teacher: Literal["none", "previous", "first", "largest"] = "none"
    distance: Literal["mse", "kl"] = "mse"
    distillation: float = 0.5
    new_weights: Literal["random", "preserving", "given"] = "random"
    warmup: int = 0
    reorder: Reorder | None = None
    freeze: Literal["none", "grown"] = "none"
    monitored: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "start": ("smallest", "largest"),
            "teacher": ("none", "previous", "first", "largest"),
            "distance": ("mse", "kl"),
            "new_weights": ("random", "preserving", "given"),
            "freeze": ("none", "grown"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ProXError(f"stage {self.name!r}: {name} is {getattr(self, name)!r}; allowed: {', '.join(values)}")
        turns = [role if isinstance(role, tuple) else (role,) for role in self.train]
        if not turns or not all(roles and set(roles) <= {"largest", "smallest", "random"} for roles in turns):
            raise ProXError(f"stage {self.name!r}: train is {self.train}; allowed: largest, smallest, random")
        if self.teacher == "largest" and self.train[0] != "largest":
            raise ProXError(f"stage {self.name!r}: the teacher is the largest, so train must begin with it")
        if self.monitored and self.start == "largest":
            raise ProXError(f"stage {self.name!r}: it starts with the largest, so the last choices cannot be closed")
        if not self.share > 0 or not 0 <= self.distillation <= 1 or self.warmup < 0:
            raise ProXError(
                f"stage {self.name!r}: share must be positive, distillation within 0 and 1, and warmup not negative"
            )

    @property
    def trained(self) -> str:
        """The members of a training step in words, for logs."""
        return " + ".join(role if isinstance(role, str) else " or ".join(role) for role in self.train)

    def space(self, whole: SearchSpace) -> SearchSpace:
        """The part of a search space that is open.

        Args:
            whole: the search space.
        """
        return whole.restrict(self.open, start=self.start)

    def to_json(self) -> dict[str, Any]:
        """The stage as plain data. ``sort_channels`` is whether there is a ``reorder``."""
        data = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "reorder"}
        return data | {"open": dict(self.open), "sort_channels": self.reorder is not None}


def merged(stages: Sequence[Stage], epochs: int) -> tuple[Stage, ...]:
    """The stages of a training with fewer epochs than stages: the first ones are one, in which all that they open is open.

    Args:
        stages: the stages of a recipe.
        epochs: number of epochs, at least 1.

    Returns:
        At most as many stages as epochs.

    >>> [stage.name for stage in merged([Stage(name="smallest"), Stage(name="depth"), Stage(name="everyone")], epochs=2)]
    ['depth', 'everyone']
    """
    surplus = len(stages) - epochs
    if surplus <= 0:
        return tuple(stages)
    first, before = stages[surplus], stages[:surplus]
    return (
        replace(
            first,
            share=sum(stage.share for stage in (*before, first)),
            reorder=next((stage.reorder for stage in (first, *before) if stage.reorder is not None), None),
            # There is no stage before that could have left another
            teacher="largest" if first.teacher == "largest" else "none",
            new_weights="given" if first.new_weights == "given" else "random",
            freeze="none",
        ),
        *stages[surplus + 1 :],
    )


@dataclass(frozen=True)
class Schedule:
    """Stages with their epochs. Every stage has at least one epoch, and together they cover ``range(epochs)``.

    Args:
        stages: the stages in their order.
        epochs: number of epochs.

    Raises:
        ProXError: there are fewer epochs than stages.

    >>> Schedule((Stage(name="smallest"), Stage(name="depth", share=3.0)), epochs=8).starts
    (0, 2)
    """

    stages: tuple[Stage, ...]
    epochs: int

    def __post_init__(self) -> None:
        if not self.stages or not isinstance(self.epochs, int) or self.epochs < len(self.stages):
            raise ProXError(f"a recipe of {len(self.stages)} stages needs at least as many epochs, got {self.epochs}")

    @property
    def starts(self) -> tuple[int, ...]:
        """The first epoch of each stage."""
        total = sum(stage.share for stage in self.stages)
        starts, cumulated = [0], 0.0
        for index, stage in enumerate(self.stages[:-1], start=1):
            cumulated += stage.share
            latest = self.epochs - (len(self.stages) - index)
            starts.append(min(max(round(self.epochs * cumulated / total), starts[-1] + 1), latest))
        return tuple(starts)

    def to_json(self) -> tuple[dict[str, Any], ...]:
        """The stages, each with its first epoch."""
        return tuple(s.to_json() | {"first_epoch": start} for s, start in zip(self.stages, self.starts, strict=True))

    def index(self, epoch: int) -> int:
        """The index of the stage of an epoch.

        Args:
            epoch: counts from 0. Epochs after the end belong to the last stage.
        """
        return sum(start <= epoch for start in self.starts) - 1

    def is_last_of_stage(self, epoch: int) -> bool:
        """Whether an epoch is the last one of its stage.

        Args:
            epoch: counts from 0.
        """
        return epoch == self.epochs - 1 or self.index(epoch) != self.index(epoch + 1)

    def is_due(self, epoch: int, interval: int) -> bool:
        """Whether an action that is repeated follows an epoch.

        Args:
            epoch: counts from 0.
            interval: epochs from one repetition to the next. The action also follows the last epoch of every stage.
        """
        return (epoch + 1) % interval == 0 or self.is_last_of_stage(epoch)
