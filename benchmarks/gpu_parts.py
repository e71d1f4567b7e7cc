"""What ``gpu.py`` measures: each part takes a task and the seconds that it may use, and returns plain data."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch._inductor.utils import fresh_cache

from benchmarks.contenders import stock_trainer
from benchmarks.gpu_group import group
from benchmarks.gpu_members import members
from benchmarks.gpu_steps import summary, time_epoch, turns_of
from benchmarks.gpu_task import SyntheticTask
from monai_prox.core.supernet import SuperNet
from monai_prox.nnunet.trainer import ProXTrainer

SKELETONS = 32  # random members that are measured
WORKERS = (1, 2, 4, 8, 12, 16)  # 12 are nnU-Net's default
LOADING = 8.0  # seconds for a number of workers, at most


# ---------------------------------------------------------------------- alone
def largest(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """The plan's own network, trained by nnU-Net's own trainer."""
    return time_epoch(task.trainer(), task.batches, seconds)


@contextmanager
def compiling() -> Iterator[None]:
    os.environ["nnUNet_compile"] = "t"
    try:
        with fresh_cache():
            yield
    finally:
        os.environ["nnUNet_compile"] = "f"
        torch.compiler.reset()


def compiled(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """As ``largest``, with torch.compile, nnU-Net's default on CUDA."""
    with compiling():
        return time_epoch(task.trainer(), task.batches, seconds)


def smallest(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """The family's smallest member by itself, on batches of full resolution, trained by nnU-Net's own trainer."""
    family = task.family
    trainer = task.trainer(stock_trainer(family, family.space.smallest(), nnUNetTrainer.configure_optimizers))
    return time_epoch(trainer, task.batches, seconds)


# ---------------------------------------------------------------------- families
def train_family(task: SyntheticTask, seconds: float, recipe: str) -> dict[str, Any]:
    """Every stage of a recipe, by ProXTrainer, in the stage's first epoch."""
    trainer = task.trainer(ProXTrainer, prox={"recipe": recipe, "monitor": False})
    schedule, engine = trainer.engine.schedule, trainer.engine
    ends = (*schedule.starts[1:], schedule.epochs)
    stages = []
    for stage, start, end in zip(schedule.stages, schedule.starts, ends, strict=True):
        of_stage = seconds / len(schedule.stages)
        measured = time_epoch(trainer, task.batches, of_stage, epoch=start, turns=turns_of(stage))
        steps = range(trainer.num_iterations_per_epoch)
        drawn, later = ({m for step in steps for m in engine.members(epoch, step)} for epoch in (start, start + 1))
        about = {"name": stage.name, "trained": stage.trained, "epochs": end - start, "members_per_epoch": len(drawn)}
        about["new_members_per_epoch"] = len(later - drawn)
        stages.append(about | measured)
    return {"stages": stages}


def prox(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    return train_family(task, seconds, "prox")


def progressive_shrinking(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    return train_family(task, seconds, "progressive_shrinking")


def skeletons(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """What a member's first use adds on the host: its stock network is built without weights."""
    family, end = task.family, time.perf_counter() + seconds
    with torch.device("meta"):
        network = family.build(family.space.largest(), initialise=False)
    supernet, times = SuperNet(family, network), []
    supernet.shapes(family.space.largest())  # the first of all imports modules
    for number in range(SKELETONS):
        member = family.space.sample(random.Random(number))
        start = time.perf_counter()
        supernet.shapes(member)
        times.append(time.perf_counter() - start)
        if len(times) > 1 and time.perf_counter() > end:
            break
    return {"build_seconds": summary(times)}


# ---------------------------------------------------------------------- loader
def batches_per_second(trainer: Any, seconds: float) -> float:
    """The rate of the trainer's loader processes while nothing else runs. seconds: their start is in them."""
    end = time.perf_counter() + seconds
    training, validation = trainer.get_dataloaders()
    try:
        validation._finish(timeout=2)
        begin = time.perf_counter()
        while time.perf_counter() < begin + (end - begin) / 3:  # batches that wait already were made before
            next(training)
        counted, begin = 0, time.perf_counter()
        while not counted or time.perf_counter() < end:
            next(training)
            counted += 1
        return counted / (time.perf_counter() - begin)
    finally:
        for loader in (training, validation):
            loader._finish(timeout=2)


def loader(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """nnU-Net's loader and augmentation, by number of processes."""
    trainer = task.trainer()
    numbers = [number for number in WORKERS if number <= (os.cpu_count() or 1)]
    rates, of_number = {}, min(LOADING, seconds / len(numbers))
    for number in numbers:
        os.environ["nnUNet_n_proc_DA"] = str(number)
        try:
            rates[str(number)] = float(f"{batches_per_second(trainer, of_number):.4g}")
        finally:
            os.environ["nnUNet_n_proc_DA"] = "0"
    return {"batches_per_second": rates}


# ---------------------------------------------------------------------- all
class Part(NamedTuple):
    """measure: from a task and seconds. share: of the time, relative to the other parts."""

    measure: Callable[[SyntheticTask, float], dict[str, Any]]
    share: float
    cuda_only: bool = False


PARTS: Mapping[str, Part] = {  # those last that may take longest
    "largest": Part(largest, 1),
    "smallest": Part(smallest, 1),
    "prox": Part(prox, 5),
    "progressive_shrinking": Part(progressive_shrinking, 3),
    "skeletons": Part(skeletons, 0.5),
    "loader": Part(loader, 4),
    "group": Part(group, 1.5),
    "compiled": Part(compiled, 5, cuda_only=True),
    "members": Part(members, 14),
}


def measure(name: str, task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """One part, with the memory of the part before given back."""
    gc.collect()
    if task.device.type == "cuda":
        torch.cuda.empty_cache()
    return PARTS[name].measure(task, seconds)
