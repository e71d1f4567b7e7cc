"""One component of a configuration for a supernet, its engine, its monitor and its members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_prox.bundle.loss import takes_sigmoid
from monai_prox.core.family import Family
from monai_prox.core.named_members import named_members
from monai_prox.core.network import largest
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.training.calibrated_members import CalibratedMembers
from monai_prox.training.engine import Engine
from monai_prox.training.monitor import Monitor
from monai_prox.training.recipes import find_recipe, make_schedule

MONITOR_SETTINGS = ("threshold", "patience")


class ProX:
    """The supernet of a family, the engine that trains it by a recipe, the monitor, and the members that are validated.

    Args:
        family: the family.
        recipe: name of the recipe.
        epochs: number of epochs.
        loss: (outputs, target) -> scalar, the loss of the task.
        size: voxels per axis of an input, (x, y, z) or (rows, columns), for which MACs are counted.
        seed: seed of the members that are drawn.
        network: the family's largest network, which has all weights. None means a new network.
        device: the device to which the network is moved.
        monitor: True, or an object with ``threshold`` and ``patience``, see ``Monitor``. False or None means that no choice is
            closed.
        exclusive: whether a voxel has one class (softmax). None means that the loss tells: not if it takes the sigmoid.
        calibrated: makes the CalibratedMembers of the supernet. Families whose norms keep statistics need it.

    Raises:
        ProXError: the recipe is unknown, has more stages than there are epochs, or ``monitor`` has other entries.

    >>> from monai_prox import MobileNetFamily
    >>> prox = ProX(MobileNetFamily(input_channels=1, num_classes=2), epochs=5, loss=nn.CrossEntropyLoss(), size=(224, 224))
    >>> list(prox.members), prox.engine.final_space.size() == prox.supernet.family.space.size()
    (['smallest', 'small', 'middle', 'large', 'largest'], True)
    """

    def __init__(
        self,
        family: Family,
        *,
        recipe: str = "prox",
        epochs: int,
        loss: Callable[[Any, Any], Tensor],
        size: Sequence[int],
        seed: int = 0,
        network: nn.Module | None = None,
        device: str | torch.device = "cpu",
        monitor: bool | Mapping[str, Any] | None = True,
        exclusive: bool | None = None,
        calibrated: Callable[[SuperNet], CalibratedMembers] | None = None,
    ) -> None:
        self.network = (largest(family) if network is None else network).to(device)
        self.supernet = find_recipe(recipe).supernet(family, self.network)
        self.calibrated = None if calibrated is None else calibrated(self.supernet)
        self.engine = Engine(
            self.supernet,
            make_schedule(recipe, family.space, epochs),
            loss,
            seed=seed,
            calibrate=None if self.calibrated is None else self.calibrated.calibrate,
            monitor=_monitor(monitor, family, size),
            exclusive=not takes_sigmoid(loss) if exclusive is None else exclusive,
        )
        self.members = named_members(family, size)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the optimizer has to have."""
        return self.supernet.parameters()


def _monitor(settings: Any, family: Family, size: Sequence[int]) -> Monitor | None:
    if settings is None or settings is False:
        return None
    settings = {} if settings is True else settings
    if not isinstance(settings, Mapping) or not set(settings) <= set(MONITOR_SETTINGS):
        raise ProXError(f"monitor is {settings!r:.120}; it is True, False, or may have {' and '.join(MONITOR_SETTINGS)}")
    return Monitor(family, size, **settings)
