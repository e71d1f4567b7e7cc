"""What ``gpu.py`` measures: each part takes a task and the seconds that it may use, and returns plain data."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch._inductor.utils import fresh_cache

from benchmarks.contenders import stock_trainer
from benchmarks.gpu_first_use import members_of_epoch, skeletons
from benchmarks.gpu_group import group
from benchmarks.gpu_loaded import loaded
from benchmarks.gpu_loader import loader
from benchmarks.gpu_members import members
from benchmarks.gpu_steps import time_epoch, turns_of
from benchmarks.gpu_task import SyntheticTask
from monai_prox.nnunet.trainer import ProXTrainer


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
        about = {"name": stage.name, "trained": stage.trained, "epochs": end - start}
        stages.append(about | members_of_epoch(engine, start, trainer.num_iterations_per_epoch) | measured)
    return {"stages": stages}


def prox(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    return train_family(task, seconds, "prox")


def progressive_shrinking(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    return train_family(task, seconds, "progressive_shrinking")


# ---------------------------------------------------------------------- all
class Part(NamedTuple):
    """measure: from a task and seconds. share: of the time, relative to the other parts."""

    measure: Callable[[SyntheticTask, float], dict[str, Any]]
    share: float
    cuda_only: bool = False


PARTS: Mapping[str, Part] = {  # skeletons first, because cuDNN has met no shape yet, and those last that may take longest
    "skeletons": Part(skeletons, 2.5),
    "largest": Part(largest, 1),
    "smallest": Part(smallest, 1),
    "prox": Part(prox, 4.5),
    "progressive_shrinking": Part(progressive_shrinking, 2.5),
    "loader": Part(loader, 4),
    "loaded": Part(loaded, 8),
    "group": Part(group, 1.5),
    "compiled": Part(compiled, 6, cuda_only=True),
    "members": Part(members, 18),
}


def measure(name: str, task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """One part, with the memory of the part before given back."""
    gc.collect()
    if task.device.type == "cuda":
        torch.cuda.empty_cache()
    return PARTS[name].measure(task, seconds)
