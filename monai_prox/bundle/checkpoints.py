"""Checkpoints of a bundle's training, of which there is a complete one at any time, and the weights that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.handlers import CheckpointLoader
from torch import nn

from monai_prox.bundle.trainer import SupernetTrainer
from monai_prox.core.distributed import rank
from monai_prox.core.supernet import SuperNet
from monai_prox.files import make_folder, remove_unfinished
from monai_prox.tensor_file import check_weights, read_tensors, unwrapped, write_tensors
from monai_prox.trained.bundle_folder import WEIGHTS, TrainedBundle


class CheckpointSaver:
    """Handler that saves ``checkpoint_epoch=N.pt`` for MONAI's CheckpointLoader, in the first process.

    MONAI's own CheckpointSaver removes the old checkpoint before it writes the new one. A process that is killed in between, or
    a full disk, leaves none. This handler removes the old one when the new one is complete.

    Args:
        save_dir: folder of the checkpoints.
        save_dict: objects with a state_dict, by name.
        save_interval: epochs between checkpoints.
        n_saved: number of checkpoints of this process that are kept. Those of other processes are always kept.
    """

    def __init__(self, save_dir: str, save_dict: Mapping[str, Any], *, save_interval: int = 1, n_saved: int = 1) -> None:
        self.save_dir, self.save_dict = Path(save_dir), save_dict
        self.save_interval, self.n_saved = save_interval, n_saved
        self._saved: list[Path] = []

    def attach(self, trainer: SupernetTrainer) -> None:
        """Adds the handler to a trainer.

        Args:
            trainer: the trainer.
        """
        if rank() > 0:
            return
        trainer.add_event_handler(Events.STARTED, self.start)
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=self.save_interval), self)

    def start(self, _: SupernetTrainer) -> None:
        """Makes the folder, and removes what killed processes left in it.

        Raises:
            ProXError: the folder cannot be made.
        """
        make_folder(self.save_dir)
        remove_unfinished(self.save_dir)

    def __call__(self, trainer: SupernetTrainer) -> None:
        path = self.save_dir / f"checkpoint_epoch={trainer.state.epoch}.pt"
        write_tensors({name: saved.state_dict() for name, saved in self.save_dict.items()}, path)
        trainer.logger.info(f"Saved checkpoint {path}")
        self._saved.append(path)
        while len(self._saved) > self.n_saved:
            self._saved.pop(0).unlink(missing_ok=True)


class FamilyLoader(CheckpointLoader):  # type: ignore[misc]
    """MONAI's CheckpointLoader for the weights of a trained family, which are checked before anything is loaded.

    Args:
        trained: the bundle.
        supernet: the supernet that the weights are loaded into when the engine starts.
    """

    def __init__(self, trained: TrainedBundle, supernet: SuperNet) -> None:
        super().__init__(load_path=str(trained.path / WEIGHTS), load_dict={"model": supernet.network})
        self.trained, self.supernet = trained, supernet

    def __call__(self, engine: Any) -> None:
        """Loads the weights.

        Args:
            engine: the engine that starts.

        Raises:
            ProXError: see ``TrainedBundle.load_weights``.
        """
        self.trained.load_weights(self.supernet)
        self.logger.info(f"Restored all variables from {self.load_path}")


def weights_of(path: str | Path, network: nn.Module) -> dict[str, Any]:
    """The weights of a network in a file that somebody's training has written.

    Args:
        path: the file, a state_dict or an object with an entry that is one, under whatever name.
        network: the network, possibly without memory for its weights.

    Raises:
        ProXError: the file is missing or broken, or holds other weights.
    """
    found = read_tensors(path, kind="file of a network's weights")
    weights = found
    if isinstance(found, Mapping):
        parts = [unwrapped(part) for part in (found, *found.values()) if isinstance(part, Mapping)]
        usual = unwrapped(found["model"]) if isinstance(found.get("model"), Mapping) else parts[0]
        names = network.state_dict().keys()
        weights = next((part for part in parts if part.keys() == names), usual)
    check_weights(weights, network, path)
    return dict(weights)
