"""ProXTrainer's checkpoints: those of nnU-Net, with the state of the engine."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monai_prox.errors import ProXError
from monai_prox.tensor_file import write_tensors
from monai_prox.trained.nnunet_checkpoint import load_checkpoint, plain
from monai_prox.training.resume import upgraded, upgraded_origin


class Resumed(NamedTuple):
    """The state of a training that is continued, besides nnU-Net's own.

    Args:
        engine: the state of the engine.
        progress: the pseudo Dice of the named members so far.
        updates_per_batch: the state of ``trainer.updates_per_batch``, or None of an earlier version.
    """

    engine: dict[str, Any]
    progress: list[dict[str, Any]]
    updates_per_batch: Any


def write_checkpoint(trainer: Any, save: Callable[[Any], None], path: str | Path) -> None:
    """Writes nnU-Net's checkpoint with an entry ``prox`` and without NumPy's types.

    Args:
        trainer: a ProXTrainer.
        save: writes nnU-Net's checkpoint to a file.
        path: path of the checkpoint.
    """
    buffer = io.BytesIO()
    save(buffer)
    buffer.seek(0)
    checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)  # this process has written it
    checkpoint["prox"] = {
        "engine": trainer.engine.state_dict(),
        "choices": asdict(trainer.supernet.family.choices),
        "probes": trainer.progress,
        "orientations": trainer.orientations,
        "updates_per_batch": trainer.updates_per_batch.state_dict(),
        **trainer.engine.origin,
    }
    write_tensors(plain(checkpoint), path)


def read_resumed(trainer: Any, path: str | Path) -> Resumed:
    """Reads a checkpoint for a training that is continued.

    Args:
        trainer: a ProXTrainer.
        path: path of the checkpoint.

    Raises:
        ProXError: the checkpoint is of another trainer, search space or recipe.
    """
    saved = load_checkpoint(path, trainer.device)["prox"]
    engine, origin = upgraded({"monitor": saved.get("monitor"), **saved["engine"]}), upgraded_origin(saved)
    for key, meaning in (("space", "search space"), ("stages", "recipe")):
        if origin.get(key) != trainer.engine.origin[key]:
            raise ProXError(
                f"the checkpoint was trained with another {meaning} than the plan asks for now; continue with the "
                "plan of that training, or start anew in another results folder"
            )
    return Resumed(engine, list(saved["probes"]), saved.get("updates_per_batch"))
