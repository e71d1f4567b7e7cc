"""What users of nnU-Net ask of a prediction, against nnU-Net itself: a stock model without a training, and one image."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from helpers.descriptions import DESCRIBED, SCANS
from helpers.in_process import prox
from helpers.made_once import made_once
from helpers.nnunet_task import SHALLOW, bare_folders, bare_model, bare_plans
from helpers.refusals import refused
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.runtime.description import KEY
from monai_prox.runtime.options import Options

IMAGE = "images/case_0000.nii.gz"
KEPT = [[1, 2], 2]


def fill(folder: Path) -> None:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        bare_folders(folder, patch)
        model = bare_model(bare_plans(spacing=(1.0, 1.1, 0.9), **SHALLOW), cls=nnUNetTrainer)
        model.path.rename(folder / "model")
    (folder / "model" / "crossval_results_folds_0").mkdir()
    named = "remove_all_but_largest_component_from_segmentation"
    found = {"postprocessing_fns": [named] * 2, "postprocessing_kwargs": [{"labels_or_regions": of} for of in KEPT]}
    (folder / "model" / "crossval_results_folds_0" / "postprocessing.json").write_text(json.dumps(found))
    voxels = np.random.default_rng(0).normal(480, 130, (20, 40, 30)).astype(np.float32)
    voxels[:, :3] = 0
    image = sitk.DiscreteGaussian(sitk.GetImageFromArray(voxels), 2.0)
    image.SetDirection((0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    (folder / IMAGE).parent.mkdir()
    sitk.WriteImage(image, folder / IMAGE)
    done = prox("export", folder / "model", "--format", "onnx", "-o", folder / "model.onnx")
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def stock() -> Path:
    """A folder with a model, its file and ``IMAGE``."""
    return made_once("stock_untrained", fill)


def nnunets(stock: Path, **options: float) -> nnUNetPredictor:
    predictor = nnUNetPredictor(**options, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(stock / "model"), (0,))
    return predictor


def predict(stock: Path, output: Path, *words: object) -> np.ndarray:
    done = prox("predict", stock / "model.onnx", "-i", stock / "images", "-o", output, "--threads", 1, *words)
    assert done.code == 0, done.err
    return sitk.GetArrayFromImage(sitk.ReadImage(output / "case.nii.gz"))


def described_anew(stock: Path, output: Path, **entries: object) -> Path:
    """The file with these entries in its description, None for those to be left out."""
    written = onnx.load(stock / "model.onnx")
    described = json.loads(written.metadata_props[0].value) | entries
    kept = {name: value for name, value in described.items() if name not in entries or value is not None}
    onnx.helper.set_model_props(written, {KEY: json.dumps(kept)})
    onnx.save(written, output)
    return output


def test_steps_and_mirroring_are_nnunets(stock: Path, tmp_path: Path) -> None:
    plain = predict(stock, tmp_path, "--no-postprocessing")
    found = predict(stock, tmp_path, "--no-postprocessing", "--step-size", 0.8, "--mirror")
    predictor = nnunets(stock, tile_step_size=0.8, use_mirroring=True)
    assert predictor.allowed_mirroring_axes == (0, 1, 2)
    (wanted,) = predictor.predict_from_files_sequential([[str(stock / IMAGE)]], None)
    assert np.mean(found == wanted) > 0.995 and np.mean(found == plain) < 0.96


def test_postprocessing_is_nnunets(stock: Path, tmp_path: Path) -> None:
    plain, found = predict(stock, tmp_path, "--no-postprocessing"), predict(stock, tmp_path)
    functions = [remove_all_but_largest_component_from_segmentation] * len(KEPT)
    wanted = apply_postprocessing(plain, functions, [{"labels_or_regions": of} for of in KEPT])
    np.testing.assert_array_equal(found, wanted)
    assert (found != plain).any()
    for steps in ([[]], [[0]], [[70_000]], [1]):
        wrong = described_anew(stock, tmp_path / "wrong.onnx", postprocessing=steps)
        assert "postprocessing" in prox("predict", wrong, "-i", stock / "images", "-o", tmp_path).error


def test_what_a_network_cannot_do_is_refused(stock: Path, tmp_path: Path) -> None:
    words = "-i", stock / "images", "-o", tmp_path / "out"
    older = described_anew(stock, tmp_path / "older.onnx", mirroring=None)
    said = (
        "the network largest has no axes to mirror along in its file: it is a bundle's, or an earlier version has exported it"
    )
    assert prox("predict", older, *words, "--mirror").error == f"{said}; leave out --mirror"
    none = described_anew(stock, tmp_path / "none.onnx", mirroring=[])
    said = "the network largest was trained to be mirrored along no axis; leave out --mirror"
    assert prox("predict", none, *words, "--mirror").error == said
    for axes in ([3], [0, 0], [-1]):
        wrong = described_anew(stock, tmp_path / "wrong.onnx", mirroring=axes)
        assert "allowed are some of the patch's 3, from 0 on" in prox("predict", wrong, *words).error
    assert not (tmp_path / "out").exists()
    for step in ("0", "1.5", "-1", "nan"):
        assert "--step-size is a part of the patch, 0.01 to 1, got" in prox("predict", older, *words, "--step-size", step).error
    refused("--step-size, --mirror: these are for networks that segment", Options(step=1, mirror=True).check, SCANS)
    Options().check(SCANS)
    Options(step=1).check(DESCRIBED)
