"""``calibrate``, and ``predict`` with what it has written, with an untrained model and a copy of it with other weights."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.in_process import Done, prox
from onnx import numpy_helper

from monai_prox.runtime.calibration import FEWEST
from monai_prox.runtime.dice import dice_of
from monai_prox.runtime.model_digest import model_digest
from monai_prox.runtime.second_opinion import agreement

pytest_plugins = ["helpers.nnunet_fixtures"]

LABELS = {"background": 0, "anterior": 1, "posterior": 2}
COUNT = FEWEST + 1


@pytest.fixture(scope="module")
def folder(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files ``other.onnx`` and ``third.onnx`` with noise in their weights, and cases, of which the last has no labels."""
    folder, generator = tmp_path_factory.mktemp("calibrate"), np.random.default_rng(0)
    for name, size in (("other", 0.05), ("third", 0.1)):
        model = onnx.load(stock / "model.onnx")
        for tensor in model.graph.initializer:
            weights = numpy_helper.to_array(tensor)
            if weights.dtype == np.float32 and weights.ndim > 1:
                noise = generator.normal(0, size * weights.std(), weights.shape).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(weights + noise, tensor.name))
        onnx.save(model, folder / f"{name}.onnx")
    (folder / "images").mkdir()
    for number in range(COUNT + 1):
        noise = sitk.GetImageFromArray(generator.normal(480, 130, (14, 22, 18)).astype(np.float32))
        sitk.WriteImage(sitk.DiscreteGaussian(noise, 2.0), folder / "images" / f"case_{number:02d}_0000.nii.gz")
    assert predict(stock / "model.onnx", folder / "images", folder / "first").code == 0
    (folder / "labels").mkdir()
    for number, path in enumerate(sorted((folder / "first").glob("*.nii.gz"))[:COUNT]):  # what is predicted, and moved
        moved = np.roll(read(path), number % 4, 1)
        sitk.WriteImage(sitk.GetImageFromArray(moved), folder / "labels" / path.name)
    return folder


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def predict(model: Path, images: Path, output: Path, *words: object) -> Done:
    return prox("predict", model, "-i", images, "-o", output, "--threads", 1, *words)


def calibrate(stock: Path, folder: Path, output: Path, *words: object) -> Done:
    files = stock / "model.onnx", "--second-opinion", folder / "other.onnx"
    return prox("calibrate", *files, "-i", folder / "images", "--labels", folder / "labels", "-o", output, *words)


@pytest.fixture(scope="module")
def calibrated(stock: Path, folder: Path) -> Path:
    done = calibrate(stock, folder, folder / "new" / "quality.json", "--threads", 1)
    assert done.code == 0, done.err
    assert f"quality.json: {COUNT} of {COUNT} cases" in done.out
    assert "Spearman's rank correlation of score and Dice: " in done.out
    return folder / "new" / "quality.json"


def test_the_file_has_scores_and_dice_of_the_cases_with_labels(stock: Path, folder: Path, calibrated: Path) -> None:
    data = json.loads(calibrated.read_text())
    digests = [model_digest(path) for path in (stock / "model.onnx", folder / "other.onnx")]
    assert data["model"]["digest"] == digests[0] and [of["digest"] for of in data["second_opinions"]] == digests[1:]
    assert data["options"] == {"step_size": 0.5, "mirror": False, "postprocessing": True}
    assert predict(folder / "other.onnx", folder / "images", folder / "others").code == 0
    names = [f"case_{number:02d}.nii.gz" for number in range(COUNT)]
    firsts, others, labels = ([read(folder / part / name) for name in names] for part in ("first", "others", "labels"))
    np.testing.assert_allclose(data["scores"], [agreement(*pair, LABELS) for pair in zip(firsts, others, strict=True)])
    np.testing.assert_allclose(data["dice"], [dice_of(*pair, LABELS) for pair in zip(firsts, labels, strict=True)])
    assert data["summary"]["cases"] == COUNT and "case_" not in str(data), "it travels with the model"


def test_predictions_have_the_dice_to_expect(stock: Path, folder: Path, calibrated: Path, tmp_path: Path) -> None:
    words = "--second-opinion", folder / "other.onnx", "--calibration", calibrated
    done = predict(stock / "model.onnx", folder / "images", tmp_path / "output", *words)
    assert done.code == 0, done.err
    with (tmp_path / "output" / "quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [f"case_{number:02d}" for number in range(COUNT + 1)]
    scores = json.loads(calibrated.read_text())["scores"]
    np.testing.assert_allclose([float(row["score"]) for row in rows[:COUNT]], scores, atol=1e-6)
    assert all(0 <= float(row["lower"]) <= float(row["expected_dice"]) <= float(row["upper"]) <= 1 for row in rows)
    for row in rows:
        name = f"{row['case']}.nii.gz"
        assert (tmp_path / "output" / name).read_bytes() == (folder / "first" / name).read_bytes()


def test_several_second_opinions_are_averaged(stock: Path, folder: Path, tmp_path: Path) -> None:
    words = "--second-opinion", folder / "other.onnx", "--second-opinion", folder / "third.onnx"
    image = folder / "images" / "case_00_0000.nii.gz"
    done = predict(stock / "model.onnx", image, tmp_path / "output", *words)
    assert done.code == 0, done.err
    for name in ("other", "third"):
        assert predict(folder / f"{name}.onnx", image, tmp_path / name).code == 0
    first, *others = (read(tmp_path / name / "case_00.nii.gz") for name in ("output", "other", "third"))
    score = np.mean([agreement(first, other, LABELS) for other in others])
    assert (tmp_path / "output" / "quality.csv").read_text().splitlines()[1] == f"case_00,{score:.6f}"


def test_a_calibration_of_other_files_is_refused(stock: Path, folder: Path, calibrated: Path, tmp_path: Path) -> None:
    first, other, third = stock / "model.onnx", folder / "other.onnx", folder / "third.onnx"
    output = tmp_path / "output"
    for model, seconds, words in (
        (other, [first], "was calibrated with another model than given here"),
        (first, [third], "was calibrated with other second opinions than given here"),
        (first, [other, other], "was calibrated with other second opinions than given here"),
        (first, [], "was calibrated with other second opinions than given here"),
    ):
        given = [word for second in seconds for word in ("--second-opinion", second)]
        assert words in predict(model, folder / "images", output, *given, "--calibration", calibrated).error
    (tmp_path / "crafted.json").write_text('{"format": 1}')
    for path, words in (
        (tmp_path / "crafted.json", "is no file of monai-prox calibrate"),
        (folder / "other.onnx", "is not valid JSON"),
        (tmp_path / "missing.json", "there is no file"),
    ):
        assert words in predict(first, folder / "images", output, "--second-opinion", other, "--calibration", path).error
    assert not output.exists()


def test_a_case_that_fails_is_named_and_too_few_are_refused(stock: Path, folder: Path, tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for path in (folder / part).iterdir():
            (tmp_path / part / path.name).symlink_to(path)
    (tmp_path / "images" / "case_03_0000.nii.gz").unlink()
    (tmp_path / "images" / "case_03_0000.nii.gz").write_bytes(b"no image")
    files = stock / "model.onnx", "--second-opinion", folder / "other.onnx"
    words = "-i", tmp_path / "images", "--labels", tmp_path / "labels", "-o", tmp_path / "quality.json", "--threads", 1
    done = prox("calibrate", *files, *words)
    assert done.code == 1 and f"{COUNT - 1} of {COUNT} cases" in done.out and "case_03: " in done.err
    assert len(json.loads((tmp_path / "quality.json").read_text())["dice"]) == COUNT - 1
    (tmp_path / "quality.json").unlink()
    for number in range(4, COUNT):
        (tmp_path / "labels" / f"case_{number:02d}.nii.gz").unlink()
    done = prox("calibrate", *files, *words)
    assert done.code == 1 and "a calibration has 4 cases; an interval of 90% takes 10 to 2,000" in done.err
    assert not (tmp_path / "quality.json").exists() and "case_03" not in done.err, "before anything is predicted"


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_predicted(
    stock: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_prox.runtime.calibrate._of_case", lambda *_: pytest.fail("a case was predicted"))
    (tmp_path / "file").touch()
    files = stock / "model.onnx", "--second-opinion", folder / "other.onnx", "-i", folder / "images", "-l", folder / "labels"
    assert prox("calibrate", *files, "-o", tmp_path).error == f"{tmp_path} is a folder; --output is the file that is written"
    assert "cannot write to" in prox("calibrate", *files, "-o", tmp_path / "file" / "quality.json").error
