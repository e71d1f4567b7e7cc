"""The batches of a training, written once, so that all contenders of a seed learn from the very same ones.

nnU-Net's own loader draws and augments them. Reading them costs next to nothing, so what is timed is the training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.files import replacing

Batch = dict[str, Any]


def write_stream(trainer: nnUNetTrainer, folder: Path, *, seed: int, epochs: int, of_epoch: int) -> None:
    """One file per epoch of ``of_epoch`` batches; those that are there already stay.

    trainer: initialised, with its folds and augmentation.
    """
    paths = [folder / f"{epoch:04d}.pt" for epoch in range(epochs)]
    if all(path.is_file() for path in paths):
        return
    folder.mkdir(parents=True, exist_ok=True)
    loader, _ = trainer.get_dataloaders()
    for epoch, path in enumerate(paths):
        if path.is_file():
            continue
        state = random.Random(f"{seed} {epoch}").getrandbits(32)
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        batches = [next(loader) for _ in range(of_epoch)]
        with replacing(path) as temporary:
            torch.save([_plain(batch) for batch in batches], temporary)


def _plain(batch: Batch) -> Batch:
    return {"data": batch["data"], "target": batch["target"], "keys": [str(case) for case in batch["keys"]]}


def read_stream(folder: Path, epoch: int) -> Iterator[Batch]:
    yield from torch.load(folder / f"{epoch:04d}.pt", weights_only=True)
