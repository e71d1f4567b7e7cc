"""Members by name and by file: one name a file, and one member however its file orders what is in it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.architectures import unet_family
from helpers.nnunet_task import SHALLOW, TWO_MEMBERS, bare_model, bare_plans
from helpers.refusals import refused

from monai_prox.core.slots import Slot
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.export.from_nnunet import prediction_of
from monai_prox.export.nnunet import export_nnunet
from monai_prox.files import write_json
from monai_prox.latency.device import Device, fingerprint
from monai_prox.latency.measure import profile
from monai_prox.latency.pack import choose_members
from monai_prox.trained.family_file import FamilyFile
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]

SPACE = SearchSpace({"resolution": (Slot(choices=(0.5, 1.0)),), "width": (Slot(choices=(4, 8)), Slot(choices=(8, 16)))})


def test_a_member_is_checked_into_its_normal_form() -> None:
    """Its dimensions in the space's order, and the space's own values: it equals, prints and is written as any other."""
    (normal,) = {SPACE.largest(), SPACE.check(Subnet.from_json({"width": [8, 16.0], "resolution": [1]}))}
    checked = SPACE.check(Subnet.from_json({"width": [8.0, 16], "resolution": [1]}))
    assert checked == normal and str(checked) == str(SPACE.largest())
    assert json.dumps(checked.to_json()) == json.dumps(SPACE.largest().to_json()) == '{"resolution": [1.0], "width": [8, 16]}'


@pytest.mark.parametrize("name", ["net", "my_net", "my-net", "mynet", "my.net", "v1.2_final", "7", "größte", "choice-1a2b3c4d"])
def test_a_files_name_is_the_members(name: str, tmp_path: Path) -> None:
    write_json({"subnet": SPACE.smallest().to_json()}, tmp_path / f"{name}.json")
    assert FamilyFile().find(str(tmp_path / f"{name}.json")) == (name, SPACE.smallest())


@pytest.mark.parametrize("name", ["my net", "my__net", "_net", "net_", ".net", "net.", "a+b", "ä/..", "-net", ""])
def test_a_files_name_that_cannot_be_a_members_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_json({"subnet": SPACE.smallest().to_json()}, path)
    words = refused("a file's name becomes the member's", FamilyFile().find, str(path))
    assert str(path) in words


@pytest.mark.parametrize(("tolerances", "mean"), [((1.0, 1.0), 0.6), ((1.0, None), 0.5), ((1.0, 2.0), None)])
def test_surface_dice_is_the_mean_over_folds_that_were_measured_alike(
    tolerances: tuple[float | None, ...], mean: float | None, bare: Path
) -> None:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))
    shutil.copytree(model.path / "fold_0", model.path / "fold_1")
    for fold, tolerance, score in zip(("fold_0", "fold_1"), tolerances, (0.5, 0.7), strict=True):
        surface = None if tolerance is None else {"mean": score, "1": None}
        family = model.family()
        members = tuple(replace(m, scores={"mean": 0.8}, surface_dice=surface) for m in family.members)
        replace(family, members=members, surface_tolerance_mm=tolerance).write(model.path / fold)
    family, source = ModelFolder.open(model.path).family(), TrainedNNUNet.open(model.path)
    expected = None if mean is None else {"mean": pytest.approx(mean), "anterior": None}
    assert [(m.scores, m.surface_dice) for m in family.members] == [({"mean": 0.8}, expected)] * 2
    assert family.surface_tolerance_mm == (None if mean is None else 1.0)
    assert source.scored.endswith("which mirrors" if mean is None else "which mirrors; surface Dice: within 1 mm")


@pytest.mark.parametrize(
    ("axes", "how"),
    [
        (((0, 1, 2), (0,)), "which mirrors"),
        ((None, None), "without mirroring"),
        (((0, 1, 2), None), "which mirrors in some folds only"),
    ],
)
def test_it_is_told_how_folds_were_validated(axes: tuple[tuple[int, ...] | None, ...], how: str, bare: Path) -> None:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))
    shutil.copytree(model.path / "fold_0", model.path / "fold_1")
    for fold, mirroring in zip(("fold_0", "fold_1"), axes, strict=True):
        replace(model.family(), mirroring=mirroring).write(model.path / fold)
    assert ModelFolder.open(model.path).scored().endswith(f"by nnU-Net's validation, {how}")


@pytest.fixture
def turned(bare: Path) -> tuple[Any, str]:
    """A model whose smallest member was validated, and a file with this member, its dimensions in another order."""
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))
    fold = model.path / "fold_0"
    family = model.family()
    epoch = model.checkpoint("fold_0")["current_epoch"]
    first, *others = family.members
    scored = replace(first, scores={"mean": 0.7, "1": 0.6, "2": 0.8}, surface_dice={"mean": 0.9, "1": 0.9, "2": None})
    replace(family, validated_epoch=epoch, members=(scored, *others), surface_tolerance_mm=1.5).write(fold)
    summary = fold / "members" / "smallest" / "validation" / "summary.json"
    summary.parent.mkdir(parents=True)
    write_json({"mean": {}, "metric_per_case": [], "foreground_mean": {"Dice": 0.7}}, summary)
    subnet = model.member("smallest")[1].to_json()
    write_json(dict(reversed(subnet.items())), bare / "turned.json")
    return model, str(bare / "turned.json")


def test_a_member_in_another_order_keeps_its_scores(turned: tuple[Any, str]) -> None:
    model, file = turned
    smallest, found = prediction_of(TrainedNNUNet.of(model), "smallest"), prediction_of(TrainedNNUNet.of(model), file)
    assert found.metrics == smallest.metrics and found.metrics["dice mean"] == 0.7
    assert found.metrics["surface_dice mean"] == found.metrics["surface_dice anterior"] == 0.9
    assert found.measured_on.endswith("; surface Dice: within 1.5 mm") and "surface_dice posterior" not in found.metrics
    assert list(found.subnet) == list(smallest.subnet)
    folder = export_nnunet(TrainedNNUNet.of(model), file)
    assert json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())["foreground_mean"] == {"Dice": 0.7}
    source = TrainedNNUNet.open(model.path)
    assert source.member(file)[1] == source.member("smallest")[1]


def test_a_measured_member_in_another_order_keeps_its_time() -> None:
    family = unet_family()
    chosen = choose_members(family, family.patch_size)
    members = [
        {"subnet": dict(reversed(subnet.to_json().items())), "milliseconds": 1.0 + number}
        for number, subnet in enumerate(chosen)
    ]
    data = profile(fingerprint(family, family.patch_size), "made up", 1, members)
    device = Device.from_json(data, family, family.patch_size, "a test")
    assert device.measured == {subnet: 1.0 + number for number, subnet in enumerate(chosen)}


@pytest.mark.parametrize("members", [[], None, {}, 3])
def test_a_family_has_members(members: Any, tmp_path: Path) -> None:
    refused(f"{tmp_path} is not a family: it has no list of members", FamilyFile.from_json, {"members": members}, tmp_path)
