"""The option ``--device``, which names a device of torch in every command that has it."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from monai_prox.cli.completion import DEVICES, one_of
from monai_prox.errors import ProXError

NAME = re.compile(r"cpu|mps|cuda(:\d{1,3})?")
DeviceOption = Annotated[
    str | None,
    typer.Option(
        help="The device of torch: cpu, cuda, cuda:1 or mps. By default it is cuda if there is one, else cpu.",
        autocompletion=one_of(DEVICES),
    ),
]


def check_device(device: str | None) -> str | None:
    """Checks that torch has a device.

    Args:
        device: name of the device. None means that none was named.

    Returns:
        ``device``.

    Raises:
        ProXError: the name is none of torch's for this package, or this machine does not have the device.
    """
    if device is None:
        return None
    if not NAME.fullmatch(device):
        raise ProXError(f"--device is {device!r:.80}; allowed: cpu, cuda, cuda:1 and so on, mps")
    import torch

    if device.startswith("cuda"):
        count, index = torch.cuda.device_count(), int(device.partition(":")[2] or 0)
        if index >= count:
            found = "no GPU" if count == 0 else "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise ProXError(f"--device is {device}, and torch finds {found} on this machine")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ProXError("--device is mps, and torch finds none on this machine")
    return device
