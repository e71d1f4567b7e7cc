"""Trainings while nnU-Net's loader runs: how long the GPU waits for batches, and what ``"fill"`` makes of that time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.gpu_first_use import members_of_epoch
from benchmarks.gpu_hours import DEFAULT_WORKERS, STEPS
from benchmarks.gpu_loader import loading
from benchmarks.gpu_steps import run_steps, training_only, turns_of
from benchmarks.gpu_task import SyntheticTask
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.training.drawing import draw_members
from monai_prox.training.idle_time import IdleTime
from monai_prox.training.updates_per_batch import UpdatesPerBatch

MET = 4 * STEPS  # steps of each stage whose members are met before: they have nearly all of the pool
MEETING = 0.4  # of the time, at most
STOCK = 0.1  # of the time that is left then
LEAST, MOST = 12, 96  # batches with a number of updates
HELD = 24  # batches that 12 processes and their two queues hold before the training takes one


def loaded(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """The stock network, and each stage of ``prox``: with one update a batch, and with as many as fit into the loader's time.

    All have the same loader, with nnU-Net's default number of processes.
    """
    begin = time.perf_counter()
    end = begin + seconds
    stock, trainer = task.trainer(), task.trainer(ProXTrainer, prox={"recipe": "prox", "monitor": False})
    schedule, stages = trainer.engine.schedule, list[dict[str, Any]]()
    _meet(trainer, task.batches, begin + MEETING * seconds)
    with loading(trainer, int(DEFAULT_WORKERS)) as batches:
        for _ in range(HELD):
            next(batches)
        _, largest = _train(stock, batches, 0, (end - time.perf_counter()) * STOCK)
        for stage, start, stop in zip(schedule.stages, schedule.starts, (*schedule.starts[1:], schedule.epochs), strict=True):
            share = (stop - start) / (schedule.epochs - start)  # as in the hours, long stages count most
            of_updates = (end - time.perf_counter()) * share / 2
            turns = turns_of(stage)
            idle, once = _train_family(trainer, batches, start, 1, of_updates, turns)
            fill = once if idle.updates == 1 else _train_family(trainer, batches, start, idle.updates, of_updates, turns)[1]
            stages.append({"name": stage.name, "epochs": stop - start, "once": once, "fill": fill})
    return {"workers": min(int(DEFAULT_WORKERS), os.cpu_count() or 1), "largest": largest, "stages": stages}


def _meet(trainer: Any, batches: Sequence[dict[str, Any]], until: float) -> None:
    """Trains once each of the members that the stages draw, as far as the time goes.

    A member's first step takes long, and the loader would fill its queue in that time, as it does in no epoch but the first.
    """
    engine = trainer.engine
    members = dict.fromkeys(
        member
        for stage, epoch in zip(engine.schedule.stages, engine.schedule.starts, strict=True)
        for step in range(MET)
        for member in draw_members(stage, stage.space(trainer.supernet.family.space), seed=engine.seed, epoch=epoch, step=step)
    )
    for member in members:
        if time.perf_counter() > until:
            return
        with training_only(trainer, member):
            run_steps(trainer, batches, epoch=0, turns=1, most=1, until=0)


def _train_family(
    trainer: Any, batches: Iterator[dict[str, Any]], epoch: int, updates: int, seconds: float, turns: int
) -> tuple[IdleTime, dict[str, Any]]:
    trainer.updates_per_batch = UpdatesPerBatch(updates, len(trainer.engine.schedule.stages))
    idle, measured = _train(trainer, batches, epoch, seconds, turns)
    steps = trainer.num_iterations_per_epoch * updates
    return idle, {"updates_per_batch": updates} | members_of_epoch(trainer.engine, epoch, steps) | measured


def _train(
    trainer: Any, batches: Iterator[dict[str, Any]], epoch: int, seconds: float, turns: int = 1
) -> tuple[IdleTime, dict[str, Any]]:
    """Trains as ``nnUNetTrainer.run_training`` does. The first half of the batches is left out, as "fill" does.

    turns: the other half is whole groups of as many batches, in which all roles of a stage occur.
    """
    end = time.perf_counter() + seconds
    trainer.current_epoch = epoch
    trainer.on_train_epoch_start()
    times: list[tuple[float, float]] = []
    while len(times) < LEAST or len(times) % (2 * turns) or (len(times) < MOST and time.perf_counter() < end):
        batch = next(batches)
        began = time.perf_counter()
        trainer.train_step(batch)  # it waits until the GPU has finished
        times.append((began, time.perf_counter()))
    idle = IdleTime(len(times))
    for began, ended in times:
        idle.add(began, ended)
    counted = len(times) - len(times) // 2
    batch_seconds = (times[-1][1] - times[-counted - 1][1]) / counted
    return idle, {
        "batch_seconds": float(f"{batch_seconds:.4g}"),
        "busy_share": float(f"{1 - idle.share:.4g}"),
        "batches": counted,
    }
