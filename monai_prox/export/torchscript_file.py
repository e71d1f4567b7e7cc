"""A member as TorchScript."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_prox.runtime.description import KEY, Description, ScanDescription, write_description


def write_torchscript(network: nn.Module, description: Description | ScanDescription, output: Path) -> None:
    """Traced; it takes batches of any size, and patches of any that the network's strides divide."""
    network = network.cpu().eval()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # TorchScript is deprecated in favour of torch.export, and asked for by users
        traced: Any = torch.jit.trace(network, torch.zeros(1, *description.input_shape))  # type: ignore[no-untyped-call]
        buffer = BytesIO()  # on a full disk torch's own writer ends the process
        torch.jit.save(traced, buffer, _extra_files={KEY: write_description(description)})
    output.write_bytes(buffer.getbuffer())
