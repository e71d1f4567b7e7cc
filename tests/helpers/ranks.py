"""Several processes that train together, with gloo on the CPU or NCCL on GPUs, and threads that stand for them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, multiprocessing
from torch import distributed as dist

from helpers import commands  # noqa: F401 (what processes are forked from has imported what it says)


def together(count: int, function: Callable[..., Any], *arguments: Any, backend: str = "gloo") -> list[Any]:
    """What ``function`` returns in each of ``count`` processes of a group, given the process's rank and ``arguments``.

    One process has no group, unless the backend is NCCL, which gives each process a GPU. Raises torch's ProcessRaisedException
    or ProcessExitedException as soon as one of them fails; the others are ended.
    """
    with TemporaryDirectory() as folder:
        given = (count, backend, folder, function, arguments)
        multiprocessing.start_processes(_rank, given, nprocs=count, start_method="forkserver")
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(count)]


def _rank(rank: int, count: int, backend: str, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    if group := count > 1 or backend == "nccl":
        place = f"file://{folder}/rendezvous"
        dist.init_process_group(backend, init_method=place, rank=rank, world_size=count, timeout=timedelta(minutes=2))
    torch.save(function(rank, *arguments), Path(folder, str(rank)))
    if group:
        dist.destroy_process_group()


class _Threads:
    """What stands for torch.distributed in threads, each of which has a rank."""

    def __init__(self, count: int) -> None:
        self.count, self.own = count, threading.local()
        self.barrier, self.values = threading.Barrier(count, timeout=60), [None] * count

    def run(self, rank: int, function: Callable[[int], Any]) -> Any:
        self.own.rank = rank
        torch.set_num_threads(1)
        try:
            return function(rank)
        except BaseException:
            self.barrier.abort()  # the others would wait
            raise

    def shared(self, value: Any) -> list[Any]:
        """Every thread's ``value``."""
        self.values[self.own.rank] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self.shared(tensor.detach().clone())).sum(0))

    def broadcast(self, tensor: Tensor, src: int) -> None:
        tensor.copy_(self.shared(tensor.detach().clone())[src])

    def all_gather_object(self, values: list[Any], value: Any) -> None:
        values[:] = self.shared(value)


def in_threads(count: int, function: Callable[[int], Any]) -> list[Any]:
    """What ``function`` returns in each of ``count`` threads, given the thread's rank, as if they were processes of a group.

    Threads start at once, and processes take seconds. All draw from the same global generators, so ``function`` may not.
    """
    threads = _Threads(count)
    stand_in = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "get_rank": lambda: threads.own.rank,
        "get_world_size": lambda: count,
        "all_reduce": threads.all_reduce,
        "broadcast": threads.broadcast,
        "all_gather_object": threads.all_gather_object,
    }
    with patch.multiple(dist, create=True, **stand_in), ThreadPoolExecutor(count) as pool:
        ranks = [pool.submit(threads.run, rank, function) for rank in range(count)]
    errors = [error for rank in ranks if (error := rank.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):  # of those that waited
        raise error
    return [rank.result() for rank in ranks]
