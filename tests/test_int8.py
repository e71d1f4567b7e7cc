"""Members in integers: calibrated on some cases, measured on others, and not written where they lose too much."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from nnunet_task import TWO_MEMBERS, bare_model, bare_plans
from refusals import refused

from monai_prox.export.int8 import Labelled, dice, dice_of, find_labelled, quantise
from monai_prox.export.onnx_file import export_onnx, export_onnx_int8
from monai_prox.files import write_json
from monai_prox.nnunet.model_folder import ModelFolder
from monai_prox.runtime.cases import find_cases
from monai_prox.runtime.prediction import Model, predict

NAMES = [f"case_{index}" for index in range(4)]

pytest_plugins = ["nnunet_fixtures"]


@pytest.fixture
def model(bare: Path) -> ModelFolder:
    return bare_model(bare_plans(prox={"space": TWO_MEMBERS}))


@pytest.fixture
def dataset(model: ModelFolder, tmp_path: Path) -> Path:
    """Smooth images, and as labels what the largest member makes of them: its own Dice is 1."""
    folder = tmp_path / "dataset"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for index in range(4):
        noise = np.random.default_rng(index).normal(size=(20, 34, 27)).astype(np.float32)
        image = sitk.DiscreteGaussian(sitk.GetImageFromArray(noise), 4.0)
        sitk.WriteImage(image, folder / "imagesTr" / f"case_{index}_0000.nii.gz")
    opened = Model(export_onnx(model, "largest", tmp_path / "largest.onnx"), threads=1)
    cases = find_cases(folder / "imagesTr", ".nii.gz")
    problems = [problem for _, problem in predict(opened, cases, folder / "labelsTr")]
    assert problems == [None] * 4
    return folder


def test_integers_segment_almost_as_floats_do(model: ModelFolder, dataset: Path, tmp_path: Path) -> None:
    cases = find_labelled(dataset, ".nii.gz", NAMES)
    file, output = tmp_path / "largest.onnx", tmp_path / "new" / "int8.onnx"
    assert dice(Model(file), cases) == 1
    loss = quantise(file, output, cases, most_loss=0.2)  # random weights are more sensitive than trained ones
    assert loss.before == 1 and 0.8 <= loss.after < 1 and (loss.calibrated, loss.measured) == (2, 2)
    quantised = Model(output)
    assert quantised.description == Model(file).description
    assert dice(quantised, cases[1::2]) == pytest.approx(loss.after)
    operations = {node.op_type for node in onnx.load(output).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operations
    assert output.stat().st_size < file.stat().st_size


def test_what_loses_too_much_is_not_written(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "int8.onnx"
    words = refused(
        "more than the -1 that may be lost",
        quantise,
        tmp_path / "largest.onnx",
        output,
        find_labelled(dataset, ".nii.gz", NAMES),
        most_loss=-1,
    )
    assert "Dice 1.0000 in float32" in words and "2 cases; calibrated on 2 others" in words
    assert not output.exists() and not list(tmp_path.glob(".int8*"))


def test_a_model_is_calibrated_on_what_its_training_held_out(
    model: ModelFolder, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Labelled] = []
    monkeypatch.setattr("monai_prox.export.onnx_file.quantise", lambda source, output, cases: seen.extend(cases))
    folder = model.path / "fold_0" / "validation"
    folder.mkdir()
    summary = {"metric_per_case": [{"reference_file": f"/elsewhere/{name}.nii.gz"} for name in ("case_1", "case_3", "case_9")]}
    write_json(summary, folder / "summary.json")
    export_onnx_int8(model, "largest", tmp_path / "int8.onnx", dataset)
    assert [labelled.case.name for labelled in seen] == ["case_1", "case_3"]


def test_where_nothing_was_held_out_nothing_is_calibrated(model: ModelFolder, dataset: Path, tmp_path: Path) -> None:
    """Its Dice would be that of cases that it knows."""
    output = tmp_path / "int8.onnx"
    refused("no validation/summary.json, so no case is known", export_onnx_int8, model, "largest", output, dataset)
    (model.path / "fold_0").rename(model.path / "fold_all")
    model = ModelFolder.open(model.path)
    refused("trained on all cases, so no case is known", export_onnx_int8, model, "largest", output, dataset)
    refused("no finished fold_3", export_onnx_int8, model, "largest", output, dataset, fold="fold_3")


def test_datasets_that_cannot_calibrate_are_named(model: ModelFolder, dataset: Path, tmp_path: Path) -> None:
    refused("has no imagesTr", find_labelled, tmp_path, ".nii.gz", NAMES)
    refused("has 1 of the 2 cases that were held out", find_labelled, dataset, ".nii.gz", ["case_1", "case_9"])
    cases, opened = find_labelled(dataset, ".nii.gz", NAMES), Model(tmp_path / "largest.onnx", threads=1)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), cases[0].labels)
    refused("has (4, 3, 2) voxels, its image (27, 34, 20)", dice, opened, cases)
    cases[0].labels.write_bytes(b"no image")
    refused("cannot be read", dice, opened, cases)
    for labelled in cases:
        labelled.labels.unlink()
    refused("has 0 of the 4 cases", find_labelled, dataset, ".nii.gz", NAMES)


def test_dice_is_over_what_occurs_or_is_predicted() -> None:
    classes = {"background": 0, "a": 1, "b": 2}
    one, nothing = np.array([0, 1, 1, 0]), np.zeros(4, int)
    assert dice_of(one, one, classes) == 1, "b is nowhere"
    assert dice_of(nothing, nothing, classes) == 1
    assert dice_of(np.array([0, 1, 2, 0]), one, classes) == pytest.approx((2 / 3 + 0) / 2)
    assert dice_of(np.array([0, 1, 2, 0]), one, {"background": 0, "whole": [1, 2], "b": 2}) == pytest.approx((1 + 0) / 2)
    sparse = np.array([3, 1, 1, 3])
    assert dice_of(np.array([1, 1, 1, 2]), sparse, classes | {"ignore": 3}) == 1, "what is not labelled does not count"
