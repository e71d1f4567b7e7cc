"""ProXTrainer's checkpoints: nnU-Net's, with what the engine needs to go on."""

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
    """What a training goes on with beside nnU-Net's own: the engine's state, and the named members' pseudo Dice so far."""

    engine: dict[str, Any]
    progress: list[dict[str, Any]]


def write_checkpoint(trainer: Any, save: Callable[[Any], None], path: str | Path) -> None:
    """Writes to ``path`` what nnU-Net's ``save`` writes, with an entry ``prox`` and without NumPy's types."""
    buffer = io.BytesIO()
    save(buffer)
    buffer.seek(0)
    checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)  # written a moment ago by ourselves
    checkpoint["prox"] = {
        "engine": trainer.engine.state_dict(),
        "choices": asdict(trainer.supernet.family.choices),
        "probes": trainer.progress,
        "orientations": trainer.orientations,
        **trainer.engine.origin,
    }
    write_tensors(plain(checkpoint), path)


def read_resumed(trainer: Any, path: str | Path) -> Resumed:
    """What ``trainer`` goes on with. Raises ProXError if ``path`` is of another trainer, space or recipe."""
    saved = load_checkpoint(path, trainer.device)["prox"]
    engine, origin = upgraded({"monitor": saved.get("monitor"), **saved["engine"]}), upgraded_origin(saved)
    for key, meaning in (("space", "search space"), ("stages", "recipe")):
        if origin.get(key) != trainer.engine.origin[key]:
            raise ProXError(
                f"the checkpoint was trained with another {meaning} than the plan asks for now; continue with the "
                "plan of that training, or start anew in another results folder"
            )
    return Resumed(engine, list(saved["probes"]))
