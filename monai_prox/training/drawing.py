"""The members that train in a step. They depend on the stage, the open choices, the seed, the epoch and the step only."""

from __future__ import annotations

import random

from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.training.stage import Role, Stage

# Random members are drawn from a pool. A member that is new in it takes time: its skeleton is built, and cuDNN and oneDNN
# prepare for its shapes. So each stays for some epochs, and in every epoch POOL // STAY places of the pool change.
POOL = 32  # places
STAY = 8  # epochs


def draw_members(
    stage: Stage, space: SearchSpace, *, trial: SearchSpace | None = None, seed: int, epoch: int, step: int
) -> list[Subnet]:
    """The members that train in a step, each once, in the order of the stage's roles.

    Args:
        stage: the stage.
        space: the part of the search space that is open.
        trial: the part without the choice that is on trial, or None. Half of the steps draw from it.
        seed: seed of the training.
        epoch: counts from 0.
        step: number of the step in the epoch, from 0.
    """
    generator = random.Random(f"{seed} {epoch} {step}")
    # Members with and without the choice on trial are equally frequent, because less training loses every comparison
    drawn_from = space if trial is None or generator.random() < 0.5 else trial

    def member(role: Role) -> Subnet:
        if role == "random":
            place = generator.randrange(POOL)
            return drawn_from.sample(random.Random(f"{seed} pool {place} {(epoch + place) // STAY}"))
        return _fixed(role, drawn_from)

    # Turns are shifted by one from epoch to epoch, so that all roles have turns even if an epoch has one or two steps
    roles = [role if isinstance(role, str) else role[(epoch + step) % len(role)] for role in stage.train]
    return list(dict.fromkeys(map(member, roles)))


def fixed_members(stage: Stage, space: SearchSpace, *, trial: SearchSpace | None = None) -> list[Subnet]:
    """The members that steps train over and over, because their roles name them or because no other member is open.

    They stay the same until a stage opens, a choice is closed, or a trial begins or ends.

    Args:
        stage: the stage.
        space: the part of the search space that is open.
        trial: the part without the choice that is on trial, or None.
    """
    roles = [role for turns in stage.train for role in ((turns,) if isinstance(turns, str) else turns)]
    parts = [part for part in (space, trial) if part is not None]
    fixed = (_fixed(role, part) for part in parts for role in roles if role != "random" or part.size() == 1)
    return list(dict.fromkeys(fixed))


def _fixed(role: Role, space: SearchSpace) -> Subnet:
    return space.smallest() if role == "smallest" else space.largest()
