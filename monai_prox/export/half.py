"""A network in half precision that takes and gives single precision, so that files of both are used alike."""

from __future__ import annotations

from torch import Tensor, nn


class Half(nn.Module):
    """network: becomes half as precise itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.half()).float()
        return logits
