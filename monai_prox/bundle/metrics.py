"""Metrics that MONAI does not have."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor


class CaseAccuracy(CumulativeIterationMetric):  # type: ignore[misc]
    """Which cases are classified rightly, by class: (cases, classes), 1 or 0 in the column of a case's class, NaN elsewhere.

    So the mean of all that are numbers is the accuracy, the mean of a column the recall of its class, and that of a row says
    whether the case was right. y_pred: logits or probabilities (B, classes); y: one-hot (B, classes).
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None
        right = (y_pred.argmax(1) == y.argmax(1)).to(torch.float32)
        return torch.where(y > 0, right[:, None], torch.nan)

    def aggregate(self, *_: Any) -> Tensor:
        """The accuracy."""
        return torch.as_tensor(self.get_buffer()).nanmean()
