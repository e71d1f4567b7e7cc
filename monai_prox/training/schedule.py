"""Recipes: which choices open when, as data. The stage of an epoch is a function of the epoch only.

Sources: ProX, Lim et al., Neurocomputing 2024 (doi 10.1016/j.neucom.2024.127512); Progressive Shrinking, Cai et al., ICLR 2020
(Once-for-all); the sandwich rule and in-place distillation, Yu and Huang, ICCV 2019 (US-Net), and Yu et al., ECCV 2020
(BigNAS).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from monai_prox.core.space import SearchSpace
from monai_prox.errors import ProXError

# The paper's order of expansion. What stands in one group opens together.
EXPANSION = (("depth", "decoder_depth"), ("width", "expansion"), ("kernel",), ("resolution",), ("levels",))
# Once-for-all's order of shrinking, and how many members it trains in a step. It knows no levels, which are depth of a kind.
SHRINKAGE = (
    (("resolution",), 1),
    (("kernel",), 1),
    (("depth", "decoder_depth"), 2),
    (("levels",), 2),
    (("width", "expansion"), 4),
)

WARMUP = 40  # updates; as good as 100

Role = Literal["largest", "smallest", "random"]


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
        birth: how weights that open are initialised: "random", as in a new network, or "preserving", so that the first step
            computes the same as the previous stage, except for the norm of a new block.
        warmup: number of updates over which the learning rate rises from 0, at most a quarter of the stage's.
        sort_channels: whether channels are sorted by importance when the stage opens, within the widths that are already open,
            see ``monai_prox.training.importance``.
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
    birth: Literal["random", "preserving"] = "random"
    warmup: int = 0
    sort_channels: bool = False
    freeze: Literal["none", "grown"] = "none"
    monitored: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "start": ("smallest", "largest"),
            "teacher": ("none", "previous", "first", "largest"),
            "distance": ("mse", "kl"),
            "birth": ("random", "preserving"),
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
            raise ProXError(f"stage {self.name!r}: where it starts with the largest, the last choices cannot be closed")
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
        """The stage as plain data."""
        return asdict(self)


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


def _elastic(space: SearchSpace, group: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(d for d in group if d in space.dimensions and space.choice_count(d) > 1)


def _one_by_one(space: SearchSpace, group: tuple[str, ...]) -> list[tuple[str, dict[str, int]]]:
    """Name and open choices of the stages in which the choices of a group open, one after the other."""
    most = max((space.choice_count(d) for d in group), default=1)
    return [
        (f"{group[0]} {count}" if count > 2 else group[0], {d: min(count, space.choice_count(d)) for d in group})
        for count in range(2, most + 1)
    ]


def prox_paper(space: SearchSpace) -> tuple[Stage, ...]:
    """ProX as published: one choice at a time, in equal shares, with the previous stage's largest member as teacher.

    Args:
        space: the search space.

    >>> from monai_prox import MobileNetFamily
    >>> [stage.name for stage in prox_paper(MobileNetFamily(input_channels=1, num_classes=2).space)][:4]
    ['smallest', 'depth', 'depth 3', 'width']
    """
    stages = [Stage(name="smallest")]
    opened: dict[str, int] = {}
    for group in (_elastic(space, group) for group in EXPANSION):
        for name, opens in _one_by_one(space, group):
            opened = opened | opens
            freeze: Literal["none", "grown"] = "grown" if group[0] in ("depth", "decoder_depth", "kernel") else "none"
            stages.append(Stage(name=name, open=opened, teacher="previous", freeze=freeze))
    return tuple(stages)


def progressive_shrinking(space: SearchSpace) -> tuple[Stage, ...]:
    """Once-for-all's training: the largest member first, then one choice less at a time.

    The stages have equal shares, and the largest member is the teacher.

    Args:
        space: the search space.

    >>> from monai_prox import MobileNetFamily
    >>> [stage.name for stage in progressive_shrinking(MobileNetFamily(input_channels=1, num_classes=2).space)][:3]
    ['largest', 'resolution', 'resolution 3']
    """
    stages = [Stage(name="largest", start="largest")]
    opened: dict[str, int] = {}
    for group, members in ((_elastic(space, group), members) for group, members in SHRINKAGE):
        for name, opens in _one_by_one(space, group):
            opened = opened | opens
            train: tuple[Role, ...] = tuple("random" for _ in range(members))
            stages.append(
                Stage(
                    name=name,
                    open=opened,
                    start="largest",
                    train=train,
                    teacher="first",
                    distance="kl",
                    sort_channels="width" in group or "expansion" in group,
                )
            )
    return tuple(stages)


def sandwich(space: SearchSpace) -> tuple[Stage, ...]:
    """The sandwich rule from scratch: the largest member learns from the labels, all others learn from the largest.

    Args:
        space: the search space.

    >>> from monai_prox import MobileNetFamily
    >>> [stage.name for stage in sandwich(MobileNetFamily(input_channels=1, num_classes=2).space)]
    ['sandwich']
    """
    opened = {dimension: space.choice_count(dimension) for dimension in space.dimensions}
    if space.size() == 1:
        return (Stage(name="largest"),)
    train: tuple[Role, ...] = ("largest", "smallest", "random", "random")
    return (Stage(name="sandwich", open=opened, train=train, teacher="largest", distance="kl", distillation=1.0),)


def prox(space: SearchSpace) -> tuple[Stage, ...]:
    """This package's recipe: the space opens in short stages, then all members are trained.

    The short stages train the smallest and the largest open member. A step trains one member from the labels. Several members
    per step, as in the sandwich rule, cost as much as several steps and learn less, because they share a batch.

    Args:
        space: the search space.

    >>> from monai_prox import MobileNetFamily
    >>> [stage.name for stage in prox(MobileNetFamily(input_channels=1, num_classes=2).space)]
    ['smallest', 'depth', 'width', 'kernel, resolution', 'everyone']
    """
    stages = [Stage(name="smallest", share=0.25)]
    opened: dict[str, int] = {}
    groups = [group for group in (_elastic(space, group) for group in EXPANSION) if group]
    together = [groups[:1], groups[1:2], groups[2:]]  # five stages at most, so that five epochs can hold them
    for several in filter(None, together):
        opened = opened | {d: space.choice_count(d) for group in several for d in group}
        name = ", ".join(group[0] for group in several)
        both: tuple[Role, ...] = ("largest", "smallest")
        stages.append(Stage(name=name, open=opened, share=0.10, train=(both,), birth="preserving", warmup=WARMUP))
    everyone: tuple[Role, ...] = ("largest", "random", "smallest", "random")
    last = Stage(name="everyone", open=opened, share=0.45, train=(everyone,), warmup=WARMUP, monitored=True)
    return (*stages, last) if opened else (stages[0],)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe.

    Args:
        stages: makes the stages for a search space.
        kernel_transforms: whether smaller kernels are learned transforms of larger ones.
    """

    stages: Callable[[SearchSpace], tuple[Stage, ...]]
    kernel_transforms: bool = False


RECIPES: Mapping[str, Recipe] = {
    "prox": Recipe(stages=prox),
    "prox_paper": Recipe(stages=prox_paper),
    "progressive_shrinking": Recipe(stages=progressive_shrinking, kernel_transforms=True),
    "sandwich": Recipe(stages=sandwich),
}


def find_recipe(name: Any) -> Recipe:
    """The recipe of a name.

    Args:
        name: one of RECIPES.

    Raises:
        ProXError: the name is unknown.

    >>> find_recipe("prox").kernel_transforms
    False
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise ProXError(f"the recipe {name!r:.80} is not known; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def make_schedule(recipe: str, space: SearchSpace, epochs: int) -> Schedule:
    """The stages of a recipe with their epochs.

    Args:
        recipe: name of the recipe, one of RECIPES.
        space: the search space.
        epochs: number of epochs.

    Raises:
        ProXError: the name is unknown, or there are fewer epochs than stages.

    >>> from monai_prox import MobileNetFamily
    >>> make_schedule("prox", MobileNetFamily(input_channels=1, num_classes=2).space, epochs=100).starts
    (0, 25, 35, 45, 55)
    """
    return Schedule(find_recipe(recipe).stages(space), epochs)
