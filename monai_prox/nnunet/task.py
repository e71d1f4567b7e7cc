"""Decathlon tasks on their way into nnU-Net."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.files import read_json, write_json


def task_id(task: Path) -> int:
    """4 for a folder named Task04_Hippocampus. Raises ProXError for other names."""
    head, _, name = task.name.partition("_")
    if not (head.startswith("Task") and head[4:].isdigit() and name and "_" not in name):
        raise ProXError(f"{task} is not named like a Decathlon task; expected a folder such as Task04_Hippocampus")
    return int(head[4:])


def check_task(task: Path) -> None:
    """Raises ProXError unless ``task`` has the tree of a Decathlon task with labelled training cases."""
    task_id(task)
    for part in ("dataset.json", "imagesTr", "labelsTr"):
        if not (task / part).exists():
            raise ProXError(f"{task} has no {part}; a Decathlon task has dataset.json, imagesTr and labelsTr")
    missing = [key for key in ("labels", "modality") if key not in read_json(task / "dataset.json")]
    if missing:
        raise ProXError(f"{task / 'dataset.json'} lacks {', '.join(missing)}, which the Decathlon's files have")


def convert_task(task: Path) -> tuple[int, str]:
    """Brings a Decathlon task into nnUNet_raw by nnU-Net's own converter; returns its id and name there.

    A dataset that was converted before is left as it is. Raises ProXError for a folder that is no Decathlon task.
    """
    from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset

    check_task(task)
    identifier = task_id(task)
    name = f"Dataset{identifier:03d}_{task.name.partition('_')[2]}"
    if (Path(os.environ["nnUNet_raw"]) / name / "dataset.json").is_file():
        return identifier, name
    with tempfile.TemporaryDirectory() as temporary:
        # The converter wants a folder of test images and the two lists, which not every copy of a task has
        whole = Path(temporary, task.name)
        whole.mkdir()
        for part in ("imagesTr", "labelsTr", "imagesTs"):
            if (task / part).is_dir():
                (whole / part).symlink_to((task / part).resolve(), target_is_directory=True)
            else:
                (whole / part).mkdir()
        write_json({"training": [], "test": []} | read_json(task / "dataset.json"), whole / "dataset.json")
        convert_msd_dataset(str(whole), num_processes=2)
    return identifier, name
