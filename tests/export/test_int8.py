"""Members in integers: calibrated on some cases, measured on others, and not written where they lose too much."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.descriptions import DESCRIBED
from helpers.nnunet_task import device_file, hold_out, write_held_out
from helpers.refusals import refused
from onnx import TensorProto, helper, numpy_helper

from monai_prox.export import onnx_file
from monai_prox.export.device_file import export_file
from monai_prox.export.int8 import Loss, compare, halves, quantise
from monai_prox.export.onnx_file import OPSET
from monai_prox.runtime.cases import Case
from monai_prox.runtime.description import KEY, Description, Normalisation, ScanDescription, write_description
from monai_prox.runtime.evaluation import Labelled, SegmentedCases, find_labelled
from monai_prox.runtime.model import Model
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

NAMES = [f"case_{index}" for index in range(4)]

pytest_plugins = ["helpers.nnunet_fixtures"]


@pytest.fixture
def model(two_members: Path, tmp_path: Path) -> ModelFolder:
    """A copy, to which held-out cases are added."""
    return ModelFolder.open(shutil.copytree(two_members / "model", tmp_path / "results" / "dataset" / two_members.name))


def description_of(model: Model) -> Description:
    assert isinstance(model.description, Description)
    return model.description


@pytest.fixture
def dataset(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_held_out(model, NAMES)
    monkeypatch.setenv("nnUNet_raw", str(folder.parent))
    return folder


@pytest.mark.parametrize(
    ("format", "ending", "weights"),
    [("onnx", ".onnx", ".onnx"), pytest.param("openvino", ".xml", ".bin", marks=[pytest.mark.alone, pytest.mark.slow])],
)
def test_integers_segment_almost_as_floats_do(
    format: str, ending: str, weights: str, model: ModelFolder, dataset: Path, two_members: Path, tmp_path: Path
) -> None:
    source = TrainedNNUNet.open(model.path)
    output, plain = tmp_path / "new" / f"int8{ending}", two_members / f"largest{ending}"
    # random weights are more sensitive than trained ones
    loss = export_file(source, "largest", output, format, int8=True, most_loss=0.2)
    assert loss is not None and loss.before == pytest.approx(1, abs=1e-3) and 0.8 <= loss.after < 1
    assert (loss.calibrated, loss.measured) == (2, 2)
    if format != "onnx":
        plain = device_file(model, "largest", tmp_path / f"plain{ending}", format)
    quantised = Model(output)
    assert quantised.description == Model(plain).description
    scores = source.held_out().scores([1, 3], description_of(quantised), quantised)
    assert np.mean(scores) == pytest.approx(loss.after)
    sizes = [file.with_suffix(weights).stat().st_size for file in (output, plain)]
    assert sizes[0] < sizes[1]
    if format == "onnx":
        written = onnx.load(output)
        assert [(one.domain, one.version) for one in written.opset_import] == [("", OPSET)]  # older runtimes refuse more
        operations = {node.op_type for node in written.graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= operations


def test_what_loses_too_much_is_not_written(
    model: ModelFolder, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network was exported once, for both files that were compared."""
    exports: list[Path] = []
    monkeypatch.setattr(
        onnx_file,
        "write_onnx",
        lambda *of, write=onnx_file.write_onnx, **options: (exports.append(of[2]), write(*of, **options)),
    )
    output, source = tmp_path / "out" / "int8.onnx", TrainedNNUNet.open(model.path)
    words = refused(
        "more than the -1 that may be lost", export_file, source, "largest", output, "onnx", int8=True, most_loss=-1
    )
    assert "Dice 1.0000 in float32" in words and "2 cases; calibrated on 2 others" in words
    assert list(output.parent.iterdir()) == [] and len(exports) == 1 and not exports[0].exists()


class Bright:
    """Scans of which one case is ten times as bright as the one before, from 1 on; their scores are their numbers."""

    names = NAMES

    left_out: dict[str, str] = {}

    def usable(self, which: Sequence[int], description: ScanDescription) -> list[int]:
        return list(which)

    def inputs(self, which: Sequence[int], description: ScanDescription, most: int) -> Iterator[np.ndarray]:
        for index in which:
            yield np.full((1, *description.input_shape), 10.0**index, np.float32)

    def scores(self, which: Sequence[int], description: ScanDescription, network: Model) -> list[float]:
        return [float(index) for index in which]


def test_what_calibrates_does_not_measure(tmp_path: Path) -> None:
    """Of four cases the first and the third calibrate: an image of 100 becomes 255. The second and the fourth measure."""
    scan = ScanDescription(
        member="m", subnet={}, task="", source="", classes=("a", "b"), image_size=(4, 4), working_size=(4, 4)
    )
    weights = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "weights")
    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["batch", 1, 4, 4]), ("logits", ["batch", 2, 2, 2]))
    )
    convolution = helper.make_node("Conv", ["image", "weights"], ["logits"])
    model = helper.make_model(
        helper.make_graph([convolution], "graph", [image], [logits], [weights]), opset_imports=[helper.make_opsetid("", OPSET)]
    )
    helper.set_model_props(model, {KEY: write_description(scan)})
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model, before)
    cases: Any = Bright()
    quantise(before, after, cases)
    tensors = {one.name: numpy_helper.to_array(one) for one in onnx.load(after).graph.initializer}
    assert tensors["image_scale"] == pytest.approx(100 / 255)
    assert tensors["logits_scale"] == pytest.approx(9 * 100 / 255)
    assert Model(after).description == scan
    assert compare(before, after, cases, "accuracy", most_loss=0) == Loss("accuracy", 2, 2, calibrated=2, measured=2)

    empty: Any = Empty()
    assert compare(before, after, empty, "dice", most_loss=0) == Loss("dice", 1, 1, calibrated=2, measured=1)
    nothing: Any = Nothing()
    refused("no class occurs in, or is predicted for, the 2 cases", compare, before, after, nothing, "dice", most_loss=1)


class Empty(Bright):
    """Of the second and the fourth case the fourth has no class, and none is predicted."""

    def scores(self, which: Sequence[int], description: ScanDescription, network: Model) -> list[float]:
        return [1.0 if index < 3 else float("nan") for index in which]


class Nothing(Bright):
    """No case has a class."""

    def scores(self, which: Sequence[int], description: ScanDescription, network: Model) -> list[float]:
        return [float("nan") for _ in which]


def test_cases_that_are_left_out_are_named() -> None:
    assert str(Loss("dice", 1, 1, 1, 1)).endswith("1 cases; calibrated on 1 others")
    assert str(Loss("dice", 1, 1, 1, 1, {"case_3": "it is broken"})).endswith("others; left out: case_3: it is broken")


def test_every_case_calibrates_or_measures() -> None:
    for count in range(2, 8):
        calibrating, measuring = halves(SegmentedCases([Labelled(Case(str(name), ()), Path()) for name in range(count)]))
        assert sorted([*calibrating, *measuring]) == list(range(count))
        assert 0 <= len(calibrating) - len(measuring) <= 1


@pytest.mark.parametrize(("count", "starts"), [(1, [0]), (3, [0, 4, 8]), (9, [4, 16, 28])])
def test_patches_that_calibrate_are_spread_over_the_case(count: int, starts: list[int], tmp_path: Path) -> None:
    """Its tiles lie four voxels apart, and each voxel has the number of its slice."""
    image = np.ones((8 + 4 * (count - 1), 8, 8), np.int16) * np.arange(1, 9 + 4 * (count - 1), dtype=np.int16)[:, None, None]
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "case_0000.nii.gz")
    rule = Normalisation(scheme="CTNormalization", lower=0, upper=100, mean=1, std=1)
    description = replace(DESCRIBED, patch=(8, 8, 8), spacing=(1.0, 1.0, 1.0), normalisation=(rule,))
    cases = SegmentedCases([Labelled(Case("case", (tmp_path / "case_0000.nii.gz",)), Path())])
    seen = [*cases.inputs([0], description, 3)]
    assert {patch.shape for patch in seen} == {(1, 1, 8, 8, 8)} and [patch[0, 0, 0, 0, 0] for patch in seen] == starts


def test_a_model_is_measured_on_what_its_training_held_out(model: ModelFolder, dataset: Path) -> None:
    hold_out(model, ["case_1", "case_3"])
    assert TrainedNNUNet.open(model.path).held_out().names == ["case_1", "case_3"]
    assert TrainedNNUNet.open(model.path, dataset=dataset).held_out().names == ["case_1", "case_3"]


def test_where_nothing_was_held_out_nothing_is_measured(
    model: ModelFolder, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Dice would be that of cases that it knows."""

    def held_out(fold: str | None = None, dataset: Path | None = None) -> SegmentedCases:
        return TrainedNNUNet.open(model.path, fold=fold, dataset=dataset).held_out()

    refused("no finished fold_3", held_out, fold="fold_3")
    hold_out(model, ["case_1", "case_9"])
    refused("lacks 1 of the 2 cases, with labels, that were held out in training, the first is case_9", held_out)
    refused("has no imagesTr", held_out, dataset=tmp_path)
    monkeypatch.delenv("nnUNet_raw")
    refused("nnUNet_raw is not set", held_out)
    (model.path / "fold_0" / "validation" / "summary.json").unlink()
    refused("no validation/summary.json, so no case is known", held_out)
    (model.path / "fold_0").rename(model.path / "fold_all")
    refused("trained on all cases, so no case is known", held_out)


def test_datasets_that_cannot_calibrate_are_named(model: ModelFolder, dataset: Path, tmp_path: Path) -> None:
    source = TrainedNNUNet.open(model.path)
    description = source.describe("largest")
    assert isinstance(description, Description)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), dataset / "labelsTr" / "case_0.nii.gz")
    cases = SegmentedCases(find_labelled(dataset, description, NAMES))
    (dataset / "labelsTr" / "case_1.nii.gz").write_bytes(b"no image")
    assert cases.usable(range(4), description) == [2, 3]
    assert "has (4, 3, 2) voxels, its image (20, 30, 16)" in cases.left_out["case_0"]
    assert "cannot be read" in cases.left_out["case_1"]
    refused("none of 2 held-out cases can be used, e.g. case_0: ", cases.usable, [0, 1], description)
    hold_out(model, NAMES[:1])
    words = "1 cases were held out in training, with labels; at least 2 are needed to calibrate"
    refused(words, export_file, source, "largest", tmp_path / "int8.onnx", "onnx", int8=True)
