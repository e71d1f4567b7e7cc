"""What a result has to say about itself."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import monai_prox

PACKAGES = ("torch", "monai", "nnunetv2", "dynamic-network-architectures", "numpy")
COMMIT = "MONAI_PROX_COMMIT"  # variable that names the commit of a copy without git


def about(settings: dict[str, Any], *, threads: int, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Date, commit, machine, versions and settings of a benchmark run. packages: others that it has used."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "machine": f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, {threads} threads used{gpu}",
        "versions": {"python": platform.python_version(), "monai-prox": monai_prox.__version__}
        | {name: _version(name) for name in (*PACKAGES, *packages)},
        "settings": settings,
    }


def _version(package: str) -> str | None:
    """None where a package was copied without its metadata."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """That of the checkout, with "-dirty" if tracked files were changed; None if neither git nor the variable knows it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT)
    return done.stdout.strip()


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
