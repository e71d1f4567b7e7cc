"""Which members train in a step: a function of the stage, of what is open, and of the seed, the epoch and the step."""

from __future__ import annotations

import random

from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.training.stage import Role, Stage

POOL = 32  # random members of an epoch and space: each needs a skeleton built once, and so does each shape in cuDNN and oneDNN


def draw_members(
    stage: Stage, space: SearchSpace, *, trial: SearchSpace | None = None, seed: int, epoch: int, step: int
) -> list[Subnet]:
    """The members of a step, each once, in the order of the stage's roles.

    space: what is open. trial: what is open without the choice that is on trial, from which half of the steps draw.
    """
    generator = random.Random(f"{seed} {epoch} {step}")
    # As often with what is on trial as without, for members that train less lose every comparison
    drawn_from = space if trial is None or generator.random() < 0.5 else trial

    def member(role: Role) -> Subnet:
        if role == "random":
            return drawn_from.sample(random.Random(f"{seed} {epoch} pool {generator.randrange(POOL)}"))
        return drawn_from.largest() if role == "largest" else drawn_from.smallest()

    # An epoch begins one turn further on than the one before, so that all have their turns in epochs of a step or two
    roles = [role if isinstance(role, str) else role[(epoch + step) % len(role)] for role in stage.train]
    return list(dict.fromkeys(map(member, roles)))
