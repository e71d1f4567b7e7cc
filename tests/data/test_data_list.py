"""Tasks that are lists of files: what is read of them, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.bundle_commands import write_ellipsoids
from helpers.refusals import refused

from monai_prox.data.data_list import described_task
from monai_prox.data.decathlon import DecathlonTask
from monai_prox.data.decathlon_plan import make_plan
from monai_prox.data.planned import datalist


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> DecathlonTask:
    folder = tmp_path_factory.mktemp("list") / "Task990_Two"
    return DecathlonTask.read(write_ellipsoids(folder, ("A", "B"), ("none", "whole", "core"), (12, 12, 12), (1.0,) * 3))


def moved(task: DecathlonTask, folder: Path) -> list[dict[str, Any]]:
    """The cases without their dataset.json."""
    items = []
    for number, case in enumerate(task.cases):
        item = {"image": folder / f"{number}_image.nii.gz", "label": folder / f"{number}_label.nii.gz"}
        for key, path in item.items():
            path.symlink_to(getattr(case, key))
        items.append({key: str(path) for key, path in item.items()})
    return items


def test_the_files_of_a_decathlon_task_have_its_names(task: DecathlonTask) -> None:
    described = described_task(datalist(task.cases[:2]), "Two")
    assert (described.channels, described.labels, described.named) == (task.channels, task.labels, True)
    assert described.cases == task.cases[:2] and described.licence == task.licence


def test_other_files_are_counted(task: DecathlonTask, tmp_path: Path) -> None:
    items = moved(task, tmp_path)
    described = described_task(items, "Two")
    assert described.channels == ("channel 0", "channel 1") and described.labels == ("background", "label 1", "label 2")
    assert not described.named
    plan = make_plan(described, described.cases, features=4, patch_voxels=4096)
    assert plan.labels == described.labels and plan.intensity["kind"] == "z-score"
    plan.check_fits(described)
    one = described_task(items, "Two", channels=["A"], labels=["none", "whole"])
    refused("this was trained with 2 and up to 2", plan.check_fits, described_task(items, "Two", labels=[*"abcd"]))
    assert one.channels == ("A",) and one.labels == ("none", "whole") and one.named


def test_what_is_no_list_of_files_is_named(task: DecathlonTask, tmp_path: Path) -> None:
    items = moved(task, tmp_path)
    refused("the data of Two have no cases", described_task, [], "Two")
    refused("a case of the data is 'a.nii.gz'; it must have the files image and label", described_task, ["a.nii.gz"], "Two")
    refused("it must have the files image and label, one each", described_task, [{"image": ["a", "b"], "label": "c"}], "Two")
    refused("there is no file a.nii.gz, which the data list", described_task, [{"image": "a.nii.gz", "label": "b"}], "Two")
    refused("channels are 'CT'; they must be a list of at least 1 names", described_task, items, "Two", channels="CT")
    refused(
        "labels are ['one']; they must be a list of at least 2 names, all",
        described_task,
        items,
        "Two",
        labels=["one"],
    )
    for values, said in (
        ([0, 0.5], "labels are whole numbers from 0 to 1000"),
        ([-1, 0], "labels are whole"),
    ):
        label = tmp_path / "odd.nii.gz"
        nib.save(nib.Nifti1Image(np.array(values, np.float32).reshape(2, 1, 1), np.eye(4)), label)
        refused(said, described_task, [{"image": items[0]["image"], "label": str(label)}], "Two")


def test_a_list_of_background_can_be_evaluated_and_not_planned(task: DecathlonTask, tmp_path: Path) -> None:
    label = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((12, 12, 12), np.uint8), np.eye(4)), label)
    empty = described_task([moved(task, tmp_path)[0] | {"label": str(label)}], "Two")
    make_plan(task, features=4, patch_voxels=4096).check_fits(empty)
    refused("no label image of Two has a label beside the background, 0", make_plan, empty, features=4)


def test_names_that_nobody_gave_fit_those_that_somebody_gave(task: DecathlonTask, tmp_path: Path) -> None:
    plan = make_plan(described_task(moved(task, tmp_path), "Two"), features=4, patch_voxels=4096)
    plan.check_fits(task)
    refused("patch_size is [1, 1, 1]; the network needs more than", plan.changed, patch_size=[1, 1, 1])
