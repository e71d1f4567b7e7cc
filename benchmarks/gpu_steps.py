"""Times of training steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import lcm
from typing import Any
from unittest.mock import patch

import torch

from monai_prox.core.distributed import gather
from monai_prox.core.space import Subnet
from monai_prox.training.stage import Stage

WARM_UP = 32  # steps at most
TIMED = 128  # steps at most


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Mean, median, quartiles and number of measured times, in seconds, with four digits."""
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    times = {"mean": statistics.fmean(seconds), "median": median}
    digits = {name: float(f"{value:.4g}") for name, value in times.items()}
    return digits | {"quartiles": [float(f"{value:.4g}") for value in (low, high)], "number": len(seconds)}


def turns_of(stage: Stage) -> int:
    """After as many steps the roles of a stage begin anew."""
    return lcm(*(1 if isinstance(roles, str) else len(roles) for roles in stage.train))


def over(end: float) -> bool:
    """Whether time.perf_counter() has reached ``end``, in any process of a group: all have to stop after the same step."""
    return any(gather(time.perf_counter() >= end))


@contextmanager
def training_only(trainer: Any, member: Subnet) -> Iterator[None]:
    """Steps of a ProXTrainer train this member alone, whatever its stage would draw."""
    with patch.object(trainer.engine, "members", lambda epoch, step: [member]):
        yield


def run_steps(trainer: Any, batches: Sequence[dict[str, Any]], epoch: int, turns: int, most: int, until: float) -> list[float]:
    """Seconds of the first steps of an epoch: ``most`` of them, or as many as begin before ``until``, in whole ``turns``."""
    trainer.current_epoch = epoch
    trainer.on_train_epoch_start()
    seconds: list[float] = []
    while not seconds or len(seconds) % turns or (len(seconds) < most and not over(until)):
        start = time.perf_counter()
        trainer.train_step(batches[len(seconds) % len(batches)])  # it copies the loss to the host, so the GPU has finished
        seconds.append(time.perf_counter() - start)
    return seconds


def time_epoch(
    trainer: Any, batches: Sequence[dict[str, Any]], seconds: float, *, epoch: int = 0, turns: int = 1
) -> dict[str, Any]:
    """Times steps of an epoch that have been run before, so that no member, shape or kernel is met for the first time.

    seconds: for both passes. turns: the mean is over whole groups of as many steps, in which all roles of a stage occur.
    """
    cuda = trainer.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    first = run_steps(trainer, batches, epoch, turns, WARM_UP, start + seconds / 2)
    end = max(start + seconds, time.perf_counter() + seconds / 4)  # the first pass may have taken all, e.g. to compile
    timed: list[float] = []
    while len(timed) < 2 or (len(timed) < TIMED and not over(end)):
        timed += run_steps(trainer, batches, epoch, turns, len(first), end)
    return {
        "step_seconds": summary(timed),
        "first_pass": {"steps": len(first), "seconds": float(f"{sum(first):.4g}")},
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }
