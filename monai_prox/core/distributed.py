"""What the processes of one training share, through torch.distributed."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from monai_prox.errors import ProXError

T = TypeVar("T")


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _several() else 1


def check_shared(training: Sized, validation: Sized) -> None:
    """Raises ProXError where there are fewer cases of either than processes, each of which needs one."""
    for what, cases in (("training", training), ("validation", validation)):
        if len(cases) < world_size():
            raise ProXError(
                f"{world_size()} processes share the {what} cases, of which there are {len(cases)}, and each needs one; "
                "start fewer processes, or give more cases"
            )


def average(tensor: Tensor) -> Tensor:
    """The mean of all processes' ``tensor``, in place."""
    dist.all_reduce(tensor)
    return tensor.div_(world_size())


def average_gradients(network: nn.Module) -> None:
    """Gives all processes the mean of their gradients, in place; all have gradients of the same parameters.

    DistributedDataParallel reduces within one backward pass, and a step that trains several members has several.
    """
    if world_size() > 1:
        for parameter in network.parameters():
            if parameter.grad is not None:
                average(parameter.grad)


def broadcast(network: nn.Module) -> None:
    """Gives all processes the first one's weights and buffers."""
    if world_size() > 1:
        for tensor in [*network.parameters(), *network.buffers()]:
            dist.broadcast(tensor.data, src=0)


def gather(value: T) -> list[T]:
    """Every process's ``value``, in all of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class Average(torch.autograd.Function):
    """The mean of all processes' tensors, for processes whose gradients are averaged, too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return average(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return average(gradients[0].clone(memory_format=torch.contiguous_format))
