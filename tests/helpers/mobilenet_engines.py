"""Engines on a small MobileNetV3."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from monai_prox.core.space import Subnet
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.families.mobilenet_choices import MobileNetChoices
from monai_prox.training.calibrate import calibrate
from monai_prox.training.engine import Engine
from monai_prox.training.recipes import RECIPES
from monai_prox.training.stage import Schedule

CHOICES = MobileNetChoices(depth=(1, 2), expansion=(3, 4), kernel=(3, 5), width=(0.5, 1.0), resolution=(32, 64))


def images(seed: int, count: int = 6) -> Tensor:
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


def engine_of(recipe: str, *, weights: int = 0, calibrated: list[Subnet] | None = None, **settings: Any) -> Engine:
    torch.manual_seed(weights)
    family = MobileNetFamily(input_channels=1, num_classes=3, choices=CHOICES)
    supernet = RECIPES[recipe].supernet(family)

    def own_statistics(network: nn.Module, subnet: Subnet) -> None:
        if calibrated is not None:
            calibrated.append(subnet)
        calibrate(network, images(99), lambda x: family.run(network, x, subnet))

    schedule = Schedule(RECIPES[recipe].stages(family.space), len(RECIPES[recipe].stages(family.space)))
    engine = Engine(supernet, schedule, F.cross_entropy, seed=0, **{"calibrate": own_statistics} | settings)
    if recipe == "adopt":
        supernet.network.load_state_dict(supernet.network.state_dict())  # as if trained already
    return engine


def train(engine: Engine, optimizer: AdamW, epochs: range) -> None:
    """One step per epoch."""
    for epoch in epochs:
        engine.begin_epoch(epoch)
        torch.manual_seed(epoch)  # of the dropout
        optimizer.zero_grad(set_to_none=True)
        engine.step(images(epoch, 3), torch.tensor([0, 1, 2]), epoch=epoch, step=0)
        optimizer.step()


def optimizer_of(engine: Engine) -> AdamW:
    optimizer = AdamW(engine.supernet.parameters(), 1e-3)
    engine.guard(optimizer)
    return optimizer
