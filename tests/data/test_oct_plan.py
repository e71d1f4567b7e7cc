"""Plans for retinal scans, and what their bundle measures and loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import bundle_training
from helpers.refusals import refused
from PIL import Image

from monai_prox.bundle.metrics import CaseAccuracy
from monai_prox.bundle.transforms import LoadScand
from monai_prox.core.supernet import SuperNet
from monai_prox.data.oct import OctScans, Scan
from monai_prox.data.oct_plan import OctPlan, plan_scans
from monai_prox.data.plans import read_plan
from monai_prox.training.calibrated_members import CalibratedMembers, statistics_of

PLAN = OctPlan(task="OCT2017", classes=("CNV", "DME", "DRUSEN", "NORMAL"), image_size=(64, 64))
SPACE = {"resolution": [48, 64], "depth": [1, 2]}
SCANS = OctScans(PLAN.classes, train=(), val=(), test=())


def test_a_plan_is_of_the_scans_classes_and_the_spaces_highest_resolution() -> None:
    assert plan_scans("OCT2017", SCANS, SPACE) == PLAN
    assert plan_scans("OCT2017", SCANS).image_size == plan_scans("OCT2017", SCANS, "paper").image_size == (224, 224)
    assert PLAN.regions() == {"CNV": (0,), "DME": (1,), "DRUSEN": (2,), "NORMAL": (3,)}
    family = PLAN.family(SPACE)
    assert (family.input_channels, family.num_classes) == (1, 4) and family.space.largest()["resolution"] == (64,)
    assert PLAN.family(SPACE, open={"resolution": 1}).space.largest()["resolution"] == (48,)


def test_a_plan_is_written_and_read() -> None:
    assert OctPlan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


def test_plans_of_all_kinds_are_read_as_what_they_are() -> None:
    for plan in (PLAN, bundle_training.PLAN):
        assert read_plan(json.loads(json.dumps(plan.to_json()))) == plan
    for kind in ("regression", ["classification"], {}):
        refused("not a plan of format 1", read_plan, PLAN.to_json() | {"kind": kind})
    refused("not a plan of format 1", read_plan, None)


@pytest.mark.parametrize(
    "wrong", [{"kind": "segmentation"}, {"format": 9}, {"image_size": [1]}, {"image_size": "x"}, {"classes": 3}]
)
def test_another_plan_is_refused(wrong: dict[str, Any]) -> None:
    refused("not a plan for classification of format 1", OctPlan.from_json, PLAN.to_json() | wrong)


def test_a_space_that_does_not_fit_is_refused() -> None:
    refused("ends in a resolution of 224 pixels, images are planned with 64", PLAN.family)
    one = {"depth": [1], "expansion": [3], "kernel": [3], "width": [1.0], "resolution": [64]}
    refused("has one member only, so there is nothing to expand", PLAN.family, one)


def test_other_classes_are_refused() -> None:
    PLAN.check_fits(SCANS)
    other = OctScans(("CNV", "NORMAL"), (), (), ())
    refused("the scans' classes are CNV, NORMAL; trained were CNV, DME, DRUSEN, NORMAL", PLAN.check_fits, other)


def test_accuracy_by_case_and_class() -> None:
    metric, logits = CaseAccuracy(), torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 3, 1], [1, 0, 0]])
    labels = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 1]), 3)
    metric(logits, labels)
    nan = torch.nan
    expected = torch.tensor([[1, nan, nan], [nan, 0, nan], [nan, 1, nan], [nan, 0, nan]])
    torch.testing.assert_close(metric.get_buffer(), expected, equal_nan=True)
    assert metric.aggregate() == 0.5
    metric.reset()
    metric([*logits], [*labels])  # decollated, as evaluators give them
    torch.testing.assert_close(metric.get_buffer(), expected, equal_nan=True)


def test_scans_are_loaded_from_files_and_arrays(tmp_path: Path) -> None:
    pixels = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    for scan, name in ((tmp_path / "scan.png", str(tmp_path / "scan.png")), (pixels, None)):
        loaded = LoadScand("image")({"image": scan, "label": 2})
        assert loaded["label"] == 2 and loaded["image"].meta.get("filename_or_obj") == name
        torch.testing.assert_close(loaded["image"].as_tensor(), torch.from_numpy(pixels)[None] / 255)


def test_members_are_calibrated_on_evenly_spaced_training_images() -> None:
    torch.manual_seed(0)
    supernet = SuperNet(PLAN.family(SPACE))
    seen: list[int] = []

    def transform(item: dict[str, Any]) -> dict[str, Any]:
        seen.append(item["image"])
        return {"image": torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(item["image"]))}

    calibrated = CalibratedMembers(supernet, [{"image": i} for i in range(10)], transform, count=5)
    subnet = supernet.family.space.smallest()
    network, member = calibrated.extract(subnet), calibrated.member(subnet)
    assert seen == [0, 2, 4, 6, 8]  # once
    one, other = statistics_of(network), statistics_of(member.network)
    assert all(torch.equal(one[name], other[name]) for name in one)
    plain = statistics_of(supernet.extract(subnet))
    assert not torch.equal(one["features.0.1.running_mean"], plain["features.0.1.running_mean"])
    assert all(map(torch.equal, network.parameters(), supernet.extract(subnet).parameters()))


def test_scans_of_an_array_have_no_name() -> None:
    assert Scan(np.zeros((32, 32), np.uint8), 0).name == "a scan of the .npz"
