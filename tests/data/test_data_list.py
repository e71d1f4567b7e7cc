"""Tasks that are lists of files: what is read of them, and what is said of those that cannot be."""

from __future__ import annotations

import json
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
from monai_prox.data.image_files import common_folder, image_names, is_called
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


def within(folder: Path, task: DecathlonTask) -> list[dict[str, Any]]:
    """The cases, with their files in another folder."""
    return [
        {"image": str(folder / "imagesTr" / case.name), "label": str(folder / "labelsTr" / case.name)} for case in task.cases
    ]


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
    refused("the data of Two are 'a.nii.gz'; give a list of items such as {'image': file", described_task, "a.nii.gz", "Two")
    refused(
        "a case of the data is 'a.nii.gz'; it must have image and label, one file each", described_task, ["a.nii.gz"], "Two"
    )
    refused("it must have image and label, one file each", described_task, [{"image": ["a", "b"], "label": "c"}], "Two")
    refused("it must have image and label, one file each", described_task, items, "Two", validation=[{"image": "a.nii.gz"}])
    refused("the validation data of Two have no cases", described_task, items, "Two", validation=[])
    one = described_task(items, "Two", channels=["CT"])
    refused("so 2 channels; --channels has 1: CT", make_plan, one, features=4)
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


def test_images_of_other_axes_are_named(task: DecathlonTask, tmp_path: Path) -> None:
    for shape in ((4, 4), (4, 4, 4, 1, 1)):
        image = tmp_path / "odd.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), image)
        items = [{"image": str(image), "label": str(task.cases[0].label)}]
        refused(f"odd.nii.gz has the shape {shape}; an image has three axes", described_task, items, "Two")
        described = described_task(items, "Two", channels=["MR"], labels=["none", "whole", "core"])
        refused(f"odd.nii.gz has the shape {shape}; an image has three axes", make_plan, described)


NNUNET: dict[str, Any] = {"channel_names": {"0": "T1", "1": "CT"}, "labels": {"none": 0, "core": 2, "whole": 1}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (NNUNET | {"numTraining": 2, "file_ending": ".nii.gz"}, (("T1", "CT"), ("none", "whole", "core"))),
        ({"training": [], "testing": []}, None),
        ({"modality": {"0": "T1", "1": "CT"}, "training": []}, None),
        ("{broken", None),
    ],
    ids=["nnU-Net", "a list", "half", "broken"],
)
def test_other_files_called_dataset_json(
    task: DecathlonTask, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: Any, expected: Any
) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).symlink_to(task.folder / folder)
    (tmp_path / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    items = [
        {"image": str(tmp_path / "imagesTr" / case.name), "label": str(tmp_path / "labelsTr" / case.name)}
        for case in task.cases
    ]
    described = described_task(items, "Two")
    assert (described.channels, described.labels) == (
        expected or (("channel 0", "channel 1"), ("background", "label 1", "label 2"))
    )
    assert described.named is bool(expected) and ("--channels and --labels name them" in caplog.text) is not described.named
    caplog.clear()
    assert described_task(items, "Two", channels=["A", "B"], labels=["x", "y", "z"]).channels == ("A", "B") and not caplog.text


@pytest.mark.parametrize("labels", [NNUNET["labels"] | {"ignore": 3}, {"none": 0, "whole": [1, 2], "core": 2}])
def test_labels_that_are_no_classes_have_to_be_named(task: DecathlonTask, tmp_path: Path, labels: Any) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).symlink_to(task.folder / folder)
    (tmp_path / "dataset.json").write_text(json.dumps(NNUNET | {"labels": labels}))
    items = within(tmp_path, task)
    refused("has regions or an ignore label, which bundles do not train; give labels", described_task, items, "Two")
    assert described_task(items, "Two", labels=["x", "y", "z"]).channels == ("T1", "CT")


def test_names_of_two_tasks_are_taken_if_they_agree(task: DecathlonTask, tmp_path: Path) -> None:
    for number, labels in enumerate((task.labels, task.labels, ("none", "other", "core"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for part in ("imagesTr", "labelsTr"):
            (folder / part).symlink_to(task.folder / part)
        content = {"modality": {"0": "A", "1": "B"}, "labels": {str(value): name for value, name in enumerate(labels)}}
        (folder / "dataset.json").write_text(json.dumps(content))
    name = task.cases[0].name
    cases = [
        {"image": f"{tmp_path}/{number}/imagesTr/{name}", "label": f"{tmp_path}/{number}/labelsTr/{name}"}
        for number in range(3)
    ]
    assert described_task(cases[:2], "Two").labels == task.labels
    assert described_task(cases, "Two").labels == ("background", "label 1", "label 2")


def test_images_are_named_apart(tmp_path: Path) -> None:
    images = [tmp_path / folder / "scan.nii.gz" for folder in ("a/x", "b/x", "b/y")]
    names = image_names(images)
    assert names == ("a/x/scan.nii.gz", "b/x/scan.nii.gz", "b/y/scan.nii.gz")
    assert [[is_called(image, name) for image in images] for name in names] == np.eye(3, dtype=bool).tolist()
    assert image_names([*images[:1], *images[:1]]) == ("scan.nii.gz", "scan.nii.gz") and image_names([]) == ()
    refused(f"there is no file {images[0]}", common_folder, [{"image": str(images[0])}])
    for data in ("scan.nii.gz", {"image": "scan.nii.gz"}, []):
        refused("the data ", common_folder, data)
    for image in images:
        image.parent.mkdir(parents=True)
        image.touch()
    assert common_folder([{"image": str(image)} for image in images]) == str(tmp_path)
    assert common_folder([{"image": images[0]}]) == str(images[0].parent)
    refused("a case of the data is {'label': 'a'}; it must have image, one file each", common_folder, [{"label": "a"}])
    beside = tmp_path / "a" / "x" / ".." / ".." / "b" / "x" / "scan.nii.gz"
    assert common_folder([{"image": str(image)} for image in (images[0], beside)]) == str(tmp_path)
    twin = images[0].with_name("scan.nii")
    twin.touch()
    both = [{"image": str(image)} for image in (images[0], twin)]
    refused(f"{images[0]} and {twin} would both have the mask of scan", common_folder, both)


def test_what_is_counted_is_said(task: DecathlonTask, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = moved(task, tmp_path)
    label = tmp_path / "gap.nii.gz"
    nib.save(nib.Nifti1Image(np.full((12, 12, 12), 5, np.uint8), np.eye(4)), label)
    assert len(described_task([items[0] | {"label": str(label)}], "Two").labels) == 6
    assert "2 channels are counted, and normalised as those of MR; --channels names them" in caplog.text
    assert "labels are counted up to 5, and no label image has 1, 2, 3, 4; the network gets" in caplog.text


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
