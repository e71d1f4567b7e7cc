"""Communication of the processes of one training, through torch.distributed."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from monai_prox.errors import ProXError

T = TypeVar("T")


def _several() -> bool:
    """Whether torch.distributed is initialised."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, counted from 0."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if _several() else 1


def check_shared(training: Sized) -> None:
    """Checks that every process gets at least one case for training.

    Args:
        training: the training cases of all processes together.

    Raises:
        ProXError: there are more processes than cases.

    >>> check_shared(["case 1", "case 2"])  # one process
    """
    if len(training) < world_size():
        raise ProXError(
            f"{world_size()} processes share the training cases, of which there are {len(training)}, and each needs one; start "
            "fewer processes, or give more cases"
        )


def average(tensor: Tensor) -> Tensor:
    """Replaces a tensor by its mean over all processes, in place.

    Args:
        tensor: of the same shape in all processes.

    Returns:
        ``tensor``.
    """
    dist.all_reduce(tensor)
    return tensor.div_(world_size())


def average_gradients(network: nn.Module) -> None:
    """Replaces the gradients of all processes by their mean, in place.

    DistributedDataParallel reduces within one backward pass, but a step that trains several members has several.

    Args:
        network: the network. The same parameters have gradients in all processes.
    """
    if world_size() > 1:
        for parameter in network.parameters():
            if parameter.grad is not None:
                average(parameter.grad)


def broadcast(network: nn.Module) -> None:
    """Copies the weights and buffers of the first process to all processes.

    Args:
        network: the network.
    """
    if world_size() > 1:
        for tensor in [*network.parameters(), *network.buffers()]:
            dist.broadcast(tensor.data, src=0)


def gather(value: T) -> list[T]:
    """The values of all processes, in every process.

    Args:
        value: the value of this process. It can be pickled.

    Returns:
        One value per process, in the order of their ranks.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class Average(torch.autograd.Function):
    """The mean of a tensor over all processes. Its gradient is averaged, too, as those of the weights are."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return average(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return average(gradients[0].clone(memory_format=torch.contiguous_format))
