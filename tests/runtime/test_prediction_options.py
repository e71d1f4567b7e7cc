"""What users of nnU-Net ask of a prediction, against nnU-Net itself: a stock model without a training, and one image."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import onnx
import onnxruntime
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from helpers.descriptions import DESCRIBED, SCANS
from helpers.in_process import prox
from helpers.nnunet_task import BARE_DATASET, STOCK_IMAGE, STOCK_KEPT, bare_plans
from helpers.refusals import refused
from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.export.device_file import ENDINGS
from monai_prox.export.options import check_file_options
from monai_prox.runtime.description import KEY
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.kinds import CLASSIFICATION, SEGMENTATION
from monai_prox.runtime.model import Model
from monai_prox.runtime.options import Options
from monai_prox.runtime.probabilities import probabilities
from monai_prox.runtime.providers import PROVIDERS
from monai_prox.trained.nnunet_source import describe

pytest_plugins = ["helpers.nnunet_fixtures"]

THREADS = SimpleNamespace(Pool=ThreadPool)  # in the place of processes, which take seconds to start


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
    (wanted,) = predictor.predict_from_files_sequential([[str(stock / STOCK_IMAGE)]], None)
    assert np.mean(found == wanted) > 0.995 and np.mean(found == plain) < 0.96


def test_a_network_that_finds_something_at_both_ends_locates_everything(stock: Path, tmp_path: Path) -> None:
    """The untrained network finds classes all over the image."""
    located = predict(stock, tmp_path / "located", "--locate", stock / "model.onnx", "--margin", 0)
    assert np.array_equal(located, predict(stock, tmp_path / "plain"))
    other = described_anew(stock, tmp_path / "other.onnx", spacing=(2.0, 2.0, 2.0))
    words = ["predict", stock / "model.onnx", "-i", stock / "images", "-o", tmp_path / "o"]
    assert "--locate names a network whose spacing is (2.0, 2.0, 2.0)" in prox(*words, "--locate", other).error
    for option in ("--unsure", "--margin", "--specks"):
        assert "give --locate, too" in prox(*words, option, 0.5).error
    for option in ("--margin", "--specks"):
        both = prox(*words, "--locate", stock / "model.onnx", "--unsure", 0.5, option, 0.5)
        assert "give --unsure or the others" in both.error and not (tmp_path / "o").exists()


def test_postprocessing_is_nnunets(stock: Path, tmp_path: Path) -> None:
    plain, found = predict(stock, tmp_path, "--no-postprocessing"), predict(stock, tmp_path)
    functions = [remove_all_but_largest_component_from_segmentation] * len(STOCK_KEPT)
    wanted = apply_postprocessing(plain, functions, [{"labels_or_regions": of} for of in STOCK_KEPT])
    np.testing.assert_array_equal(found, wanted)
    assert (found != plain).any()
    for steps in ([[]], [[0]], [[70_000]], [1]):
        wrong = described_anew(stock, tmp_path / "wrong.onnx", postprocessing=steps)
        assert "postprocessing" in prox("predict", wrong, "-i", stock / "images", "-o", tmp_path).error


def test_probabilities_are_nnunets(stock: Path, tmp_path: Path) -> None:
    """And its ensemble of both is what its own alone are: the first folder says how to write, whichever it is."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    found = predict(stock, ours, "--no-postprocessing", "--save-probabilities")
    predictor = nnunets(stock, use_mirroring=False)
    theirs.mkdir()
    predictor.predict_from_files_sequential([[str(stock / STOCK_IMAGE)]], [str(theirs / "case")], save_probabilities=True)
    with np.load(ours / "case.npz") as mine, np.load(theirs / "case.npz") as wanted:
        assert list(mine) == list(wanted) == ["probabilities"]
        values, known = mine["probabilities"], wanted["probabilities"]
    assert values.dtype == known.dtype and values.shape == known.shape
    difference = np.abs(values - known)
    # nnU-Net sums in halves, and at the border weighs by the smallest of them
    assert np.mean(difference < 0.01) > 0.99 and difference[:, 5:-5, 5:-5, 5:-5].max() < 0.005
    np.testing.assert_array_equal(values[:, :, 0], known[:, :, 0])  # what was cropped away
    np.testing.assert_array_equal(values.argmax(0), found)
    properties, of_theirs = load_pickle(str(ours / "case.pkl")), load_pickle(str(theirs / "case.pkl"))
    assert properties == {name: of_theirs[name] for name in ("sitk_stuff", "spacing")}
    for index, folders in enumerate(([ours, theirs], [theirs, ours])):
        merged = tmp_path / str(index)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(multiprocessing, "get_context", lambda method=None: THREADS)
            ensemble_folders(list(map(str, folders)), str(merged), num_processes=1)
        image = sitk.ReadImage(merged / "case.nii.gz")
        assert image.GetDirection() == sitk.ReadImage(stock / STOCK_IMAGE).GetDirection()
        assert np.mean(sitk.GetArrayFromImage(image) == found) > 0.995


def test_with_probabilities_a_case_is_done_when_all_files_are_there(stock: Path, tmp_path: Path) -> None:
    predict(stock, tmp_path)
    before = (tmp_path / "case.nii.gz").stat().st_mtime_ns
    predict(stock, tmp_path, "--no-overwrite")
    assert (tmp_path / "case.nii.gz").stat().st_mtime_ns == before
    predict(stock, tmp_path, "--no-overwrite", "--save-probabilities")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    names = ["case.nii.gz", "case.npz", "case.pkl", "dataset.json", "plans.json"]
    assert sorted(path.name for path in files) == names and files[tmp_path / "case.nii.gz"] > before
    predict(stock, tmp_path, "--no-overwrite", "--save-probabilities")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("regions", [None, (1, 2)])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_probabilities_are_those_of_the_image(regions: tuple[int, ...] | None, transpose: tuple[int, ...]) -> None:
    """By nnU-Net's own way from logits to them."""
    changes = {"transpose_forward": list(transpose), "transpose_backward": [int(axis) for axis in np.argsort(transpose)]}
    plans = bare_plans(spacing=(3.0, 0.7, 0.6)) | changes
    dataset = BARE_DATASET
    if regions:
        dataset = dataset | {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": list(regions)}
    description = describe(plans, "3d_fullres", dataset, member="largest", subnet={}, source="a test")
    spacing, whole, box = (1.3, 0.9, 4.5), (20, 24, 9), (slice(2, 18), slice(0, 24), slice(1, 9))
    logits = np.random.default_rng(0).normal(0, 8, (description.outputs, 9, 20, 13)).astype(np.float16)
    manager = PlansManager(plans)
    labels = manager.get_label_manager(dataset)
    properties = {
        "spacing": [spacing[axis] for axis in np.argsort(transpose)],
        "shape_before_cropping": whole,
        "bbox_used_for_cropping": [[part.start, part.stop] for part in box],
        "shape_after_cropping_and_before_resampling": [part.stop - part.start for part in box],
    }
    _, wanted = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, manager, manager.get_configuration("3d_fullres"), labels, properties, return_probabilities=True
    )
    found = probabilities(logits, Grid(whole, box, logits.shape[1:], spacing, description.spacing), description)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=0.01)


def test_an_interrupted_command_ends_at_once(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another thread is still reading, for which Python would wait."""

    def interrupted(*_: Any, **__: Any) -> Iterator[tuple[str, None]]:
        yield "case", None
        raise KeyboardInterrupt

    def leave(code: int) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr(SEGMENTATION, "predict", interrupted)
    monkeypatch.setattr(os, "_exit", leave)
    done = prox("predict", stock / "model.onnx", "-i", stock / "images", "-o", tmp_path / "out")
    assert done.code == 130 and done.err.endswith("Aborted.\n")


def test_providers_are_onnx_runtimes(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(predict(stock, tmp_path, "--provider", "cpu"), predict(stock, tmp_path))
    for provider in PROVIDERS.values():
        assert set(provider.names) <= set(onnxruntime.get_all_providers())
    words = "-i", stock / "images", "-o", tmp_path / "out"
    said = "the installed ONNX Runtime has no CUDAExecutionProvider, which is in the package onnxruntime-gpu, "
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    error = prox("predict", stock / "model.onnx", *words, "--provider", "cuda").error
    assert error.startswith(said) and error.endswith("available here: --provider cpu")
    known = "--provider is one of cpu, cuda, tensorrt, coreml, dml, openvino, got 'gpu'"
    assert prox("predict", stock / "model.onnx", *words, "--provider", "gpu").error == known
    (tmp_path / "model.xml").touch()
    error = prox("predict", tmp_path / "model.xml", *words, "--provider", "cpu").error
    assert error == f"--provider says what runs an .onnx file, and {tmp_path / 'model.xml'} is none; leave it out"


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_named(stock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would go on without it, on the processor."""
    everything = ["DmlExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    said = "DmlExecutionProvider did not start, and ONNX Runtime would go on with CPUExecutionProvider"
    refused(said, Model, stock / "model.onnx", provider="dml")


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=[pytest.mark.slow, pytest.mark.alone])])
def test_half_precision_halves_the_file_and_keeps_labels(format: str, stock: Path, tmp_path: Path) -> None:
    file = tmp_path / f"half{ENDINGS[format]}"
    done = prox("export", stock / "model", "--format", format, "--half", "-o", file)
    assert done.code == 0, done.err
    opened, single = Model(file, threads=1), Model(stock / "model.onnx", threads=1)
    assert opened.description == replace(single.description, precision="float16")
    if format == "onnx":
        sizes = [sum(len(tensor.raw_data) for tensor in onnx.load(of).graph.initializer) for of in (file, single.path)]
        assert sizes[0] < 0.55 * sizes[1]
    x = np.random.default_rng(0).normal(size=(1, *opened.description.input_shape)).astype(np.float32)
    found, wanted = opened(x), single(x)
    assert found.dtype == np.float32 and 0 < np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    assert np.mean(found.argmax(1) == wanted.argmax(1)) > 0.99


def test_half_precision_is_refused_where_there_is_none(stock: Path, tmp_path: Path) -> None:
    for words, said in (
        (("torchscript", "--half"), "there is no half precision for torchscript; allowed: onnx, openvino"),
        (("onnx", "--half", "--int8"), "--half and --int8 are two precisions; give one of them"),
        (
            ("nnunet", "--half"),
            "--int8, --half, --any-patch and --portable are for files for devices, --format onnx, openvino, torchscript, html",
        ),
    ):
        assert prox("export", stock / "model", "-o", tmp_path / "model.ts", "--format", *words).error == said
    classifiers = {"any_patch": False, "int8": False, "half": True, "portable": False}
    refused("--half is for members that segment", check_file_options, "onnx", CLASSIFICATION, **classifiers)


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
    bundles = replace(DESCRIBED, reader="LoadImage")
    refused("--save-probabilities is for networks of nnU-Net's", Options(probabilities=True).check, bundles)
    Options().check(SCANS)
    Options(step=1).check(DESCRIBED)
