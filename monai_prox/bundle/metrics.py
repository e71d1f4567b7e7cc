"""Metrics that MONAI does not have, or not for cases of different spacing."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.metrics import CumulativeIterationMetric, SurfaceDiceMetric
from torch import Tensor

from monai_prox.errors import ProXError
from monai_prox.surface_dice import check_tolerance, surface_dice_by_class


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


class SurfaceDice(SurfaceDiceMetric):  # type: ignore[misc]
    """MONAI's SurfaceDiceMetric with a tolerance in mm and the spacing of each case, which MONAI's handlers do not hand on.

    Inputs are ``y_pred`` and ``y``, masks by region (B, regions, H, W[, D]) or lists of (regions, H, W[, D]). ``y`` are
    MetaTensors, whose affine has the spacing. A row has the surface Dice of each region, NaN for one that neither occurs nor is
    predicted.

    Args:
        tolerance: distance in mm up to which a surface is right.

    Raises:
        ProXError: ``tolerance`` is no distance, or a label has no affine.

    >>> mask = torch.zeros(1, 8, 8)
    >>> mask[:, 2:6, 2:6] = 1
    >>> label = MetaTensor(mask, affine=torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])))
    >>> metric = SurfaceDice(tolerance=2.0)
    >>> float(metric([mask.roll(1, 1)], [label]))
    1.0
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = check_tolerance(tolerance)
        super().__init__([self.tolerance], include_background=True, use_subvoxels=True)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor, **_: Any) -> Tensor:
        if not isinstance(y, MetaTensor):
            raise ProXError("SurfaceDice takes the spacing from the labels' affines; got a label without one")
        affines = y.affine.expand(len(y), *y.affine.shape[-2:])  # of a batch there may be one each
        rows = [self._scores(*case) for case in zip(y_pred, y, affines, strict=True)]
        return torch.tensor(rows, device=y_pred.device)

    def _scores(self, predicted: Tensor, truth: Tensor, affine: Tensor) -> list[float]:
        """predicted, truth: (regions, H, W[, D])."""
        masks = ((mask > 0).to("cpu", torch.uint8).numpy() for mask in (torch.as_tensor(predicted), torch.as_tensor(truth)))
        spacing = affine_to_spacing(affine.cpu(), truth.ndim - 1).tolist()
        return [
            surface_dice_by_class(found, true, {"region": 1}, spacing=spacing, tolerance=self.tolerance)["region"]
            for found, true in zip(*masks, strict=True)
        ]
