"""Decathlon tasks on their way into nnU-Net."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from monai_prox.decathlon import check_tree
from monai_prox.errors import ProXError
from monai_prox.files import read_json, write_json


def task_id(task: Path) -> int:
    """4 for a folder named Task04_Hippocampus. Raises ProXError for other names."""
    head, _, name = task.name.partition("_")
    if not (head.startswith("Task") and head[4:].isdigit() and name.strip("_")):
        raise ProXError(f"{task} is not named like a Decathlon task; expected a folder such as Task04_Hippocampus")
    return int(head[4:])


def check_task(task: Path) -> None:
    """Raises ProXError unless ``task`` is named and built like a Decathlon task with labelled training cases."""
    task_id(task)
    check_tree(task)


def convert_task(task: Path) -> tuple[int, str]:
    """Brings a Decathlon task into nnUNet_raw by nnU-Net's own converter; returns its id and name there.

    A dataset that was converted before is left as it is. Raises ProXError for a folder that is no Decathlon task.
    """
    from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset

    check_task(task)
    identifier = task_id(task)
    short = task.name.partition("_")[2].replace("_", "")  # the converter allows one underscore in a task's name
    name = f"Dataset{identifier:03d}_{short}"
    raw = Path(os.environ["nnUNet_raw"]) / name
    if (raw / "dataset.json").is_file():
        return identifier, name
    if raw.exists():  # the converter writes dataset.json last
        raise ProXError(f"{raw} is there but not whole, from a conversion that was interrupted; remove it and start again")
    with tempfile.TemporaryDirectory() as temporary:
        # The converter wants a folder of test images and the two lists, which not every copy of a task has
        whole = Path(temporary, f"Task{identifier:02d}_{short}")
        whole.mkdir()
        for part in ("imagesTr", "labelsTr", "imagesTs"):
            if (task / part).is_dir():
                (whole / part).symlink_to((task / part).resolve(), target_is_directory=True)
            else:
                (whole / part).mkdir()
        write_json({"training": [], "test": []} | read_json(task / "dataset.json"), whole / "dataset.json")
        try:
            convert_msd_dataset(str(whole), num_processes=2)
        except AssertionError as error:  # how the converter says that the id is another dataset's
            raise ProXError(str(error)) from None
    return identifier, name


def is_preprocessed(dataset: str, data_identifier: str) -> bool:
    """Whether all cases of a dataset in nnUNet_raw are preprocessed; not so after an interrupted preprocessing."""
    cases = read_json(Path(os.environ["nnUNet_raw"]) / dataset / "dataset.json")["numTraining"]
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset / data_identifier
    return len(list(folder.glob("*.pkl"))) >= int(cases)
