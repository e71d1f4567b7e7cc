"""ProXTrainer in a process group of torch.distributed: NCCL on GPUs, gloo on CPUs."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu_steps import time_epoch, turns_of
from benchmarks.gpu_task import SyntheticTask
from monai_prox.core.distributed import average, gather
from monai_prox.files import read_json, write_json
from monai_prox.nnunet.trainer import ProXTrainer

PATIENCE = timedelta(seconds=60)  # with a process that does not answer
CPU = torch.device("cpu")


class GroupTrainer(ProXTrainer):
    """On CPUs, too: nnU-Net takes every process of a group to have a GPU."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = CPU,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type == "cpu":
            self.device, self.grad_scaler = device, None


def group(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """One process for each GPU, or as many as ``task.processes`` asks for, in the last stage of the recipe ``prox``.

    A group of one process has nothing to average, so the averaging of all gradients is timed by itself, too.
    """
    with tempfile.TemporaryDirectory(dir=task.root) as folder:
        fresh = SyntheticTask(task.name, task.workload, task.root, task.device.type, task.processes)  # without batches
        arguments = (fresh, time.monotonic() + seconds, Path(folder))  # all processes of a machine have this clock
        if task.processes == 1:
            _train(0, *arguments)
        else:
            torch.multiprocessing.spawn(_train_silently, arguments, nprocs=task.processes, daemon=True)
        measured: dict[str, Any] = read_json(Path(folder, "measured.json"))
    return measured


def _train_silently(*arguments: Any) -> None:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        _train(*arguments)


def _train(rank: int, task: SyntheticTask, end: float, folder: Path) -> None:
    cuda = task.device.type == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
        torch.backends.cudnn.benchmark = True
    torch.set_num_threads(1)
    address = f"file://{folder / 'group'}"
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=task.processes, timeout=PATIENCE)
    try:
        # nnU-Net names the GPU of a rank, which a process without one cannot take
        with (
            nullcontext()
            if cuda
            else patch.object(nnUNetTrainer, "DDP", lambda network, device_ids: DistributedDataParallel(network))
        ):
            trainer = task.trainer(GroupTrainer, prox={"recipe": "prox", "monitor": False})
        schedule = trainer.engine.schedule
        last = {"epoch": schedule.starts[-1], "turns": turns_of(schedule.stages[-1])}
        measured = time_epoch(trainer, task.draw(trainer), end - time.monotonic(), **last)
        parameters = list(trainer.supernet.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for _ in range(2):  # the first time connects the processes
            start = time.perf_counter()
            for gradient in gradients:
                average(gradient)
            if cuda:
                torch.cuda.synchronize()
            averaging = time.perf_counter() - start
        sums = gather(float(sum(parameter.detach().double().abs().sum() for parameter in parameters)))
        checks = {
            "finite": all(bool(parameter.isfinite().all()) for parameter in parameters),
            "alike_in_all_processes": len(set(sums)) == 1,
        }
        if rank == 0:
            about = {"backend": backend, "processes": task.processes, "average_seconds": float(f"{averaging:.4g}")}
            write_json(about | checks | measured, folder / "measured.json")
    finally:
        dist.destroy_process_group()
