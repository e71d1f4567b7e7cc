"""ProXTrainer's checkpoints: nnU-Net's, with an entry ``prox``, in types that load without executing anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_prox.errors import ProXError
from monai_prox.tensor_file import read_tensors
from monai_prox.typed import check_types

ENTRIES = {  # what others read of them, and write into exports
    "trainer_name": str,
    "current_epoch": int,
    "init_args": {"fold": int | str},
    "inference_allowed_mirroring_axes": tuple[int, ...] | None,
    "network_weights": Mapping,
    "prox": {"engine": Mapping, "choices": Mapping},
}


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint that ProXTrainer wrote. Raises ProXError where it is missing, broken or another trainer's."""
    checkpoint = read_tensors(path, device, kind="checkpoint of ProXTrainer")
    if not isinstance(checkpoint, dict) or "prox" not in checkpoint:
        trainer = checkpoint.get("trainer_name", "unknown") if isinstance(checkpoint, dict) else "unknown"
        raise ProXError(f"{path} was written by the trainer {trainer!s:.80}, not by ProXTrainer; it holds no family")
    check_types(checkpoint, ENTRIES, path)
    return checkpoint


def plain(data: Any) -> Any:
    """``data`` with Python's numbers in place of NumPy's, which ``weights_only=True`` would refuse."""
    if isinstance(data, dict):
        return type(data)((plain(key), plain(value)) for key, value in data.items())
    if isinstance(data, (list, tuple)):
        return type(data)(plain(value) for value in data)
    if isinstance(data, np.generic):
        return data.item()
    return data.tolist() if isinstance(data, np.ndarray) else data
