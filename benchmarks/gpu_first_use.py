"""What a member adds to a training that meets it for the first time, and how many of those an epoch has."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from benchmarks.gpu_steps import run_steps, summary, training_only
from benchmarks.gpu_task import SyntheticTask
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.training.drawing import STAY, fixed_members
from monai_prox.training.engine import Engine

SKELETONS = 32  # random members that are drawn to be measured, as many as a training's pool has
LATER = 2  # steps of a member that its first one is compared with
DRAWN = 96  # steps of an epoch in STAY of which nearly all of the pool have a turn


def skeletons(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """The first step of random members, one after the other, and their later steps, by ProXTrainer.

    In the first step the member's stock network is built without weights. ``build_seconds`` has that alone, on the host. On a
    GPU cuDNN chooses a kernel for each shape that it has not met, so the first of all members take longest, provided that the
    process has trained no other member before.
    """
    end = time.perf_counter() + seconds
    space = task.family.space
    known = (space.smallest(), space.largest())  # the stages before have trained them
    drawn = dict.fromkeys(space.sample(random.Random(number)) for number in range(SKELETONS))
    members = [member for member in drawn if member not in known]
    trainer = task.trainer(ProXTrainer, prox={"recipe": "prox", "monitor": False})
    epoch = trainer.engine.schedule.starts[-1]  # of the stage in which all members are open

    def steps(member: Subnet) -> list[float]:
        with training_only(trainer, member):
            return run_steps(trainer, task.batches, epoch, turns=1, most=1 + LATER, until=math.inf)

    for member in known:
        steps(member)
    times: list[list[float]] = []
    while len(times) < 2 or (len(times) < len(members) and time.perf_counter() < end):
        times.append(steps(members[len(times)]))
    return {
        "build_seconds": summary(_build(task, members)),
        "first_step_seconds": summary([first for first, *_ in times]),
        "later_step_seconds": summary([step for _, *later in times for step in later]),
        "extra_seconds": [float(f"{first - sum(later) / LATER:.4g}") for first, *later in times],  # in the members' order
    }


def _build(task: SyntheticTask, members: Sequence[Subnet]) -> list[float]:
    """Seconds in which each member's stock network is built."""
    family = task.family
    with torch.device("meta"):
        network = family.build(family.space.largest(), initialise=False)
    supernet, times = SuperNet(family, network), []
    for member in members:
        start = time.perf_counter()
        supernet.shapes(member)
        times.append(time.perf_counter() - start)
    return times


def members_of_epoch(engine: Engine, epoch: int, steps: int) -> dict[str, float]:
    """How many different members an epoch of the engine's stage trains, and how many of them it meets for the first time.

    The latter is the mean of STAY epochs, in which each place of the pool changes once, after as many epochs. The epoch before
    alone would not do, because it leaves out some of the pool by chance.

    If each epoch drew from a pool of its own, all random members would be new.
    """

    def drawn(epochs: Iterable[int], steps: int) -> set[Subnet]:
        return {member for e in epochs for step in range(steps) for member in engine.members(e, step)}

    trained = drawn([epoch], steps)
    before, later = (drawn(range(start, start + STAY), min(steps, DRAWN)) for start in (epoch, epoch + STAY))
    return {
        "members_per_epoch": len(trained),
        "new_members_per_epoch": len(later - before) / STAY,
        "random_members_per_epoch": len(trained.difference(fixed_members(engine.stage, engine.space))),
    }
