"""nnU-Net's dataset.json: labels as text or as lists of one are what nnU-Net makes of them, in scores, files and bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.nnunet_task import BARE_DATASET, SHALLOW, TWO_MEMBERS, bare_model, bare_plans, write_held_out
from helpers.refusals import refused
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.export.from_nnunet import prediction_of
from monai_prox.export.nnunet import export_nnunet
from monai_prox.runtime.evaluation import SegmentedCases
from monai_prox.search.torch_runner import runnable
from monai_prox.trained.nnunet_dataset import channels_of, foreground_of, named_scores, normalised, outputs_of
from monai_prox.trained.nnunet_files import read_dataset
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]

TEXT = BARE_DATASET | {"labels": {"background": "0", "anterior": "1", "posterior": "2"}}
LISTED = BARE_DATASET | {"labels": {"background": 0, "anterior": [1], "posterior": ["2"]}}
REGIONS = BARE_DATASET | {
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "rim": 1, "nothing": [0, 0], "ignore": 3},
    "regions_class_order": ["1", 2, 1],
}
MANY = BARE_DATASET | {
    "labels": {"background": "0"} | {f"v{value}": str(value) for value in (10, 2, 1, 11, 3, 4, 5, 6, 7, 8, 9)}
}


def labels_of(dataset: dict[str, Any]) -> LabelManager:
    manager: LabelManager = PlansManager(bare_plans()).get_label_manager(dataset)
    return manager


@pytest.mark.parametrize(
    "dataset", [BARE_DATASET, TEXT, LISTED, REGIONS, MANY], ids=["plain", "text", "listed", "regions", "many"]
)
def test_nnunet_makes_the_same_of_normalised_labels(dataset: dict[str, Any]) -> None:
    normal = normalised(dataset, "dataset.json")
    before, after = labels_of(dataset), labels_of(normal)
    assert after.all_labels == before.all_labels and after.ignore_label == before.ignore_label
    assert after.has_regions == before.has_regions and after.num_segmentation_heads == before.num_segmentation_heads
    if after.has_regions:
        assert [np.atleast_1d(region).tolist() for region in after.foreground_regions] == [
            np.atleast_1d(region).tolist() for region in before.foreground_regions
        ]
        assert normal["regions_class_order"] == [1, 2, 1]
    assert len(outputs_of(normal)) == after.num_segmentation_heads
    assert all(type(value) is int or isinstance(value, list) for value in normal["labels"].values())
    assert normalised(normal, "") == normal


def test_outputs_are_named_in_the_order_of_the_networks_channels() -> None:
    assert outputs_of(normalised(MANY, "")) == ("background", *(f"v{value}" for value in range(1, 12)))
    assert outputs_of(normalised(REGIONS, "")) == ("whole", "core", "rim")
    twice = BARE_DATASET | {"labels": {"background": 0, "left": 1, "also left": 1, "right": 2}}
    assert len(outputs_of(normalised(twice, ""))) == labels_of(twice).num_segmentation_heads == 3
    assert foreground_of(normalised(REGIONS, "")) == {"whole": [1, 2], "core": 2, "rim": 1}
    assert channels_of({"channel_names": {str(index): f"c{index}" for index in (10, 9, *range(9))}})[-1] == "c10"


@pytest.mark.parametrize("value", ["one", "1.5", None, {}, [], [[1]], ["a"], float("nan"), float("inf")], ids=repr)
def test_a_label_that_nnunet_cannot_convert_is_named(value: Any) -> None:
    labels = {"background": 0, "anterior": value}
    refused("d.json: the label 'anterior' must be a whole number, or a list", normalised, {"labels": labels}, "d.json")
    assert labels["anterior"] is value
    order = {"labels": {"background": 0}, "regions_class_order": value}
    if value is not None:
        refused("d.json: 'regions_class_order' must be a whole number, or a list", normalised, order, "d.json")


def test_scores_have_the_names_of_the_labels() -> None:
    mean = {"mean": 0.5, "1": 0.4, "2": 0.6}
    for dataset in (BARE_DATASET, TEXT, LISTED):
        assert named_scores(mean, normalised(dataset, "")["labels"]) == {"mean": 0.5, "anterior": 0.4, "posterior": 0.6}
    regions = {"mean": 0.5, "(1, 2)": 0.7, "(2,)": 0.6, "1": 0.2}
    assert named_scores(regions, normalised(REGIONS, "")["labels"]) == {"mean": 0.5, "whole": 0.7, "core": 0.6, "rim": 0.2}
    crossed = {"labels": {"background": 0, "2": 1, "mean": 2}}
    assert named_scores({"mean": 0.5, "1": 0.4}, crossed["labels"]) == {"mean": 0.5, "2": 0.4}
    assert named_scores(mean, crossed["labels"]) == {"mean": 0.5, "2": 0.4, "mean (2)": 0.6}
    for other, shown in (("b", "mean (1)"), ("1", "mean (1)"), ("mean (1)", "mean (1) (1)")):
        labels = {"background": 0, "mean": 1, other: 2}
        assert named_scores(mean, labels) == {"mean": 0.5, shown: 0.4, other: 0.6}


def scored(dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[ModelFolder, list[float]]:
    """A model of ``dataset``, the same but for that, and the smallest member's Dice of two held-out cases."""
    torch.manual_seed(0)
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW), dataset=dataset)
    assert json.loads((model.path / "dataset.json").read_text())["labels"] == BARE_DATASET["labels"], "the trainer's"
    (model.path / "dataset.json").write_text(json.dumps(dataset))  # as nnU-Net's own trainers and earlier versions leave it
    model = ModelFolder.open(model.path)
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["one", "two"]).parent))
    source = TrainedNNUNet.open(model.path)
    name, subnet = source.member("smallest")
    run = runnable(source.network(subnet))
    held_out = source.held_out()
    assert isinstance(held_out, SegmentedCases)
    return model, held_out.scores([0, 1], source.describe(subnet, name=name), run)


@pytest.mark.parametrize("dataset", [TEXT, LISTED], ids=["text", "listed"])
def test_dice_is_that_of_the_same_labels_as_numbers(
    dataset: dict[str, Any], bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, scores = scored(dataset, monkeypatch)
    assert json.loads((model.path / "dataset.json").read_text())["labels"] == dataset["labels"], "the file stays as it is"
    numbers = SegmentedCases(TrainedNNUNet.open(model.path).held_out().labelled, BARE_DATASET["labels"])  # type: ignore[attr-defined]
    source = TrainedNNUNet.open(model.path)
    name, subnet = source.member("smallest")
    wanted = numbers.scores([0, 1], source.describe(subnet, name=name), runnable(source.network(subnet)))
    assert scores == wanted and all(0 < score < 1 for score in scores)
    prediction = prediction_of(TrainedNNUNet.of(model), "largest")
    assert prediction.outputs == ("background", "anterior", "posterior")
    exported = export_nnunet(TrainedNNUNet.of(model), "largest")
    written = json.loads((exported / "dataset.json").read_text())
    assert written["labels"] == BARE_DATASET["labels"]
    assert written["file_ending"] == ".nii.gz" and labels_of(written).num_segmentation_heads == 3


def test_a_dataset_without_channels_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({key: value for key, value in BARE_DATASET.items() if key != "channel_names"}))
    refused(f"{path} has no 'channel_names'", read_dataset, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "modality": {"0": "MRI"}}))
    assert channels_of(read_dataset(path)) == ("MRI",)
