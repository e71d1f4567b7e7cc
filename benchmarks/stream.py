"""The batches of a training, written once, so that all contenders of a seed learn from the very same ones.

nnU-Net's own loader draws and augments them. Reading them costs next to nothing, so what is timed is the training.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.files import replacing

Batch = dict[str, Any]


def missing(folder: Path, epochs: int) -> list[int]:
    """The first ``epochs`` epochs less those that have been written."""
    return [epoch for epoch in range(epochs) if not _path(folder, epoch).is_file()]


def write_stream(trainer: nnUNetTrainer, folder: Path, *, seed: int, epochs: Iterable[int], of_epoch: int) -> None:
    """One file of ``of_epoch`` batches per epoch, a function of seed and epoch alone: several processes may share the work.

    trainer: initialised, with its folds and augmentation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loader, _ = trainer.get_dataloaders()
    for epoch in epochs:
        state = random.Random(f"{seed} {epoch}").getrandbits(32)
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        batches = [next(loader) for _ in range(of_epoch)]
        with replacing(_path(folder, epoch)) as temporary:
            torch.save([_plain(batch) for batch in batches], temporary)


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"{epoch:04d}.pt"


def _plain(batch: Batch) -> Batch:
    return {"data": batch["data"], "target": batch["target"], "keys": [str(case) for case in batch["keys"]]}


def read_stream(folder: Path, epoch: int) -> Iterator[Batch]:
    yield from torch.load(_path(folder, epoch), weights_only=True)
