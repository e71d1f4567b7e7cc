"""Several processes that train together, with gloo on the CPU."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from commands import IMPORTED
from torch import distributed as dist
from torch import multiprocessing

multiprocessing.set_forkserver_preload(IMPORTED)


def together(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function`` returns in each of ``count`` processes of a group, given the process's rank and ``arguments``.

    One process has no group. Raises torch's ProcessRaisedException or ProcessExitedException as soon as one of them fails; the
    others are ended.
    """
    with TemporaryDirectory() as folder:
        multiprocessing.start_processes(_rank, (count, folder, function, arguments), nprocs=count, start_method="forkserver")
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(count)]


def _rank(rank: int, count: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if count > 1:
        place = f"file://{folder}/rendezvous"
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=count, timeout=timedelta(minutes=2))
    torch.save(function(rank, *arguments), Path(folder, str(rank)))
    if count > 1:
        dist.destroy_process_group()
