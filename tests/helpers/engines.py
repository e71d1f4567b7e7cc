"""Engines on small U-Nets."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from helpers.architectures import FLAT, randomise_norms, segmentation_loss, unet_family
from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core.space import SearchSpace
from monai_prox.core.supernet import SuperNet
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.training.engine import Engine
from monai_prox.training.monitor import Monitor
from monai_prox.training.stage import Schedule, Stage

Recipe = Callable[[SearchSpace], tuple[Stage, ...]]


def engine_of(
    recipe: Recipe | tuple[Stage, ...],
    epochs: int | None = None,
    *,
    seed: int = 0,
    weights: int = 0,
    choices: UNetChoices = FLAT,
    deep_supervision: bool = True,
    dropout: float = 0.0,
    kernel_transforms: bool = False,
    monitor: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Engine:
    """An engine on a small U-Net whose initial weights are a function of ``weights``. monitor: its settings, if any."""
    torch.manual_seed(weights)
    family = unet_family(choices=choices, features=(4, 8, 8), dropout=dropout)
    supernet = SuperNet(family, kernel_transforms=kernel_transforms_of(family) if kernel_transforms else None)
    randomise_norms(supernet.network)
    supernet.network.decoder.deep_supervision = deep_supervision
    stages = recipe if isinstance(recipe, tuple) else recipe(supernet.family.space)
    schedule = Schedule(stages, epochs or len(stages))
    if monitor is not None:
        settings["monitor"] = Monitor(family, (16, 16), **monitor)
    return Engine(supernet, schedule, segmentation_loss, seed=seed, **settings)
