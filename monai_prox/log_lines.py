"""Lines that both hosts write into their logs: a training's stages, its processes, and what its monitor closes."""

from __future__ import annotations

from monai_prox.core import cost
from monai_prox.core.distributed import world_size
from monai_prox.core.space import Subnet
from monai_prox.report import count
from monai_prox.training.engine import Engine


def processes_line(continuation: str) -> str:
    """A line about a training in several processes.

    Args:
        continuation: how to continue the training, after "The same command with".
    """
    return f"{world_size()} processes train together: if one ends, all do. The same command with {continuation}."


def schedule_lines(engine: Engine, recipe: str) -> list[str]:
    """Lines about a training that begins: the search space, and the epochs in which the stages open.

    Args:
        engine: the engine of the training.
        recipe: name of the recipe.
    """
    space, schedule = engine.supernet.family.space, engine.schedule
    stages = [f"{stage.name} from epoch {start}" for stage, start in zip(schedule.stages, schedule.starts, strict=True)]
    return [
        f"Search space, {space.size():,} members: {space}",
        f"Recipe {recipe}: " + ", ".join(stages),
        f"ProX schedule: {schedule.epochs} epochs",
    ]


def stage_line(engine: Engine) -> str:
    """A line about the stage that has opened.

    Args:
        engine: the engine of the training.
    """
    stage, space = engine.stage, engine.space
    return (
        f"ProX stage {stage.name!r} opens: {space.size():,} of {engine.supernet.family.space.size():,} members, "
        f"training {stage.trained}, teacher {stage.teacher}. Open: {space}"
    )


def closing_line(engine: Engine, dimension: str, former_largest: Subnet) -> str:
    """A line about a choice that the monitor has closed.

    Args:
        engine: the engine of the training.
        dimension: the dimension of the choice.
        former_largest: the largest open member before.
    """
    assert engine.monitor is not None
    space, family, size = engine.space, engine.supernet.family, engine.monitor.size
    macs = [count(cost.macs(family, largest, size)) for largest in (space.largest(), former_largest)]
    return (
        f"ProX closes the last choice of {dimension}: {space.size():,} of {family.space.size():,} members stay open, "
        f"the largest has {macs[0]} MACs per input, it had {macs[1]}. Open: {space}"
    )
