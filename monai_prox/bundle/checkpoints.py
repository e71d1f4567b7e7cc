"""Checkpoints of a bundle's training: there is a whole one at any time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Events

from monai_prox.bundle.trainer import SupernetTrainer
from monai_prox.core.distributed import rank
from monai_prox.files import make_folder, remove_unfinished
from monai_prox.tensor_file import write_tensors


class CheckpointSaver:
    """Handler that saves ``save_dict`` as ``checkpoint_epoch=N.pt``, for MONAI's CheckpointLoader; the first process does.

    MONAI's own CheckpointSaver removes the checkpoint before and then writes the next one in its place: a process that is
    killed meanwhile, or a full disk, leaves none. This one removes it when the next is whole.

    save_interval: epochs. n_saved: checkpoints of this process that are kept; those of others always are.
    """

    def __init__(self, save_dir: str, save_dict: Mapping[str, Any], *, save_interval: int = 1, n_saved: int = 1) -> None:
        self.save_dir, self.save_dict = Path(save_dir), save_dict
        self.save_interval, self.n_saved = save_interval, n_saved
        self._saved: list[Path] = []

    def attach(self, trainer: SupernetTrainer) -> None:
        if rank() > 0:
            return
        trainer.add_event_handler(Events.STARTED, self.start)
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=self.save_interval), self)

    def start(self, _: SupernetTrainer) -> None:
        make_folder(self.save_dir)
        remove_unfinished(self.save_dir)

    def __call__(self, trainer: SupernetTrainer) -> None:
        path = self.save_dir / f"checkpoint_epoch={trainer.state.epoch}.pt"
        write_tensors({name: saved.state_dict() for name, saved in self.save_dict.items()}, path)
        trainer.logger.info(f"Saved checkpoint {path}")
        self._saved.append(path)
        while len(self._saved) > self.n_saved:
            self._saved.pop(0).unlink(missing_ok=True)
