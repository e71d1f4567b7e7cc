"""nnU-Net's loader and augmentation: how many batches a second it brings, by number of processes, while nothing else runs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.gpu_task import SyntheticTask

WORKERS = (1, 2, 4, 8, 12, 16)  # 12 are nnU-Net's default
LOADING = 8.0  # seconds for a number of workers, at most
SHARED = Path("/dev/shm")  # where processes put tensors for each other


@contextmanager
def loading(trainer: Any, workers: int) -> Iterator[Iterator[dict[str, Any]]]:
    """The batches of the trainer's loader, whose processes end with the context.

    workers: processes that are asked for. As in a training, there are no more than cores.
    """
    check_shared_memory(trainer, workers)
    os.environ["nnUNet_n_proc_DA"] = str(workers)
    try:
        training, validation = trainer.get_dataloaders()
    finally:
        os.environ["nnUNet_n_proc_DA"] = "0"
    try:
        _finish(validation)
        yield training
    finally:
        for started in (training, validation):
            _finish(started)


def check_shared_memory(trainer: Any, workers: int) -> None:
    """Raises RuntimeError where the loader's queue has no room for its batches.

    They would be lost without an error in this process, which would wait for them until its time is up.
    """
    if not SHARED.is_dir():
        return
    shape = (trainer.batch_size, trainer.num_input_channels, *trainer.configuration_manager.patch_size)
    needed = max(6, workers // 2) * prod(shape) * 4  # bytes of the images, float32, in nnU-Net's queue
    free = shutil.disk_usage(SHARED).free
    if free < needed:
        raise RuntimeError(
            f"nnU-Net's loader needs at least {needed / 2**20:.0f} MiB in {SHARED} with {workers} processes, and "
            f"{free / 2**20:.0f} MiB are free; a container gets more by --shm-size"
        )


def _finish(loader: Any) -> None:
    """Ends the loader's processes. A batch that is on its way then is lost, and its thread needs no traceback for that."""
    with patch("threading.excepthook", lambda _: None):
        loader._finish(timeout=2)


def batches_per_second(trainer: Any, workers: int, seconds: float) -> float:
    """The rate of the trainer's loader. seconds: the start of its processes is in them.

    Processes that begin together bring their batches together. So whole rounds are counted, one batch of each process, from a
    batch that did not wait.
    """
    end = time.perf_counter() + seconds
    with loading(trainer, workers) as batches:
        begin = time.perf_counter()
        while time.perf_counter() < begin + (end - begin) / 3:  # batches that wait already were made before
            next(batches)
        for _ in range(workers + 2 * batches.num_cached):  # at most as many wait
            if batches.results_loop_queue.empty() and batches._queue.empty():
                break
            next(batches)
        next(batches)
        counted, begin = 0, time.perf_counter()
        while not counted or counted % workers or time.perf_counter() < end:
            next(batches)
            counted += 1
        return counted / (time.perf_counter() - begin)


def loader(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """By number of processes, as far as there are cores."""
    trainer = task.trainer()
    numbers = [number for number in WORKERS if number <= (os.cpu_count() or 1)]
    of_number = min(LOADING, seconds / len(numbers))
    return {"batches_per_second": {str(n): float(f"{batches_per_second(trainer, n, of_number):.4g}") for n in numbers}}
