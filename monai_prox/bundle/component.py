"""One component of a configuration for the supernet and all that trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_prox.core.family import Family
from monai_prox.core.named_members import named_members
from monai_prox.core.network import largest
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.training.calibrated_members import CalibratedMembers
from monai_prox.training.engine import Engine
from monai_prox.training.monitor import Monitor
from monai_prox.training.recipes import find_recipe, make_schedule

MONITORED = ("threshold", "patience")


class ProX:
    """A family's supernet, the engine that trains it by a recipe, the monitor, and the members that are validated.

    Args:
        family: of the supernet.
        recipe, epochs: the recipe's stages are laid over so many epochs.
        loss: (outputs, target) -> scalar, the task's.
        size: input voxels per axis, (x, y, z) or (rows, columns), for which the work of members is counted.
        seed: of the members that are drawn.
        network: the family's largest network, which holds all weights; a fresh one if None. It is moved to ``device``.
        monitor: True, or an object with ``threshold`` and ``patience``, see ``Monitor``; False or None closes no choice.
        calibrated: makes the CalibratedMembers of the supernet, for families whose norms keep statistics.

    Raises:
        ProXError: for an unknown recipe, fewer epochs than it has stages, and a monitor of other entries.
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
        calibrated: Callable[[SuperNet], CalibratedMembers] | None = None,
    ) -> None:
        self.schedule = make_schedule(recipe, family.space, epochs)
        self.network = (largest(family) if network is None else network).to(device)
        self.supernet = find_recipe(recipe).supernet(family, self.network)
        self.calibrated = None if calibrated is None else calibrated(self.supernet)
        self.engine = Engine(
            self.supernet,
            self.schedule,
            loss,
            seed=seed,
            calibrate=None if self.calibrated is None else self.calibrated.calibrate,
            monitor=_monitor(monitor, family, size),
        )
        self.members = named_members(family, size)

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that the optimizer has to hold."""
        return self.supernet.parameters()


def _monitor(asked: Any, family: Family, size: Sequence[int]) -> Monitor | None:
    if asked is None or asked is False:
        return None
    asked = {} if asked is True else asked
    if not isinstance(asked, Mapping) or not set(asked) <= set(MONITORED):
        raise ProXError(f"monitor is {asked!r:.120}; it is True, False, or may have {' and '.join(MONITORED)}")
    return Monitor(family, size, **asked)
