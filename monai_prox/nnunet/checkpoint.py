"""ProXTrainer's checkpoints: nnU-Net's, with an entry ``prox``, in types that load without executing anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_prox.errors import ProXError


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint that ProXTrainer wrote. Raises ProXError where it is missing, broken or another trainer's."""
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise ProXError(f"there is no checkpoint {path}") from None
    except pickle.UnpicklingError:  # its message tells users to load it unsafely
        raise ProXError(
            f"{path} was not written by ProXTrainer: it is no checkpoint, or holds more than plain data, as other trainers' do"
        ) from None
    except Exception as error:  # torch raises many kinds for broken files; all mean the same to the user
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProXError(f"{path} is not a whole checkpoint of ProXTrainer: {reason:.160}") from None
    if not isinstance(checkpoint, dict) or "prox" not in checkpoint:
        trainer = checkpoint.get("trainer_name", "unknown") if isinstance(checkpoint, dict) else "unknown"
        raise ProXError(f"{path} was written by the trainer {trainer}, not by ProXTrainer; it holds no family")
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
