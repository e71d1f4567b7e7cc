"""Models that stock nnU-Net has trained: families of one, which compute what nnU-Net's own prediction does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from helpers.in_process import prox
from helpers.nnunet_task import (
    BARE_DATASET,
    CUT,
    FULLRES,
    SHALLOW,
    TWO_LEVELS,
    TWO_MEMBERS,
    Prepared,
    bare_model,
    bare_plans,
)
from helpers.refusals import refused
from helpers.searches import hurry
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import nnUNetTrainerBN
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)

from monai_prox.export.device_file import ENDINGS, export_file
from monai_prox.runtime.model import Model
from monai_prox.trained.nnunet_folder import CHECKPOINTS, FINAL
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]

FORMATS = {ending.removeprefix("."): format for format, ending in ENDINGS.items()}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "posterior": 2, "ignore": 3},
    "regions_class_order": [1, 2],
}
SMALL = partial(bare_plans, **SHALLOW)


def nnunets(path: Path, folds: tuple[int, ...] = (0,)) -> nnUNetPredictor:
    """nnU-Net's own prediction, without mirroring."""
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(path), folds)
    return predictor


# ---------------------------------------------------------------------- a training of nnU-Net's
def test_a_trained_model_is_a_family_of_one_network(stock_model: Path) -> None:
    """Its checkpoint has numbers of NumPy's, and the largest member the Dice of nnU-Net's validation."""
    with pytest.raises(Exception, match="numpy"):
        torch.load(stock_model / "fold_0" / FINAL, weights_only=True)
    source = TrainedNNUNet.open(stock_model)
    (member,) = source.members()
    summary = json.loads((stock_model / "fold_0" / "validation" / "summary.json").read_text())
    assert member.name == "largest" and source.supernet.family.space.size() == 1
    assert (member.scores or {})["mean"] == pytest.approx(summary["foreground_mean"]["Dice"], nan_ok=True)
    assert source.describe("largest").source == f"nnUNetTrainerTiny, {FULLRES}, fold_0, 1 epochs"
    (printed,) = json.loads(prox("family", stock_model, "--json").out)
    assert printed["name"] == "largest" and printed["parameters"] == member.parameters


def test_a_file_segments_as_nnunet_does_with_the_same_folds(
    stock_model: Path, phantom: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of networks that have hardly trained, whose classes are close to each other, so that nnU-Net's half precision counts."""
    module = "nnunetv2.inference.predict_from_raw_data"  # which does not find nnUNetTrainerTiny
    monkeypatch.setattr(f"{module}.recursive_find_trainer_class_by_name", lambda name: nnUNetTrainer)
    file, images = tmp_path / "model.ts", tmp_path / "images"
    images.mkdir()
    image = min((phantom.root / "nnUNet_raw" / phantom.name / "imagesTr").glob("*.nii.gz"))
    shutil.copy(image, images)
    done = prox("export", stock_model, "--format", "torchscript", "-o", file, "-f", 0, 1)
    assert done.code == 0, done.err
    done = prox("predict", file, "-i", images, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    found = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out" / image.name.replace("_0000", "")))
    (wanted,) = nnunets(stock_model, (0, 1)).predict_from_files_sequential([[str(image)]], None)
    inner = (slice(5, -5),) * 3  # at the border nnU-Net weighs by the smallest numbers of half precision
    assert np.mean(found == wanted) >= 0.99 and np.mean(found[inner] == wanted[inner]) >= 0.999
    for fold in (0, 1):
        (alone,) = nnunets(stock_model, (fold,)).predict_from_files_sequential([[str(image)]], None)
        assert np.mean(found == alone) < 0.9


@pytest.mark.parametrize(
    "ending",
    [pytest.param("onnx", marks=pytest.mark.slow), pytest.param("xml", marks=[pytest.mark.alone, pytest.mark.slow]), "ts"],
)
def test_files_of_several_folds_compute_their_mean(ending: str, bare: Path) -> None:
    model = bare_model(bare_plans(patch=(16, 16), **TWO_LEVELS), folds=(0, 1), cls=nnUNetTrainer)
    source = TrainedNNUNet.open(model.path, fold="fold_every")
    file = bare / f"model.{ending}"
    export_file(source, "largest", file, FORMATS[ending])
    opened, network = Model(file, threads=1), source.network("largest")
    for batch in (1, 3):
        x = torch.randn(batch, *opened.description.input_shape, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            np.testing.assert_allclose(opened(x.numpy()), network(x).numpy(), rtol=1e-4, atol=5e-4)


def test_it_is_measured_as_members_are(
    stock_model: Path, phantom: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    monkeypatch.setenv("nnUNet_raw", str(phantom.root / "nnUNet_raw"))
    device = tmp_path / "device.json"
    done = prox("profile", "measure", stock_model, "--runtime", "torch", "--device", "cpu", "-o", device)
    assert done.code == 0 and len(json.loads(device.read_text())["members"]) == 1, done.err
    summary = json.loads((stock_model / "fold_0" / "validation" / "summary.json").read_text())
    held_out = [Path(case["reference_file"]).name.removesuffix(".nii.gz") for case in summary["metric_per_case"]]
    assert sorted(TrainedNNUNet.open(stock_model).held_out().names) == sorted(held_out)
    said = "one network, so there is nothing to choose; a search is for families of several"
    assert prox("search", stock_model).error.endswith(said)


@pytest.mark.slow
def test_it_is_quantised_packed_and_bundled_as_members_are(
    stock_model: Path, phantom: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(phantom.root / "nnUNet_raw"))
    done = prox("profile", "pack", stock_model, "-o", tmp_path / "pack.zip")
    assert done.code == 0 and "search" not in done.out, done.err
    done = prox("export", stock_model, "--format", "onnx", "--int8", "-o", tmp_path / "int8.onnx")
    assert (done.code == 0 and "in int8, 1 cases; calibrated on 1 others" in done.out) or "may be lost" in done.error
    done = prox("export", stock_model, "--format", "bundle", "-o", tmp_path / "bundle")
    assert done.code == 0 and (tmp_path / "bundle" / "configs" / "inference.json").is_file(), done.err


def test_an_export_for_nnunet_is_a_plain_one(stock_model: Path, tmp_path: Path) -> None:
    """In which nnU-Net executes nothing, whatever it was made of."""
    folder = tmp_path / "plain"
    done = prox("export", stock_model, "-o", folder)
    assert done.code == 0, done.err
    for fold in ("fold_0", "fold_1"):
        weights = torch.load(folder / fold / FINAL, weights_only=True)["network_weights"]
        theirs = torch.load(stock_model / fold / FINAL, weights_only=False)["network_weights"]
        assert all(torch.equal(weight, weights[name]) for name, weight in theirs.items())
    nnunets(folder, (0, 1))


def test_a_model_that_was_installed_from_a_zip_is_taken(stock_model: Path, bare: Path) -> None:
    """It has no log files, and perhaps one fold of several."""
    copied = bare / "nnUNet_results" / "Dataset990_Phantom" / stock_model.name
    shutil.copytree(stock_model, copied)
    (copied / "fold_1" / "progress.png").touch()
    (copied / "dataset_fingerprint.json").touch()
    (copied / "fold_1" / "validation").mkdir()
    (copied / "fold_1" / "validation" / "summary.json").write_text("{}")
    where = {"trainer": "nnUNetTrainerTiny", "plans_identifier": CUT, "configurations": (FULLRES,)}
    export_pretrained_model("Dataset990_Phantom", str(bare / "shared.zip"), folds=(1,), **where)
    (copied / "fold_1" / "validation" / "summary.json").unlink()
    shutil.rmtree(copied)
    install_model_from_zip_file(str(bare / "shared.zip"))
    assert sorted(path.name for path in copied.glob("fold_*")) == ["fold_1"]
    (copied / "fold_1" / "validation" / "summary.json").unlink()
    words = ["-d", "990", "-tr", "nnUNetTrainerTiny", "-p", CUT]
    done = prox("export", *words, "--format", "torchscript", "-o", bare / "model.ts")
    assert done.code == 0 and (bare / "model.ts").is_file(), done.err


# ---------------------------------------------------------------------- networks and plans
def older(plans: dict[str, Any]) -> dict[str, Any]:
    """The plans as nnU-Net 2.0 wrote them, with the network in other words."""
    (configuration,) = plans["configurations"].values()
    architecture = configuration.pop("architecture")
    kwargs = architecture["arch_kwargs"]
    levels = kwargs["n_stages"]
    return plans | {
        "configurations": {
            name: configuration
            | {
                "UNet_class_name": architecture["network_class_name"].rpartition(".")[2],
                "UNet_base_num_features": kwargs["features_per_stage"][0],
                "unet_max_num_features": 512,
                "n_conv_per_stage_encoder": kwargs.get("n_conv_per_stage", kwargs.get("n_blocks_per_stage")),
                "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
                "num_pool_per_axis": [levels - 1] * 3,
                "pool_op_kernel_sizes": kwargs["strides"],
                "conv_kernel_sizes": kwargs["kernel_sizes"],
            }
            for name in plans["configurations"]
        }
    }


def lowres() -> dict[str, Any]:
    """A configuration that a cascade goes on from is one by itself."""
    plans = SMALL()
    plans["configurations"] = {"3d_lowres": plans["configurations"][FULLRES] | {"next_stage": "3d_cascade_fullres"}}
    return plans


MODELS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any], type]] = {
    "plain": (SMALL, {}, nnUNetTrainer),
    "residual": (lambda: SMALL("ResidualEncoderUNet"), {}, nnUNetTrainer),
    "2d": (lambda: SMALL(patch=(24, 32)), {}, nnUNetTrainer),
    "lowres": (lowres, {}, nnUNetTrainer),
    "anisotropic": (lambda: SMALL(anisotropic=True, patch=(8, 24, 16)), {}, nnUNetTrainer),
    "regions": (SMALL, REGIONS, nnUNetTrainer),
    "older plain": (lambda: older(SMALL()), {}, nnUNetTrainer),
    "older residual": (lambda: older(SMALL("ResidualEncoderUNet")), {}, nnUNetTrainer),
    "without mirroring": (SMALL, {}, nnUNetTrainerNoMirroring),
    "without deep supervision": (SMALL, {}, nnUNetTrainerNoDeepSupervision),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
def test_the_network_is_nnunets(kind: str, bare: Path) -> None:
    plans, dataset, trainer = MODELS[kind]
    model = bare_model(plans(), folds=(0, 1), dataset=BARE_DATASET | dataset, cls=trainer)
    source, theirs = TrainedNNUNet.open(model.path, fold=("fold_0", "fold_1")), nnunets(model.path, (0, 1))
    network, logits = source.network("largest"), []
    description = source.describe("largest")
    x = torch.randn(1, *description.input_shape)
    with torch.inference_mode():
        for parameters in theirs.list_of_parameters:
            theirs.network.load_state_dict(parameters)
            logits.append(theirs.network.eval()(x))
        torch.testing.assert_close(network(x), torch.stack(logits).mean(0))
    assert description.outputs == theirs.label_manager.num_segmentation_heads
    assert source.family().mirroring == theirs.allowed_mirroring_axes
    assert (source.family().mirroring is None) == (kind == "without mirroring")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_what_was_wrapped_around_the_network_are_left_out(prefix: str, bare: Path) -> None:
    """torch.compile and DistributedDataParallel put them in front of the weights' names."""
    model = bare_model(SMALL(), cls=nnUNetTrainer)
    before = TrainedNNUNet.open(model.path).network("largest").state_dict()
    file = model.path / "fold_0" / FINAL
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"] = {f"{prefix}{name}": value for name, value in checkpoint["network_weights"].items()}
    del checkpoint["inference_allowed_mirroring_axes"]  # which the earliest versions of nnU-Net did not write
    torch.save(checkpoint, file)
    source = TrainedNNUNet.open(model.path)
    assert all(torch.equal(weight, before[name]) for name, weight in source.network("largest").state_dict().items())
    assert source.family().mirroring is None


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_other_checkpoints_are_taken_and_said(checkpoint: str, bare: Path) -> None:
    model = bare_model(SMALL(), cls=nnUNetTrainer)
    (model.path / "fold_0" / FINAL).rename(model.path / "fold_0" / CHECKPOINTS[checkpoint])
    done = prox("export", model.path, "--checkpoint", checkpoint, "--format", "torchscript", "-o", bare / "model.ts")
    assert done.code == 0, done.err
    assert f"{CHECKPOINTS[checkpoint]} of fold_0: after 1 epochs, in stage 1 of 1, 'one network'" in done.out


def test_a_family_asks_which_member(bare: Path) -> None:
    model = bare_model(SMALL(prox={"space": TWO_MEMBERS}))
    error = prox("export", model.path).error
    assert error == "give --subnet, the member to export: smallest, largest, or the path of a JSON file"


# ---------------------------------------------------------------------- one line for what is none of them
def test_a_trainer_that_changes_the_network_is_named(bare: Path) -> None:
    model = bare_model(SMALL(), cls=nnUNetTrainerBN)
    (model.path / "plans.json").write_text(json.dumps(SMALL()))  # the trainer changes them in memory
    words = refused(
        "by nnUNetTrainerBN, does not hold the weights of this network", TrainedNNUNet.open(model.path).network, "largest"
    )
    assert "running_mean" in words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(previous_stage="3d_lowres"), "is the second step of a cascade, whose network also reads the segm"),
        (
            lambda c: c["architecture"].update(network_class_name="dynamic_network_architectures.architectures.primus.PrimusM"),
            "plans ask for the network dynamic_network_architectures.architectures.primus.PrimusM; supported are nnU-Net's",
        ),
        (
            lambda c: c["architecture"].update(
                network_class_name="dynamic_network_architectures.architectures.unet.ResidualUNet"
            ),
            "architectures.unet.ResidualUNet; supported are nnU-Net's PlainConvUNet, ResidualEncoderUNet",
        ),
        (lambda c: c["architecture"]["arch_kwargs"].update(features_per_stage=[4, 8, 12]), "does not hold the weights of"),
        (lambda c: c.update(preprocessor_name="Mine"), "the plan's preprocessor_name is Mine; the runtime repeats"),
        (
            lambda c: c.update(patch_size=[15, 18, 16]),
            "patch_size is [15, 18, 16]; with the plan's strides it must be multiples",
        ),
        (
            lambda c: c.update(normalization_schemes=["CTNormalization"]),
            "intensities of channel 0 lack percentile_00_5, percentile_99_5, which CTNormalization needs",
        ),
    ],
    ids=["cascade", "primus", "residual decoder", "other features", "preprocessor", "patch", "intensities"],
)
def test_what_is_no_network_of_nnunets_plans_is_one_line(change: Callable[[Any], object], message: str, bare: Path) -> None:
    model = bare_model(SMALL(), cls=nnUNetTrainer)
    plans = SMALL()
    change(plans["configurations"][FULLRES])
    (model.path / "plans.json").write_text(json.dumps(plans))
    assert message in prox("export", model.path, "--format", "onnx", "-o", bare / "model.onnx").error
    assert not (bare / "model.onnx").exists()


class Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_nothing_in_a_checkpoint_is_executed(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(SMALL(), cls=nnUNetTrainer)
    file = model.path / "fold_0" / FINAL
    checkpoint = torch.load(file, weights_only=False)
    monkeypatch.chdir(bare)
    for harmful in (Harm(), np.array([Harm()], dtype=object)):
        torch.save(checkpoint | {"_best_ema": harmful}, file)
        for command in (["family"], ["export", "--format", "onnx", "-o", bare / "model.onnx"], ["export"]):
            assert "is not a whole checkpoint of nnU-Net: it holds more than" in prox(*command, model.path).error
    assert not (bare / "harm").exists()


def test_a_member_that_one_of_several_folds_has_not_is_named(bare: Path) -> None:
    """Folds of a family may have closed different choices."""
    space = {"depth": "full", "width": [0.5, 1.0], "levels": 0, "resolution": [1.0]}
    model = bare_model(SMALL(prox={"space": space}), folds=(0, 1))
    file = model.path / "fold_1" / FINAL
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["prox"]["engine"]["closed"] = {"width": 1}
    torch.save(checkpoint, file)
    source = TrainedNNUNet.open(model.path, fold=("fold_0", "fold_1"))
    assert source.network("smallest")(torch.zeros(1, *source.describe("smallest").input_shape)).isfinite().all()
    refused(
        "fold_1, whose training has closed choices of width, has no such member",
        source.network,
        source.supernet.family.space.largest(),
    )
