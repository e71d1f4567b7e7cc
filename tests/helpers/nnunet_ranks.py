"""nnU-Net's training in several processes, which it does on GPUs only, on the CPU."""

import os
import signal
import sys
from functools import partial
from typing import Any

import torch
from nnunetv2.run import run_training
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from helpers.nnunet_task import CPU, ProXTrainerTiny
from monai_prox.errors import ProXError

FAULT = "MONAI_PROX_TEST_FAULT"  # what becomes of the second process: "kill" or "error"
LOST_IN = (3, 1)  # epoch and step


class ProXTrainerOnCPU(ProXTrainerTiny):
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = CPU,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.device, self.grad_scaler, self.save_every = CPU, None, 1  # of several processes nnU-Net takes each to have a GPU

    def initialize(self) -> None:
        if self.is_ddp:
            nnUNetTrainer.DDP = lambda network, device_ids: DistributedDataParallel(network)
        super().initialize()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.local_rank == 1 and (self.current_epoch, self.updates_per_batch.step) == LOST_IN:
            if os.environ.get(FAULT) == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if os.environ.get(FAULT) == "error":
                raise ProXError("case_7 is damaged")
        return super().train_step(batch)


def run_ddp(rank: int, *arguments: Any) -> None:
    """nnU-Net's function of this name, for which it takes NCCL."""
    run_training.setup_ddp = lambda rank, size: dist.init_process_group("gloo", rank=rank, world_size=size)
    run_training.recursive_find_trainer_class_by_name = lambda _: ProXTrainerOnCPU
    torch.cuda.set_device = lambda _: None
    NNUNET_RUN_DDP(rank, *arguments)


NNUNET_RUN_DDP = run_training.run_ddp

if __name__ == "__main__":
    run_training.run_ddp = run_ddp
    multiprocessing.spawn = partial(multiprocessing.start_processes, start_method="fork")  # each would import for seconds
    sys.exit(run_training.run_training_entry())
