"""Batch norms of several processes that train together."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from monai_prox.core.distributed import Average, world_size


def synchronise(network: nn.Module) -> nn.Module:
    """Lets the batch norms of a network use the statistics of all processes' batches together in training, in place.

    Several processes then compute what one process computes from all their batches. In one process nothing changes. torch's own
    SyncBatchNorm does the same, but only on GPUs.

    Args:
        network: the network.

    Returns:
        ``network``.
    """
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    return network


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    """The forward pass of ``norm`` on x (B, C, *spatial), which has the same size in all processes."""
    if not norm.training or world_size() == 1:
        return type(norm).forward(norm, x)
    axes, shape = (0, *range(2, x.ndim)), (1, -1, *(1 for _ in x.shape[2:]))
    values = x.to(torch.promote_types(x.dtype, torch.float32))  # sums of half-precision numbers would overflow
    mean: Tensor = Average.apply(values.mean(axes))
    centred = values - mean.view(shape)
    variance: Tensor = Average.apply(centred.square().mean(axes))
    if norm.track_running_stats:
        _track(norm, mean.detach(), variance.detach(), count=world_size() * x.numel() // x.shape[1])
    normed = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normed = normed * norm.weight.view(shape) + norm.bias.view(shape)
    return normed.to(x.dtype)


def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Moves the running statistics towards those of a batch of ``count`` values per channel."""
    assert norm.num_batches_tracked is not None and norm.running_mean is not None and norm.running_var is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * count / (count - 1), momentum)
