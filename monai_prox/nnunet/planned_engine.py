"""The engine of a training by an nnU-Net plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from monai_prox.core.supernet import SuperNet
from monai_prox.trained.nnunet_plans import monitor_of, recipe_of
from monai_prox.training.engine import Engine
from monai_prox.training.monitor import Monitor
from monai_prox.training.recipes import make_schedule


class Settings(Protocol):
    """A trainer's own settings, or those of its class, which count for what a plan does not say."""

    recipe: str
    seed: int
    monitored: bool
    monitor_threshold: float
    monitor_patience: int


def engine_of(
    settings: Settings,
    supernet: SuperNet,
    configuration: Mapping[str, Any],
    epochs: int,
    loss: Any,
    *,
    exclusive: bool,
) -> Engine:
    """The engine with the recipe and the monitor that a plan's configuration asks for, or else the trainer's settings.

    Args:
        settings: the trainer or its class.
        supernet: the supernet.
        configuration: the configuration with what it inherits.
        epochs: number of epochs of the training.
        loss: the loss.
        exclusive: whether a voxel has one class.

    Raises:
        ProXError: an entry of the configuration is wrong, or the recipe's stages need more epochs.
    """
    schedule = make_schedule(recipe_of(configuration, settings.recipe), supernet.family.space, epochs)
    monitor = monitor_of(
        configuration,
        monitored=settings.monitored,
        threshold=settings.monitor_threshold,
        patience=settings.monitor_patience,
    )
    return Engine(
        supernet,
        schedule,
        loss,
        seed=settings.seed,
        exclusive=exclusive,
        monitor=None if monitor is None else Monitor(supernet.family, configuration["patch_size"], **monitor),
    )
