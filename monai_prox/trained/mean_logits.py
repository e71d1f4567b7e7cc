"""The networks of several folds as one network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MeanLogits(nn.Module):
    """The mean of the logits of several networks, as nnU-Net averages folds: before softmax or sigmoid.

    Args:
        networks: networks with equal inputs and outputs, at least one.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Runs one network after the other.

        Args:
            x: (B, C, *spatial)

        Returns:
            (B, outputs, *spatial)
        """
        first, *others = self.networks
        total: Tensor = first(x)
        for network in others:
            total = total + network(x)
        return total / len(self.networks)
