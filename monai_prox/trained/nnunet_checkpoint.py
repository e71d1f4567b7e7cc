"""nnU-Net's checkpoints, read without executing anything. ProXTrainer's have an entry ``prox``; others get one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_prox.errors import ProXError
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.tensor_file import read_tensors, unwrapped
from monai_prox.typed import check_types

ENTRIES = {  # what others read of them, and write into exports
    "trainer_name": str,
    "current_epoch": int,
    "init_args": {"fold": int | str},
    "inference_allowed_mirroring_axes": tuple[int, ...] | None,
    "network_weights": Mapping,
    "prox": {"engine": Mapping, "choices": Mapping},
}


# The ``prox`` entry of a network that was trained alone: a family of one, trained in one stage
ONE_NETWORK = UNetChoices(width=(1.0,))
ALONE = {
    "engine": {"stage": 0},
    "choices": asdict(ONE_NETWORK),
    "stages": [{"name": "one network", "open": {}, "start": "largest"}],
}


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint that ProXTrainer wrote. Raises ProXError where it is missing, broken or another trainer's."""
    checkpoint = read_tensors(path, device, kind="checkpoint of ProXTrainer")
    if not isinstance(checkpoint, dict) or "prox" not in checkpoint:
        trainer = checkpoint.get("trainer_name", "unknown") if isinstance(checkpoint, dict) else "unknown"
        raise ProXError(f"{path} was written by the trainer {trainer!s:.80}, not by ProXTrainer; it holds no family")
    check_types(checkpoint, ENTRIES, path)
    return checkpoint


def load_any_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of any of nnU-Net's trainers, with the entry of a family of one if it has none.

    Names of weights are those of the network itself. Raises ProXError where it is missing or broken.
    """
    checkpoint = read_tensors(path, kind="checkpoint of nnU-Net", numpy=True)
    if isinstance(checkpoint, dict) and "prox" not in checkpoint:
        checkpoint = {"inference_allowed_mirroring_axes": None, **checkpoint, "prox": ALONE}  # as nnU-Net reads older ones
        check_types(checkpoint, ENTRIES, path)
        checkpoint["network_weights"] = unwrapped(checkpoint["network_weights"])
    check_types(checkpoint, ENTRIES, path)
    return checkpoint  # type: ignore[no-any-return]


def plain(data: Any) -> Any:
    """``data`` with Python's numbers in place of NumPy's, which ``weights_only=True`` would refuse."""
    if isinstance(data, dict):
        return type(data)((plain(key), plain(value)) for key, value in data.items())
    if isinstance(data, (list, tuple)):
        return type(data)(plain(value) for value in data)
    if isinstance(data, np.generic):
        return data.item()
    return data.tolist() if isinstance(data, np.ndarray) else data
