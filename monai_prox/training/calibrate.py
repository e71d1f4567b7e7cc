"""Statistics of batch norms, which belong to a member and are not shared like its weights.

While many members train in turn, a batch norm averages over all of them, which is the mean of no member. Source: Yu and Huang,
ICCV 2019 (US-Net), section 3.3, post-statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

IMAGES = 128  # of the training set, limited by memory, because they pass through the network in one batch


def keeps_statistics(network: nn.Module) -> bool:
    """Whether a network has norms with running statistics, which every member needs for itself.

    Args:
        network: the network.
    """
    return bool(_norms(network))


def _norms(network: nn.Module) -> list[_NormBase]:
    """Batch norms, and instance norms that are asked to keep statistics."""
    return [layer for layer in network.modules() if isinstance(layer, _NormBase) and layer.track_running_stats]


@torch.no_grad()
def calibrate(network: nn.Module, images: Tensor, run: Callable[[Tensor], Any] | None = None) -> nn.Module:
    """Sets the running statistics of a network's batch norms to those of the given images, in place. Nothing else changes.

    All images pass through the network in one batch, so their order does not matter and the means and variances are exact. A
    network without batch norms that keep statistics is not changed.

    Args:
        network: the network.
        images: (N, C, *spatial), from the training set.
        run: how images pass through the network, for example at its own resolution. None means ``network(images)``.

    Returns:
        ``network``.

    >>> network = nn.Sequential(nn.BatchNorm1d(1))
    >>> calibrate(network, torch.tensor([[1.0], [3.0]]))[0].running_mean
    tensor([2.])
    """
    norms = _norms(network)
    if not norms:
        return network
    modes = {layer: layer.training for layer in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    network.eval()  # no dropout
    for norm in norms:
        norm.train()
        norm.reset_running_stats()  # a mean that is not finite would stay so
        norm.momentum = 1.0  # this batch only
    try:
        (run or network)(images)
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    return network
