"""Decathlon tasks on their way into nnU-Net: what is not whole is seen."""

import json
from pathlib import Path

import pytest

from monai_prox.errors import ProXError
from monai_prox.nnunet.task import check_task, convert_task, is_preprocessed, task_id


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
