"""What a result has to say about itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("monai-prox", "torch", "monai", "nnunetv2", "dynamic-network-architectures", "numpy")


def about(settings: dict[str, Any], *, threads: int, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Date, machine, versions and settings of a benchmark run. packages: others that it has used."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, {threads} threads used{gpu}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in (*PACKAGES, *packages)},
        "settings": settings,
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
