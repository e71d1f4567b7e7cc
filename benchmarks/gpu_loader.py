"""nnU-Net's loader and augmentation: how many batches a second it brings, by number of processes, while nothing else runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.gpu_task import SyntheticTask

WORKERS = (1, 2, 4, 8, 12, 16)  # 12 are nnU-Net's default
LOADING = 8.0  # seconds for a number of workers, at most


@contextmanager
def loading(trainer: Any, workers: int) -> Iterator[Iterator[dict[str, Any]]]:
    """The batches of the trainer's loader, whose processes end with the context.

    workers: processes that are asked for. As in a training, there are no more than cores.
    """
    os.environ["nnUNet_n_proc_DA"] = str(workers)
    try:
        training, validation = trainer.get_dataloaders()
    finally:
        os.environ["nnUNet_n_proc_DA"] = "0"
    try:
        validation._finish(timeout=2)
        yield training
    finally:
        for started in (training, validation):
            started._finish(timeout=2)


def batches_per_second(trainer: Any, workers: int, seconds: float) -> float:
    """The rate of the trainer's loader. seconds: the start of its processes is in them."""
    end = time.perf_counter() + seconds
    with loading(trainer, workers) as batches:
        begin = time.perf_counter()
        while time.perf_counter() < begin + (end - begin) / 3:  # batches that wait already were made before
            next(batches)
        counted, begin = 0, time.perf_counter()
        while not counted or time.perf_counter() < end:
            next(batches)
            counted += 1
        return counted / (time.perf_counter() - begin)


def loader(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """By number of processes, as far as there are cores."""
    trainer = task.trainer()
    numbers = [number for number in WORKERS if number <= (os.cpu_count() or 1)]
    of_number = min(LOADING, seconds / len(numbers))
    return {"batches_per_second": {str(n): float(f"{batches_per_second(trainer, n, of_number):.4g}") for n in numbers}}
