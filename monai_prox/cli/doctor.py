"""What is missing on this machine, and what to do about it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import monai_prox
from monai_prox.requirements import requirements

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class Finding:
    what: str
    good: bool
    detail: str


def trainers_folder() -> Path:
    """The folder for ``nnUNet_extTrainer``: beside the package in a checkout, inside it in an installation."""
    package = Path(monai_prox.__file__).parent
    inside = package / "nnunet_trainers"
    return inside if inside.is_dir() else package.parent / "nnunet_trainers"


def examine() -> list[Finding]:
    """All findings, good and bad; imports nnU-Net only if it is there."""
    return [*versions(), *_variables(), _trainer(), _device()]


def versions() -> list[Finding]:
    return [Finding(one.name, one.problem is None, one.problem or str(one.installed)) for one in requirements()]


def _variables() -> list[Finding]:
    findings = []
    for name in VARIABLES:
        folder = os.environ.get(name)
        if not folder:
            findings.append(Finding(name, False, f"not set; export {name}=/a/folder"))
        elif not Path(folder).is_dir():
            findings.append(Finding(name, False, f"{folder} is not a folder; mkdir -p {folder}"))
        else:
            findings.append(Finding(name, True, folder))
    return findings


def _trainer() -> Finding:
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        trainer = recursive_find_trainer_class_by_name("ProXTrainer")
    except ImportError as error:
        return Finding("ProXTrainer", False, f"nnU-Net cannot be imported: {error}")
    except RuntimeError:
        return Finding("ProXTrainer", False, f"not visible to nnU-Net; export nnUNet_extTrainer={trainers_folder()}")
    return Finding("ProXTrainer", True, f"visible to nnU-Net as {trainer.__module__}.{trainer.__name__}")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", True, torch.cuda.get_device_name())
    return Finding("device", True, f"CPU, {os.cpu_count()} cores; train with -device cpu")
