"""What is missing on this machine, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import monai_prox
from monai_prox.requirements import extras, install_command, requirements

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class Finding:
    """Something that was looked for.

    Args:
        what: its name.
        good: whether it is there and as it should be.
        detail: what was found, or what to do.
        optional: whether only some commands need it.
    """

    what: str
    good: bool
    detail: str
    optional: bool = False


def trainers_folder() -> Path:
    """The folder for ``nnUNet_extTrainer``: beside the package in a checkout, inside it in an installation."""
    package = Path(monai_prox.__file__).parent
    inside = package / "nnunet_trainers"
    return inside if inside.is_dir() else package.parent / "nnunet_trainers"


def examine() -> list[Finding]:
    """All findings, good and bad; imports nnU-Net only if it is there."""
    return [*versions(), *extra_packages(), *_variables(), _trainer(), *devices()]


def versions() -> list[Finding]:
    return [Finding(one.name, one.problem is None, one.problem or str(one.installed)) for one in requirements()]


def extra_packages() -> list[Finding]:
    """One finding per extra, with the versions of its packages."""
    findings = []
    for extra, needed in extras().items():
        if extra:
            lacking = [one.name for one in needed if one.installed is None]
            wrong = [f"{one.name} {one.problem}" for one in needed if one.installed is not None and one.problem is not None]
            detail = ", ".join(f"{one.name} {one.installed}" for one in needed)
            if lacking:
                detail = f"{', '.join(lacking)} not installed; {install_command(extra)}"
            elif wrong:
                detail = "; ".join(wrong)
            findings.append(Finding(f"extra {extra}", not lacking and not wrong, detail, optional=True))
    return findings


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


def devices() -> list[Finding]:
    """What networks can run on: torch's devices by the names that --device takes, and those of the other runtimes."""
    return [Finding(name, True, detail) for name, detail in (*_torch_devices(), *_runtime_devices())]


def _torch_devices() -> Iterator[tuple[str, str]]:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "device cpu", f"{threads} threads"
    try:
        import torch
    except ImportError:  # which the versions have told
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"device cuda:{index}", f"{properties.name}, {properties.total_memory / 1e9:.1f} GB"
    if torch.backends.mps.is_available():
        yield "device mps", "Apple's GPU"


def _runtime_devices() -> Iterator[tuple[str, str]]:
    try:
        import onnxruntime

        yield "onnxruntime runs on", ", ".join(onnxruntime.get_available_providers())
    except ImportError:
        pass
    try:
        import openvino

        core = openvino.Core()
        yield (
            "openvino runs on",
            ", ".join(f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME')})" for name in core.available_devices),
        )
    except ImportError:
        pass
    except RuntimeError as error:  # of a driver
        yield "openvino runs on", f"nothing: {' '.join(str(error).split()):.160}"
