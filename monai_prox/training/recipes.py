"""Recipes: the stages in which a search space is trained, as data.

Sources: ProX, Lim et al., Neurocomputing 2024 (doi 10.1016/j.neucom.2024.127512); Progressive Shrinking, Cai et al., ICLR
2020 (Once-for-all); the sandwich rule and in-place distillation, Yu and Huang, ICCV 2019 (US-Net), and Yu et al., ECCV 2020
(BigNAS).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from monai_prox.comparators.importance import sort_channels_if_possible, sort_channels_of
from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core.family import Family
from monai_prox.core.space import SearchSpace
from monai_prox.core.supernet import SuperNet, WeightTransforms
from monai_prox.errors import ProXError
from monai_prox.training.stage import Role, Schedule, Stage, merged

# The paper's order of expansion. The dimensions of a group open together.
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
GROWTH_STAGES = 3  # of prox at most, so that five epochs can hold all its stages


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
                    reorder=sort_channels_of if {"width", "expansion"} & {*group} else None,
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


def _growth(space: SearchSpace) -> list[tuple[str, dict[str, int]]]:
    """Names and open choices of the short stages of ``prox``: one choice at a time, or one dimension if there are many."""
    groups = [group for group in (_elastic(space, group) for group in EXPANSION) if group]
    one_by_one = [step for group in groups for step in _one_by_one(space, group)]
    if len(one_by_one) <= GROWTH_STAGES:
        return one_by_one
    together = filter(None, (groups[:1], groups[1:2], groups[2:]))
    return [
        (", ".join(group[0] for group in several), {d: space.choice_count(d) for group in several for d in group})
        for several in together
    ]


def prox(space: SearchSpace) -> tuple[Stage, ...]:
    """This package's recipe: the space opens in short stages, then all members are trained.

    The short stages train the smallest and the largest open member. A step trains one member from the labels. Several members
    per step, as in the sandwich rule, cost as much as several steps and learn less, because they share a batch. The largest
    member has every other step of the last stage: it needs them most, and the others are parts of it.

    Args:
        space: the search space.

    >>> from monai_prox import MobileNetFamily
    >>> [stage.name for stage in prox(MobileNetFamily(input_channels=1, num_classes=2).space)]
    ['smallest', 'depth', 'width', 'kernel, resolution', 'everyone']
    """
    stages = [Stage(name="smallest", share=0.25)]
    opened: dict[str, int] = {}
    for name, opens in _growth(space):
        opened = opened | opens
        both: tuple[Role, ...] = ("largest", "smallest")
        stages.append(Stage(name=name, open=opened, share=0.10, train=(both,), new_weights="preserving", warmup=WARMUP))
    everyone: tuple[Role, ...] = ("largest", "random", "largest", "smallest")
    last = Stage(name="everyone", open=opened, share=0.45, train=(everyone,), warmup=WARMUP, monitored=True)
    return (*stages, last) if opened else (stages[0],)


def adopt(space: SearchSpace) -> tuple[Stage, ...]:
    """A trained network becomes the largest member of a family.

    Its channels are put in the order of their importance, where they can be sorted, so that narrower members begin with those
    that matter most. The smallest member is trained first, which costs least and changes the network most. Then all members
    are trained, one in a step and the largest in every other one, so that it finds back to what it was. All learn from the
    labels: with a frozen copy of the given network as a teacher beside them, the same work is fewer steps, of which small
    members need many.

    The weights have to be loaded into the supernet's network before the first epoch.

    Args:
        space: the search space.

    >>> from monai_prox import MobileNetFamily
    >>> [stage.name for stage in adopt(MobileNetFamily(input_channels=1, num_classes=2).space)]
    ['smallest', 'everyone']
    """
    opened = {dimension: space.choice_count(dimension) for dimension in space.dimensions}
    if space.size() == 1:
        return (Stage(name="largest", new_weights="given"),)
    first = Stage(name="smallest", new_weights="given", warmup=WARMUP, reorder=sort_channels_if_possible)
    everyone: tuple[Role, ...] = ("largest", "random", "largest", "smallest")
    return first, Stage(name="everyone", open=opened, train=(everyone,), new_weights="given", warmup=WARMUP, monitored=True)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a supernet is trained.

    Args:
        stages: makes the stages for a search space.
        kernel_transforms: makes learned transforms for a family, which make smaller kernels from larger ones. None means that
            smaller kernels are the centres of larger ones.
    """

    stages: Callable[[SearchSpace], tuple[Stage, ...]]
    kernel_transforms: Callable[[Family], WeightTransforms] | None = None

    def supernet(self, family: Family, network: nn.Module | None = None) -> SuperNet:
        """A supernet as this recipe trains it.

        Args:
            family: the family.
            network: the family's largest stock network. None means a new network.
        """
        transforms = self.kernel_transforms and self.kernel_transforms(family)
        return SuperNet(family, network, kernel_transforms=transforms)


RECIPES: Mapping[str, Recipe] = {
    "prox": Recipe(stages=prox),
    "prox_paper": Recipe(stages=prox_paper),
    "progressive_shrinking": Recipe(stages=progressive_shrinking, kernel_transforms=kernel_transforms_of),
    "sandwich": Recipe(stages=sandwich),
    "adopt": Recipe(stages=adopt),
}


def find_recipe(name: Any) -> Recipe:
    """The recipe of a name.

    Args:
        name: "prox", "prox_paper", "progressive_shrinking", "sandwich" or "adopt".

    Raises:
        ProXError: the name is unknown.

    >>> find_recipe("prox").kernel_transforms is None
    True
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise ProXError(f"the recipe {name!r:.80} is not known; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def make_schedule(recipe: str, space: SearchSpace, epochs: int) -> Schedule:
    """The stages of a recipe with their epochs. If there are fewer epochs than stages, the first stages are merged.

    Args:
        recipe: name of the recipe, see ``find_recipe``.
        space: the search space.
        epochs: number of epochs.

    Raises:
        ProXError: the name is unknown, or there is no epoch.

    >>> from monai_prox import MobileNetFamily
    >>> make_schedule("prox", MobileNetFamily(input_channels=1, num_classes=2).space, epochs=100).starts
    (0, 25, 35, 45, 55)
    """
    stages = find_recipe(recipe).stages(space)
    if not isinstance(epochs, int) or epochs < 1:
        raise ProXError(f"the number of epochs is {epochs!r:.80}; it must be a whole number, at least 1")
    kept = merged(stages, epochs)
    if len(kept) < len(stages):
        logging.getLogger(__name__).warning(
            f"{recipe} has {len(stages)} stages, more than epochs, {epochs}: the first {len(stages) - len(kept) + 1} are "
            f"merged into {kept[0].name!r}"
        )
    return Schedule(kept, epochs)
