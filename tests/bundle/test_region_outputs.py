"""Bundles whose network has regions as outputs: the loss, the labels that are written, a training, and members of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.bundle_checks import config
from helpers.bundle_commands import BUNDLES, ROOT, Trained, arguments, monai, trained_once
from helpers.bundle_hosts import predict
from helpers.in_process import output_of
from monai.bundle import ConfigParser
from monai.losses import DiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits

from monai_prox.bundle import RegionsLoss, outputs_to_labels
from monai_prox.bundle.loss import takes_sigmoid
from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.regions import written_values
from monai_prox.errors import ProXError
from monai_prox.export.bundle import write_bundle
from monai_prox.export.from_bundle import prediction_of
from monai_prox.trained.bundle_folder import TrainedBundle
from monai_prox.trained.bundle_source import TrainedSegmenter

REGIONS = {"whole tumour": (1, 2, 3), "tumour core": (2, 3), "enhancing tumour": (3,)}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


def test_the_loss_is_that_of_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5, 6, generator=generator), torch.randint(4, (2, 1, 4, 5, 6), generator=generator)
    masks = torch.cat([labels >= 1, labels >= 2, labels == 3], 1).float()
    expected = DiceLoss(sigmoid=True, batch=True)(logits, masks) + binary_cross_entropy_with_logits(logits, masks)
    loss = RegionsLoss(REGIONS)
    assert loss(logits, labels.to(torch.uint8)) == pytest.approx(float(expected)) and takes_sigmoid(loss)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"core": [2], "whole": [1, 2]}, "the region 'core' has 0 labels that no later region has"),
        ({"whole": [1, 2, 3], "core": [3]}, "the region 'whole' has 2 labels that no later region has"),
        ({"core": [2], "again": [2]}, "the region 'core' has 0 labels that no later region has"),
        ({}, "there are no regions to be outputs; give --regions"),
    ],
    ids=["smaller first", "two labels", "twice", "none"],
)
def test_regions_that_cannot_be_written_are_named(regions: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ProXError, match=re.escape(message)):
        written_values(regions)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return trained_once("brats_regions", "brats_prox", regions_as_outputs=True)


def test_a_training_has_regions_as_outputs(trained: Trained) -> None:
    bundle = TrainedBundle.open(trained.bundle)
    assert bundle.plan.trained_regions == REGIONS and Plan.from_json(bundle.plan.to_json()) == bundle.plan
    heads = [w for name, w in bundle.supernet().network.state_dict().items() if "seg_layers" in name and w.ndim > 1]
    assert heads and all(len(weight) == 3 for weight in heads)
    assert list(bundle.family().members[0].scores or ()) == ["mean", *REGIONS]
    written = json.loads((trained.bundle / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert list(written["channel_def"].values()) == list(REGIONS)
    description = TrainedSegmenter(bundle).describe("smallest")
    assert description.regions == (1, 2, 3) and description.outputs == 3


@pytest.mark.parametrize("bundle", BUNDLES)
def test_false_is_a_word(bundle: str) -> None:
    """MONAI's command takes ``--regions_as_outputs false`` for the word, which Python would take for true."""
    parser = ConfigParser(json.loads((ROOT / "bundles" / bundle / "configs" / "train.json").read_text()))
    parser.update({"regions_as_outputs": "false"})
    assert parser.get_parsed_content("plan#regions_as_outputs") is False


def test_it_is_evaluated_as_it_was_validated(trained: Trained, tmp_path: Path) -> None:
    files = str(["configs/train.json", "configs/evaluate.json"])
    options = {"dataset_dir": trained.task, "subnet": "middle", "num_workers": 0, "output_dir": tmp_path}
    monai(["run", "--config_file", files, *arguments(options)], cwd=trained.bundle)
    metrics: Any = dict(line.split(",") for line in (tmp_path / "middle" / "metrics.csv").read_text().splitlines())
    member = next(m for m in TrainedBundle.open(trained.bundle).family().members if m.name == "middle")
    assert float(metrics["val_mean_dice"]) == pytest.approx((member.scores or {})["mean"], abs=1e-5)


@pytest.mark.parametrize("name", [pytest.param("smallest", marks=pytest.mark.slow), "largest"])
def test_the_bundle_an_exported_member_and_a_file_write_the_same_labels(trained: Trained, tmp_path: Path, name: str) -> None:
    bundle, images = TrainedBundle.open(trained.bundle), trained.task / "imagesTr"
    weights = torch.load(bundle.path / "model.pt", weights_only=True)
    models, generator = tmp_path / "models", torch.Generator().manual_seed(0)
    for key in (key for key in weights if "seg_layers" in key):
        weights[key] = torch.randn(weights[key].shape, generator=generator)
    models.mkdir()
    torch.save(weights, models / "model.pt")
    bundle.file.write(models)
    source = TrainedBundle.open(models, trained.bundle)
    exported = write_bundle(prediction_of(TrainedSegmenter(source), name), tmp_path / "alone")
    scored = config(exported, "train")["validate"]["postprocessing"]["transforms"][-1]
    assert scored["keys"] == ["pred", "label"] and scored["regions"] == list(map(list, source.plan.trained_regions.values()))
    alone = predict(exported, images, tmp_path / "masks")
    file = tmp_path / "member.onnx"
    output_of("export", models, "--subnet", name, "--format", "onnx", "--output", file)
    output_of("predict", file, "-i", images, "-o", tmp_path / "device", "--threads", 1)
    devices = {path.name: np.asarray(nib.load(path).dataobj) for path in (tmp_path / "device").glob("*.nii.gz")}
    assert len(alone) == len(devices) == 3
    for image, label in alone.items():
        assert len(np.unique(label)) > 2
        assert np.mean(devices[image] == label) >= 0.999
    if name == "largest":
        within = predict(trained.bundle, images, tmp_path / "within", subnet=name, ckpt_dir=str(models))
        assert all(np.array_equal(label, within[image.replace(".nii.gz", "_seg.nii.gz")]) for image, label in alone.items())


def test_labels_of_logits() -> None:
    class Written:
        written = (1, 2, 3)

    logits = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, -1.0, 1.0], [-1.0, -1.0, 1.0, -1.0, -1.0]])
    labels = outputs_to_labels("pred", Written())({"pred": logits})["pred"]  # type: ignore[arg-type]
    assert labels.tolist() == [[1, 2, 3, 0, 2]]
