"""The precision of a training's forward passes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from monai_prox.errors import ProXError


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of forward passes.

    Args:
        precision: "fp16", as in nnU-Net, which is float32 unless the device is a GPU; or "bf16".
        device: the device.
    """
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()


def check_precision(precision: str, device: torch.device) -> None:
    """Checks that a device has a precision.

    Args:
        precision: see ``autocast``.
        device: the device.

    Raises:
        ProXError: the device has no bfloat16.
    """
    has_bf16 = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    if precision == "bf16" and not has_bf16:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise ProXError(
            f"the precision is 'bf16', which {name} does not compute in: it takes a GPU of compute capability 8.0 or a CPU; "
            "take 'fp16', nnU-Net's own"
        )
