"""nnU-Net's loss, for members of any number of levels."""

from __future__ import annotations

import numpy as np
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn


class AnyLevelsLoss(nn.Module):
    """nnU-Net's deep supervision loss, also for members with fewer levels than there are targets.

    Such a member gets the weights that nnU-Net would give a network of its own number of levels. A single output has the weight
    1, also if nnU-Net's own weights of a plan of two levels are 0/0.

    Args:
        loss: nnU-Net's loss.
    """

    def __init__(self, loss: DeepSupervisionWrapper) -> None:
        super().__init__()
        self.deep_supervision = loss

    def forward(self, outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
        """The loss, a scalar.

        Args:
            outputs: (B, C, *spatial) per level, the finest first.
            targets: (B, C, *spatial) per level, the finest first.
        """
        count = len(outputs)
        if count == len(targets) > 1:
            value: Tensor = self.deep_supervision(outputs, targets)
            return value
        factors = np.array([0.5**level for level in range(count)])
        if count > 1:
            factors[-1] = self.deep_supervision.weight_factors[-1]  # 0, but a little under DistributedDataParallel
        value = DeepSupervisionWrapper(self.deep_supervision.loss, factors / factors.sum())(outputs, targets[:count])
        return value
