"""Losses of segmentation, of labels that exclude each other or of regions that overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from monai_prox.data.decathlon_plan import Plan
from monai_prox.export.bundle_transforms import region_masks


class RegionsLoss(nn.Module):
    """Dice and binary cross entropy of regions, a sigmoid each, against labels.

    Args:
        regions: values of labels by the name of the region, in the order of the outputs.
    """

    def __init__(self, regions: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.regions = regions
        self.dice, self.cross_entropy = DiceLoss(sigmoid=True, batch=True), nn.BCEWithLogitsLoss()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (B, regions, *spatial).
            labels: values of labels, (B, 1, *spatial).
        """
        masks = region_masks(labels, list(self.regions.values()), axis=1).to(logits.dtype)
        loss: Tensor = self.dice(logits, masks) + self.cross_entropy(logits, masks)
        return loss


def segmentation_loss(plan: Plan) -> nn.Module:
    """Dice and cross entropy of what the network of a plan has as outputs.

    Args:
        plan: the plan.

    Returns:
        The loss of logits (B, outputs, *spatial) and labels (B, 1, *spatial). That of labels leaves the background out of Dice.
    """
    if plan.trained_regions is not None:
        return RegionsLoss(plan.trained_regions)
    loss: nn.Module = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    return loss


def takes_sigmoid(loss: Any) -> bool:
    """Whether a loss is of regions that overlap.

    Args:
        loss: the loss. It is of regions if it, or a loss that it is made of, takes the sigmoid of the logits.
    """
    parts = loss.modules() if isinstance(loss, nn.Module) else [loss]
    return isinstance(loss, nn.BCEWithLogitsLoss) or any(getattr(part, "sigmoid", False) is True for part in parts)
