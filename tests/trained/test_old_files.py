"""Plans and dataset.json as earlier versions of nnU-Net v2 wrote them, and as nnU-Net still reads them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from helpers.nnunet_task import (
    BARE_DATASET,
    FULLRES,
    SHALLOW,
    TWO_MEMBERS,
    bare_model,
    bare_plans,
    hold_out,
    stock_predictor,
    write_held_out,
)
from helpers.refusals import refused
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from monai_prox.export.from_nnunet import prediction_of
from monai_prox.runtime.cases import Case
from monai_prox.runtime.evaluation import SegmentedCases
from monai_prox.runtime.prediction import predict
from monai_prox.search.torch_runner import runnable
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

INTENSITIES = {"0": {"percentile_00_5": -50.0, "percentile_99_5": 90.0, "mean": 20.0, "std": 30.0}}
MODALITY = {key: value for key, value in BARE_DATASET.items() if key != "channel_names"} | {"modality": {"0": "CT"}}


def old_plans(kind: str = "PlainConvUNet") -> dict[str, Any]:
    """Without an architecture and a label manager, and with intensities by modality."""
    plans = bare_plans(kind, prox={"space": TWO_MEMBERS})
    del plans["label_manager"], plans["foreground_intensity_properties_per_channel"]
    plans["foreground_intensity_properties_by_modality"] = INTENSITIES
    configuration = plans["configurations"][FULLRES]
    kwargs = configuration.pop("architecture")["arch_kwargs"]
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    configuration |= {
        "UNet_class_name": kind,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 16,
        "n_conv_per_stage_encoder": kwargs[blocks],
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [2, 2, 2],
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
        "normalization_schemes": ["CTNormalization"],
    }
    return plans


def new_plans(old: dict[str, Any]) -> dict[str, Any]:
    """The same as nnU-Net writes them now."""
    new = deepcopy(old) | {"label_manager": "LabelManager"}
    new["foreground_intensity_properties_per_channel"] = new.pop("foreground_intensity_properties_by_modality")
    new["configurations"][FULLRES] = PlansManager(old).get_configuration(FULLRES).configuration
    return new


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_old_files_are_read_as_new_ones(kind: str, bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = old_plans(kind)
    model = bare_model(old, dataset=MODALITY)
    (model.path / "plans.json").write_text(json.dumps(old))  # as the training found it; the trainer brings it up to date
    capsys.readouterr()
    architectures, networks, descriptions, bundles = [], [], [], []
    for plans, dataset in ((old, MODALITY), (new_plans(old), MODALITY | {"channel_names": MODALITY["modality"]})):
        (model.path / "plans.json").write_text(json.dumps(plans))
        (model.path / "dataset.json").write_text(json.dumps(dataset))
        source = TrainedNNUNet.open(model.path)
        name, subnet = source.member("smallest")
        architectures.append(source.model.configuration["architecture"])
        networks.append(source.network(subnet).state_dict())
        descriptions.append(source.describe(subnet, name=name))
        bundles.append(prediction_of(source, "smallest").configurations())
    assert architectures[0] == architectures[1] and descriptions[0] == descriptions[1] and bundles[0] == bundles[1]
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[1])
    assert descriptions[0].channels == ("CT",) and descriptions[0].normalisation[0].lower == -50
    assert "label manager" not in capsys.readouterr().out, "the first line is the path of what was exported"


def test_a_member_of_old_files_predicts_as_stock_nnunet_does(bare: Path, tmp_path: Path) -> None:
    model = bare_model(old_plans(), dataset=MODALITY)
    (model.path / "plans.json").write_text(json.dumps(old_plans()))
    (model.path / "dataset.json").write_text(json.dumps(MODALITY))
    model = ModelFolder.open(model.path)
    noise = np.random.default_rng(0).normal(20, 60, (20, 30, 24)).astype(np.float32)
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / "case_0000.nii.gz"
    sitk.WriteImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(noise), 2.0), image)
    (theirs,) = stock_predictor(model).predict_from_files_sequential([[str(image)]], None)
    source = TrainedNNUNet.of(model)
    name, largest = source.member("largest")
    network = runnable(source.network(largest))
    ((_, problem),) = predict(source.describe(largest, name=name), network, [Case("case", (image,))], tmp_path)
    ours = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "case.nii.gz"))
    assert problem is None and np.mean(ours == theirs) >= 0.99 and len(np.unique(ours)) == 3


# ---------------------------------------------------------------------- lists of files
def list_files(folder: Path, elsewhere: Path, names: list[str]) -> dict[str, Any]:
    """Moves the images and labels of a raw dataset, under names of their own, and lists them as nnU-Net wants it."""
    elsewhere.mkdir()
    files: dict[str, Any] = {}
    for number, name in enumerate(names):
        image, label = folder / "imagesTr" / f"{name}_0000.nii.gz", folder / "labelsTr" / f"{name}.nii.gz"
        image.rename(elsewhere / f"scan {number}.nii.gz")
        label.rename(folder / f"mask {number}.nii.gz")
        files[name] = {"images": [f"${{PLACE}}/scan {number}.nii.gz"], "label": f"mask {number}.nii.gz"}
    for part in ("imagesTr", "labelsTr"):
        (folder / part).rmdir()
    (folder / "dataset.json").write_text(json.dumps(BARE_DATASET | {"dataset": files}))
    return files


def test_held_out_cases_are_those_that_a_dataset_lists(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie where nnU-Net finds them."""
    model, names = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW)), ["one", "two"]
    raw = write_held_out(model, names)
    files = list_files(raw, tmp_path / "elsewhere", names)
    monkeypatch.setenv("PLACE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    source = TrainedNNUNet.open(model.path)
    held_out = source.held_out()
    assert isinstance(held_out, SegmentedCases)
    theirs = get_filenames_of_train_images_and_targets(str(raw))
    assert [(list(map(str, one.case.files)), str(one.labels)) for one in held_out.labelled] == [
        (theirs[name]["images"], theirs[name]["label"]) for name in names
    ]
    name, largest = source.member("largest")
    run = runnable(source.network(largest))
    assert held_out.scores([0, 1], source.describe(largest, name=name), run) == [1, 1]
    hold_out(model, [*names, "three"])
    refused("lacks 1 of the 3 cases", source.held_out)
    hold_out(model, names)
    files["two"]["images"] *= 2
    (raw / "dataset.json").write_text(json.dumps({"dataset": files}))
    held_out = source.held_out()
    held_out.usable([0, 1], source.describe(largest, name=name))
    assert held_out.left_out == {"two": "the network needs 1 images (MRI); listed are scan 1.nii.gz, scan 1.nii.gz"}


@pytest.mark.parametrize(
    "listed",
    [["one"], {"one": "scan.nii.gz"}, {"one": {"images": "scan.nii.gz", "label": "x"}}, {"one": {"images": [3]}}, None],
)
def test_a_list_that_is_none_is_refused(listed: Any, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))
    hold_out(model, ["one"])
    raw = bare / "nnUNet_raw" / "Dataset990_Phantom"
    raw.mkdir()
    (raw / "dataset.json").write_text(json.dumps({"dataset": listed}))
    refused("dataset.json", TrainedNNUNet.open(model.path).held_out)


@pytest.mark.parametrize(
    ("stated", "licence"), [({"licence": "CC"}, "CC"), ({"license": "MIT"}, "MIT"), ({"licence": ["a", 3]}, ""), ({}, "")]
)
def test_what_nnunet_does_not_read_may_be_anything(stated: dict[str, Any], licence: str, bare: Path) -> None:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW), dataset=BARE_DATASET | stated | {"numTraining": "8"})
    assert prediction_of(TrainedNNUNet.of(model), "smallest").licence == licence
