"""Metrics that MONAI does not have."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor


class CaseAccuracy(CumulativeIterationMetric):  # type: ignore[misc]
    """Metric that says for each case whether its class was predicted.

    A row has 1 or 0 in the column of the case's class, and NaN in all others. So the mean of all numbers is the accuracy, and
    the mean of a column is the recall of its class. Inputs are ``y_pred``, logits or probabilities (B, classes), and ``y``,
    one-hot (B, classes).

    >>> metric = CaseAccuracy()
    >>> buffer = metric(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([[1, 0], [0, 1]]))
    >>> float(metric.aggregate())
    0.5
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None
        right = (y_pred.argmax(1) == y.argmax(1)).to(torch.float32)
        return torch.where(y > 0, right[:, None], torch.nan)

    def aggregate(self, *_: Any) -> Tensor:
        """The accuracy over all cases."""
        return torch.as_tensor(self.get_buffer()).nanmean()
