"""Recipes: what opens when, as data. The stage of an epoch is a pure function of the epoch.

Sources: ProX, Lim et al., Neurocomputing 2024 (doi 10.1016/j.neucom.2024.127512); the sandwich rule and in-place
distillation, Yu and Huang, ICCV 2019 (US-Net), and Yu et al., ECCV 2020 (BigNAS).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from monai_prox.errors import ProXError
from monai_prox.space import SearchSpace

# The paper's order of expansion. What stands in one group opens together.
EXPANSION = (("depth", "decoder_depth"), ("width",), ("kernel",), ("resolution",), ("levels",))

Role = Literal["largest", "smallest", "random"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A span of epochs with the same open choices.

    name: what opens, for logs and plots.
    open: number of open choices by dimension, from the smallest; dimensions not named keep their smallest.
    share: of the epochs, relative to the other stages' shares.
    train: the members of a training step, in this order; several accumulate their gradients.
    teacher: "none"; "previous", a frozen copy of the largest member of the stage before; or "largest", the largest member
        of the same step (in-place distillation), which then has to be the first of ``train``.
    distance: between the student's and the teacher's logits, "mse" or "kl" (of the class probabilities).
    distillation: weight w of the teacher in the loss (1 - w) task + w distance.
    birth: of the weights that open: "random", as initialised, or "preserving", so that the first step computes what the
        stage before did, up to the norm of a new block.
    freeze: "none", or "grown": of a tensor that grew only the new part is trained, and of a U-Net stage that got deeper only
        the new blocks.
    """

    name: str
    open: Mapping[str, int] = field(default_factory=dict)
    share: float = 1.0
    train: tuple[Role, ...] = ("random",)
    teacher: Literal["none", "previous", "largest"] = "none"
    distance: Literal["mse", "kl"] = "mse"
    distillation: float = 0.5
    birth: Literal["random", "preserving"] = "random"
    freeze: Literal["none", "grown"] = "none"

    def __post_init__(self) -> None:
        allowed = {
            "teacher": ("none", "previous", "largest"),
            "distance": ("mse", "kl"),
            "birth": ("random", "preserving"),
            "freeze": ("none", "grown"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ProXError(f"stage {self.name!r}: {name} is {getattr(self, name)!r}; allowed: {', '.join(values)}")
        if not self.train or not set(self.train) <= {"largest", "smallest", "random"}:
            raise ProXError(f"stage {self.name!r}: train is {self.train}; allowed: largest, smallest, random")
        if self.teacher == "largest" and self.train[0] != "largest":
            raise ProXError(f"stage {self.name!r}: the teacher is the largest, so train must begin with it")
        if not self.share > 0 or not 0 <= self.distillation <= 1:
            raise ProXError(f"stage {self.name!r}: share must be positive and distillation within 0 and 1")

    def space(self, whole: SearchSpace) -> SearchSpace:
        """The part of ``whole`` that is open."""
        return whole.restrict(self.open)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Schedule:
    """Stages laid over epochs: every stage has at least one, and together they cover ``range(epochs)`` exactly.

    Raises ProXError if there are fewer epochs than stages.
    """

    stages: tuple[Stage, ...]
    epochs: int

    def __post_init__(self) -> None:
        if not self.stages or not isinstance(self.epochs, int) or self.epochs < len(self.stages):
            raise ProXError(f"a recipe of {len(self.stages)} stages needs at least as many epochs, got {self.epochs}")

    @property
    def starts(self) -> tuple[int, ...]:
        """First epoch of each stage."""
        total = sum(stage.share for stage in self.stages)
        starts, cumulated = [0], 0.0
        for index, stage in enumerate(self.stages[:-1], start=1):
            cumulated += stage.share
            latest = self.epochs - (len(self.stages) - index)
            starts.append(min(max(round(self.epochs * cumulated / total), starts[-1] + 1), latest))
        return tuple(starts)

    def index(self, epoch: int) -> int:
        """The stage of ``epoch``; epochs past the end belong to the last stage."""
        return sum(start <= epoch for start in self.starts) - 1

    def is_last_of_stage(self, epoch: int) -> bool:
        return epoch == self.epochs - 1 or self.index(epoch) != self.index(epoch + 1)


def _elastic_groups(space: SearchSpace) -> list[tuple[str, ...]]:
    groups = [tuple(d for d in group if d in space.dimensions and space.choice_count(d) > 1) for group in EXPANSION]
    return [group for group in groups if group]


def prox_paper(space: SearchSpace) -> tuple[Stage, ...]:
    """ProX as published: one choice at a time, equal shares, the previous stage's largest as teacher."""
    stages = [Stage(name="smallest")]
    opened: dict[str, int] = {}
    for group in _elastic_groups(space):
        for count in range(2, max(space.choice_count(d) for d in group) + 1):
            opened = opened | {d: min(count, space.choice_count(d)) for d in group}
            name = f"{group[0]} {count}" if count > 2 else group[0]
            freeze: Literal["none", "grown"] = "grown" if group[0] in ("depth", "kernel") else "none"
            stages.append(Stage(name=name, open=opened, teacher="previous", freeze=freeze))
    return tuple(stages)


def prox(space: SearchSpace) -> tuple[Stage, ...]:
    """Ours: a short, cheap growth, then the sandwich rule with in-place distillation for everyone."""
    stages = [Stage(name="smallest", share=0.10)]
    opened: dict[str, int] = {}
    groups = _elastic_groups(space)
    together = [groups[:1], groups[1:2], groups[2:]]  # five stages at most, so that five epochs can hold them
    for several in filter(None, together):
        opened = opened | {d: space.choice_count(d) for group in several for d in group}
        name = ", ".join(group[0] for group in several)
        stages.append(Stage(name=name, open=opened, share=0.08, birth="preserving"))
    sandwich = Stage(
        name="sandwich",
        open=opened,
        share=0.65,
        train=("largest", "smallest", "random"),
        teacher="largest",
        distance="kl",
    )
    return (*stages, sandwich) if opened else (Stage(name="smallest"),)


RECIPES: Mapping[str, Callable[[SearchSpace], tuple[Stage, ...]]] = {"prox": prox, "prox_paper": prox_paper}


def make_schedule(recipe: str, space: SearchSpace, epochs: int) -> Schedule:
    """The stages of a recipe by its name, laid over ``epochs``. Raises ProXError for an unknown name."""
    if recipe not in RECIPES:
        raise ProXError(f"the recipe {recipe!r} is not known; known: {', '.join(RECIPES)}")
    return Schedule(RECIPES[recipe](space), epochs)
