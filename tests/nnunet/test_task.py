"""Decathlon tasks on their way into nnU-Net: what is not whole is seen."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.nnunet_task import bare_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.errors import ProXError
from monai_prox.nnunet.task import check_task, convert_task, is_preprocessed, named_task, split, task_id


@pytest.fixture
def task(tmp_path: Path) -> Path:
    task = tmp_path / "Task04_Hippocampus"
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True)
    (task / "dataset.json").write_text(json.dumps({"labels": {"0": "background"}, "modality": {"0": "MRI"}}))
    return task


def test_the_number_is_in_the_name() -> None:
    assert task_id(Path("/data/Task04_Hippocampus")) == 4
    assert task_id(Path("/data/Task101_BraTS_2ch")) == 101
    for name in ("Hippocampus", "Task_Hippocampus", "Task04", "Task04_"):
        with pytest.raises(ProXError, match="not named like a Decathlon task"):
            task_id(Path(name))


@pytest.mark.parametrize("part", ["dataset.json", "imagesTr", "labelsTr"])
def test_what_a_task_lacks_is_named(task: Path, part: str) -> None:
    check_task(task)
    (task / part).rename(task / "elsewhere")
    with pytest.raises(ProXError, match=f"has no {part}"):
        check_task(task)


def test_an_interrupted_conversion_is_not_taken_for_a_dataset(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "nnUNet_raw"
    monkeypatch.setenv("nnUNet_raw", str(raw))
    half = raw / "Dataset004_Hippocampus"
    (half / "imagesTr").mkdir(parents=True)
    with pytest.raises(ProXError, match="not whole, from a conversion that was interrupted"):
        convert_task(task)
    (half / "dataset.json").write_text("{}")
    assert convert_task(task) == (4, "Dataset004_Hippocampus"), "a whole one is used again"


def test_underscores_in_a_name_are_left_out(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's converter allows but one."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nnUNet_raw"))
    (tmp_path / "nnUNet_raw" / "Dataset004_LeftHippocampus").mkdir(parents=True)
    (tmp_path / "nnUNet_raw" / "Dataset004_LeftHippocampus" / "dataset.json").write_text("{}")
    assert convert_task(task.rename(tmp_path / "Task04_Left_Hippocampus")) == (4, "Dataset004_LeftHippocampus")


def test_preprocessing_is_over_when_every_case_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "nnUNet_raw" / "Dataset004_A").mkdir(parents=True)
    (tmp_path / "nnUNet_raw" / "Dataset004_A" / "dataset.json").write_text('{"numTraining": 2}')
    assert not is_preprocessed("Dataset004_A", "nnUNetPlans_3d_fullres")
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset004_A" / "nnUNetPlans_3d_fullres"
    folder.mkdir(parents=True)
    for number in (1, 2):
        assert not is_preprocessed("Dataset004_A", "nnUNetPlans_3d_fullres")
        (folder / f"case_{number}.pkl").touch()
    assert is_preprocessed("Dataset004_A", "nnUNetPlans_3d_fullres")


# ---------------------------------------------------------------------- conversions by nnU-Net
@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnUNet_raw; the other folders beside it."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / "nnunet" / variable).mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / "nnunet" / variable))
    return tmp_path / "nnunet" / "nnUNet_raw"


def write_case(
    task: Path, name: str, ending: str = ".nii.gz", shape: Sequence[int] = (4, 5, 6), value: int = 1
) -> dict[str, str]:
    """An image and its label; returns how dataset.json lists them."""
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.full(shape, value, np.int16), np.eye(4)), task / part / f"{name}{ending}")
    return {part[:5]: f"./{part}/{name}{ending}" for part in ("imagesTr", "labelsTr")}


def write_list(task: Path, training: Sequence[Any], **entries: Any) -> None:
    data = {"modality": {"0": "MRI"}, "labels": {"0": "Background", "1": "nucleus"}, "training": list(training)}
    (task / "dataset.json").write_text(json.dumps(data | entries))


def converted(raw: Path) -> set[str]:
    names = [{path.name for path in (raw / part).iterdir()} for part in ("imagesTr", "labelsTr")]
    assert {name.replace("_0000", "") for name in names[0]} == names[1]
    return {name.removesuffix(".nii.gz") for name in names[1]}


def test_the_cases_are_those_that_are_listed(tmp_path: Path, nnunet: Path) -> None:
    """Of any of NIfTI's endings, as many as there are, and label 0 has the name that nnU-Net asks for."""
    task = tmp_path / "Task208_Nuclei"
    listed = [write_case(task, "a.1", ".nii"), write_case(task, "b", shape=(4, 5, 1))]
    write_case(task, "unlisted")
    write_list(task, listed, numTraining=7)
    raw = nnunet / convert_task(task)[1]
    assert converted(raw) == {"a.1", "b"}
    data = json.loads((raw / "dataset.json").read_text())
    assert data["labels"] == {"background": 0, "nucleus": 1} and data["numTraining"] == 2
    assert PlansManager(bare_plans()).get_label_manager(data).foreground_labels == [1]
    whole = nib.load(raw / "imagesTr" / "a.1_0000.nii.gz")
    assert np.array_equal(whole.get_fdata(), nib.load(task / "imagesTr" / "a.1.nii").get_fdata())


def test_without_a_list_the_cases_are_those_that_lie_there(tmp_path: Path, nnunet: Path) -> None:
    task = tmp_path / "Task208_Nuclei"
    for name, ending in (("a", ".nii"), ("b", ".nii.gz"), ("._b", ".nii.gz")):
        write_case(task, name, ending)
    write_list(task, [])
    assert converted(nnunet / convert_task(task)[1]) == {"a", "b"}
    (task / "labelsTr" / "a.nii").unlink()
    with pytest.raises(ProXError, match=r"a\.nii has no label in labelsTr; 1 of 2 images have none"):
        convert_task(task)


def test_what_was_converted_from_other_files_is_never_used(tmp_path: Path, nnunet: Path) -> None:
    """And where it may be replaced, what was preprocessed of it goes, too."""
    task = tmp_path / "Task208_Nuclei"
    listed = [write_case(task, name) for name in ("a", "b")]
    write_list(task, listed)
    _, name = convert_task(task)
    preprocessed = Path(os.environ["nnUNet_preprocessed"], name)
    preprocessed.mkdir()
    (preprocessed.parent.parent / "nnUNet_results" / name).mkdir()  # a training's; nnU-Net's converter would refuse
    before = (nnunet / name / "imagesTr" / "a_0000.nii.gz").stat().st_mtime_ns
    assert convert_task(task, replace=True)[1] == name
    assert preprocessed.exists() and (nnunet / name / "imagesTr" / "a_0000.nii.gz").stat().st_mtime_ns == before

    for change in (
        lambda: write_case(task, "a", value=5),
        lambda: write_list(task, listed, labels={"0": "background", "1": "cell"}),
        lambda: write_list(task, listed[:1]),
    ):
        change()
        preprocessed.mkdir(exist_ok=True)
        with pytest.raises(ProXError, match=f"{name} was converted from other files than those of .*; remove it and start"):
            convert_task(task)
        assert preprocessed.exists()
        assert convert_task(task, replace=True)[1] == name
        assert not preprocessed.exists()
    assert converted(nnunet / name) == {"a"}
    assert nib.load(nnunet / name / "imagesTr" / "a_0000.nii.gz").get_fdata().max() == 5
    assert json.loads((nnunet / name / "dataset.json").read_text())["labels"] == {"background": 0, "nucleus": 1}
    assert [path.name for path in nnunet.iterdir()] == [name]


def test_a_conversion_of_nobody_knows_what_is_used_if_its_cases_are_the_same(tmp_path: Path, nnunet: Path) -> None:
    """Those of former versions do not tell; they are never removed."""
    task = tmp_path / "Task208_Nuclei"
    write_list(task, [write_case(task, name) for name in ("a", "b")])
    _, name = convert_task(task)
    (nnunet / name / "converted_from.json").unlink()
    assert convert_task(task, replace=True)[1] == name
    write_list(task, [write_case(task, name) for name in ("a", "c")])
    with pytest.raises(ProXError, match="was converted from other files"):
        convert_task(task, replace=True)


def entry(name: str) -> dict[str, str]:
    return {"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (lambda task: [entry("a.png")], r"lists 2 files that are not there, the first is .*a\.png"),
        (lambda task: [write_case(task, "a", ".img")], r"a\.img is no \.nii\.gz or \.nii file"),
        (lambda task: [write_case(task, "a"), write_case(task, "a", ".nii")], "lists 2 training cases, of which 1 have names"),
        (
            lambda task: [write_case(task, "flat", shape=(4, 5))],
            r"nnU-Net cannot convert Task208_Nuclei: .*dimension.*/Task208_Nuclei/imagesTr/flat\.nii\.gz, cannot split$",
        ),
        (lambda task: [entry("../a.nii.gz")], "files are named from the task's folder down"),
        (lambda task: [], "has no training cases"),
    ],
    ids=["missing", "another format", "one name", "two axes", "outside", "empty"],
)
def test_a_task_that_cannot_be_converted_leaves_nothing(training: Any, message: str, tmp_path: Path, nnunet: Path) -> None:
    task = tmp_path / "Task208_Nuclei"
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True)
    write_list(task, training(task))
    with pytest.raises(ProXError, match=message):
        convert_task(task)
    assert not list(nnunet.iterdir())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": ["background", "nucleus"]}, 'labels must be numbered from 0 on, {"0": name, "1": name, ...}, got '),
        ({"labels": {"background": 0, "nucleus": 1}}, "labels must be numbered from 0 on"),
        ({"labels": {"1": "nucleus"}}, "labels must be numbered from 0 on"),
        ({"labels": {"0": "nothing", "1": "cell", "2": "cell"}}, "2 labels are named 'cell', of which nnU-Net would know one"),
        ({"labels": {"0": "nothing", "1": "background"}}, "2 labels are named 'background'"),
        ({"modality": ["light"]}, "modality must be numbered from 0 on"),
    ],
    ids=["list", "nnU-Net's", "no background", "one name", "background's name", "channels"],
)
def test_what_labels_and_channels_lack_is_named(entries: dict[str, Any], message: str, tmp_path: Path, nnunet: Path) -> None:
    """And once it is mended the task is converted."""
    task = tmp_path / "Task208_Nuclei"
    listed = [write_case(task, "a")]
    write_list(task, listed, **entries)
    with pytest.raises(ProXError) as error:
        convert_task(task)
    assert str(error.value).startswith(f"{task / 'dataset.json'}: {message}")
    write_list(task, listed)
    assert converted(nnunet / convert_task(task)[1]) == {"a"}


def test_an_id_that_another_dataset_has_is_named(tmp_path: Path, nnunet: Path) -> None:
    task = tmp_path / "Task208_Nuclei"
    write_list(task, [write_case(task, "a")])
    (nnunet / "Dataset208_Cells").mkdir()
    with pytest.raises(ProXError, match="the id 208 is taken by Dataset208_Cells"):
        convert_task(task)


def test_a_task_is_found_by_its_name_from_within_and_behind_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tmp_path / "Task208_Nuclei"
    task.mkdir()
    (tmp_path / "nuclei").symlink_to(task)
    (tmp_path / "store").mkdir()
    (tmp_path / "Task04_Hippocampus").symlink_to(tmp_path / "store")
    monkeypatch.chdir(task)
    assert named_task(".") == named_task("../Task208_Nuclei") == named_task(tmp_path / "nuclei") == task
    assert named_task(tmp_path / "Task04_Hippocampus").name == "Task04_Hippocampus"


def test_few_cases_are_held_out_one_by_one() -> None:
    """nnU-Net splits five and more by itself."""
    assert split("abcde") is None
    assert split(["a", "b"]) == [{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]
    assert split(["a"]) == [{"train": ["a"], "val": ["a"]}]
