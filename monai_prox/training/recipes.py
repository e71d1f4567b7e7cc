"""Recipes: the stages of a search space, by name.

Sources: ProX, Lim et al., Neurocomputing 2024 (doi 10.1016/j.neucom.2024.127512); Progressive Shrinking, Cai et al., ICLR
2020 (Once-for-all); the sandwich rule and in-place distillation, Yu and Huang, ICCV 2019 (US-Net), and Yu et al., ECCV 2020
(BigNAS).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from monai_prox.comparators.importance import sort_channels_of
from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core.family import Family
from monai_prox.core.space import SearchSpace
from monai_prox.core.supernet import SuperNet, WeightTransforms
from monai_prox.errors import ProXError
from monai_prox.training.stage import Role, Schedule, Stage

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


def _elastic(space: SearchSpace, group: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(d for d in group if d in space.dimensions and space.choice_count(d) > 1)


def _one_by_one(space: SearchSpace, group: tuple[str, ...]) -> list[tuple[str, dict[str, int]]]:
    """Name and open choices of the stages in which a group's choices open, one at a time."""
    most = max((space.choice_count(d) for d in group), default=1)
    return [
        (f"{group[0]} {count}" if count > 2 else group[0], {d: min(count, space.choice_count(d)) for d in group})
        for count in range(2, most + 1)
    ]


def prox_paper(space: SearchSpace) -> tuple[Stage, ...]:
    """ProX as published: one choice at a time, equal shares, the previous stage's largest as teacher."""
    stages = [Stage(name="smallest")]
    opened: dict[str, int] = {}
    for group in (_elastic(space, group) for group in EXPANSION):
        for name, opens in _one_by_one(space, group):
            opened = opened | opens
            freeze: Literal["none", "grown"] = "grown" if group[0] in ("depth", "decoder_depth", "kernel") else "none"
            stages.append(Stage(name=name, open=opened, teacher="previous", freeze=freeze))
    return tuple(stages)


def progressive_shrinking(space: SearchSpace) -> tuple[Stage, ...]:
    """Once-for-all's training: the largest, then one choice less at a time, in equal shares, with the largest as teacher."""
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
                    reorder=sort_channels_of if {"width", "expansion"} & {*group} else None,
                )
            )
    return tuple(stages)


def sandwich(space: SearchSpace) -> tuple[Stage, ...]:
    """The sandwich rule from scratch: the largest learns from the labels, all others from the largest."""
    opened = {dimension: space.choice_count(dimension) for dimension in space.dimensions}
    if space.size() == 1:
        return (Stage(name="largest"),)
    train: tuple[Role, ...] = ("largest", "smallest", "random", "random")
    return (Stage(name="sandwich", open=opened, train=train, teacher="largest", distance="kl", distillation=1.0),)


def prox(space: SearchSpace) -> tuple[Stage, ...]:
    """Ours: a cheap growth that trains both ends of what is open, then everyone; one member a step, from the labels.

    Several members a step, as in the sandwich rule, cost as much as several steps and learn less: they share a batch.
    """
    stages = [Stage(name="smallest", share=0.25)]
    opened: dict[str, int] = {}
    groups = [group for group in (_elastic(space, group) for group in EXPANSION) if group]
    together = [groups[:1], groups[1:2], groups[2:]]  # five stages at most, so that five epochs can hold them
    for several in filter(None, together):
        opened = opened | {d: space.choice_count(d) for group in several for d in group}
        name = ", ".join(group[0] for group in several)
        both: tuple[Role, ...] = ("largest", "smallest")
        stages.append(Stage(name=name, open=opened, share=0.10, train=(both,), new_weights="preserving", warmup=WARMUP))
    everyone: tuple[Role, ...] = ("largest", "random", "smallest", "random")
    last = Stage(name="everyone", open=opened, share=0.45, train=(everyone,), warmup=WARMUP, monitored=True)
    return (*stages, last) if opened else (stages[0],)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a supernet is trained.

    stages: of a search space.
    kernel_transforms: of a family, learned transforms that make smaller kernels of larger ones; None if smaller kernels are the
        larger ones' centres.
    """

    stages: Callable[[SearchSpace], tuple[Stage, ...]]
    kernel_transforms: Callable[[Family], WeightTransforms] | None = None

    def supernet(self, family: Family, network: nn.Module | None = None) -> SuperNet:
        """A supernet as this recipe trains it. network: the family's largest stock network, a fresh one if None."""
        transforms = self.kernel_transforms and self.kernel_transforms(family)
        return SuperNet(family, network, kernel_transforms=transforms)


RECIPES: Mapping[str, Recipe] = {
    "prox": Recipe(stages=prox),
    "prox_paper": Recipe(stages=prox_paper),
    "progressive_shrinking": Recipe(stages=progressive_shrinking, kernel_transforms=kernel_transforms_of),
    "sandwich": Recipe(stages=sandwich),
}


def find_recipe(name: Any) -> Recipe:
    """Raises ProXError for an unknown name."""
    if not isinstance(name, str) or name not in RECIPES:
        raise ProXError(f"the recipe {name!r:.80} is not known; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def make_schedule(recipe: str, space: SearchSpace, epochs: int) -> Schedule:
    """The stages of a recipe by its name, laid over ``epochs``. Raises ProXError for an unknown name."""
    return Schedule(find_recipe(recipe).stages(space), epochs)
