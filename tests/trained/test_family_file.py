"""family.json: one form for both hosts, and what version 0.1.0 wrote."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.architectures import unet_family
from helpers.refusals import refused

from monai_prox import __version__
from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.trained.family_file import FAMILY, FamilyFile, NamedMember

UNETS = unet_family(features=(4, 8))
SIZE = (24, 24)
DICE = {"mean": 0.75, "1": 0.5, "(1, 2)": 1.0, "3": None}
FILE = FamilyFile(
    members=tuple(NamedMember.of(name, of, UNETS, SIZE, DICE) for name, of in named_members(UNETS, SIZE).items()),
    trainer="ProXTrainer",
    recipe="prox",
    epochs=5,
    validated_epoch=5,
    labels={"background": 0, "core": 1, "whole": (1, 2)},
    patch_size=SIZE,
    mirroring=(0, 1),
    orientations={"RAS": 3},
    space=UNETS.space.to_json(),
    closed={"width": 1},
    stages=({"name": "smallest", "first_epoch": 0},),
    progress=({"epoch": 0, "dice": {"smallest": 0.25}},),
    monitor=({"epoch": 3, "verdict": "closed"},),
)


def written(file: FamilyFile) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(file.to_json()))
    return data


def by_version_0_1(file: FamilyFile, *lacking: str) -> dict[str, Any]:
    data = written(file)
    data["probes"] = data.pop("progress")
    return {key: value for key, value in data.items() if key not in ("version", "labels", *lacking)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    FILE.write(tmp_path)
    assert FamilyFile.read(tmp_path / FAMILY) == replace(FILE, version=__version__)
    data = json.loads((tmp_path / FAMILY).read_text())
    assert set(data) == {"format", *(field.name for field in fields(FamilyFile))} and data["format"] == 1
    assert data["members"][0] == FILE.members[0].to_json("dice") and data["members"][0]["dice"] == DICE


def test_surface_dice_stands_beside_dice_where_it_was_measured() -> None:
    surface = {"mean": 0.5, "1": 0.25, "(1, 2)": 0.75, "3": None}
    first, *others = FILE.members
    file = replace(FILE, members=(replace(first, surface_dice=surface), *others), surface_tolerance_mm=1.5)
    data = written(file)
    assert data["surface_tolerance_mm"] == 1.5 and data["members"][0]["surface_dice"] == surface
    assert FamilyFile.from_json(data, "the file") == file
    assert not any("surface_dice" in member for member in data["members"][1:])
    data.pop("surface_tolerance_mm")
    assert FamilyFile.from_json(data, "the file").surface_tolerance_mm is None


@pytest.mark.parametrize(
    ("said", "read"),
    [(None, None), ("", None), (" \n", None), ("CC-BY 4.0,\n\n# Me", "CC-BY 4.0, # Me"), ("\x1b[31mred", "\ufffd[31mred")],
)
def test_a_licence_is_a_line_of_text(said: str | None, read: str | None) -> None:
    """It goes into documents and to the terminal."""
    assert FamilyFile.from_json(written(FILE) | {"license": said}, "the file").license == read


def test_what_nnunet_s_trainer_of_0_1_wrote_is_read() -> None:
    """Which did not say whether its validation mirrored: it did."""
    lacking = ("plan", "choices", "validation_cases", "measure", "regions", "mirroring", "orientations")
    read = FamilyFile.from_json(by_version_0_1(FILE, *lacking), "the file")
    assert read == replace(FILE, labels=None, mirroring=(0,), orientations=None)


@pytest.mark.parametrize("measure", ["dice", "accuracy"])
def test_what_a_bundle_s_training_of_0_1_wrote_is_read(measure: Any) -> None:
    of_bundle: dict[str, Any] = {"plan": {"task": "Task"}, "choices": {}, "validation_cases": ("a", "b"), "measure": measure}
    file = replace(FILE, trainer=None, orientations=None, **of_bundle)
    data = by_version_0_1(file, "trainer", "mirroring", "orientations")
    assert set(data["members"][0]) == {"name", "subnet", "parameters", "macs", measure}
    assert FamilyFile.from_json(data, "the file") == replace(file, labels=None, mirroring=(0,))


def test_before_any_training_there_are_no_members() -> None:
    data = {"format": 1, "plan": {"task": "Task"}, "choices": {}}
    assert FamilyFile.from_json(data, "the file", planned=True) == FamilyFile(plan={"task": "Task"}, choices={})
    for planned in (data | {"members": []}, data | {"members": None}):
        refused("the file is not a family: it has no list of members", FamilyFile.from_json, planned, "the file", planned=True)
    refused("the file is not a family: it has no list of members", FamilyFile.from_json, data, "the file")


def test_a_member_is_found_by_its_name_and_by_what_it_is() -> None:
    name, subnet = FILE.find("largest")
    turned = Subnet.from_json(dict(reversed(subnet.to_json().items())))
    assert (name, subnet) == ("largest", UNETS.space.largest())
    assert FILE.named(turned) is FILE.named(subnet) is FILE.members[-1]
    assert FILE.named(Subnet.from_values(depth=(1,))) is None
    refused("there is no member 'x'; known: smallest, small, middle, large, largest, or the path of a JSON", FILE.find, "x")


SMALLEST = FILE.members[0].to_json("dice")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "the file is not a family of format 1"),
        ({"epochs": "5"}, "the file: epochs must be of type int | None, got '5'"),
        ({"measure": "loss"}, "the file: measure must be of type Literal['dice', 'accuracy'], got 'loss'"),
        ({"labels": {"core": [1, "2"]}}, "the file: labels must be of type Mapping"),
        ({"closed": ["width"]}, "the file: closed must be of type Mapping[str, int] | None, got ['width']"),
        ({"stages": 3}, "the file: stages must be of type"),
        ({"license": 1}, "the file: license must be of type str | None, got 1"),
        ({"license": "a" * 10_001}, "the file: license has 10,001 characters, at most 10,000 are allowed; got 'aaaa"),
        ({"surface_tolerance_mm": "1"}, "the file: surface_tolerance_mm must be of type float | None, got '1'"),
        ({"surface_tolerance_mm": -1}, "the file: surface_tolerance_mm is in mm, above 0 and at most 1000; got -1"),
        (
            {"members": [SMALLEST | {"surface_dice": {"mean": "high"}}]},
            "the file, the member smallest: 'surface_dice' must be of type",
        ),
        ({"probes": [3], "progress": [3]}, "the file: progress must be of type"),
        ({"members": [{"name": "../../x"}]}, "the file: a member has a name of letters, digits, - and _, got {'name'"),
        (
            {"members": [SMALLEST | {"macs": True}]},
            "the file, the member smallest: 'macs' must be of type",
        ),
        (
            {"members": [SMALLEST | {"subnet": {}}]},
            "the file, the member smallest: a subnet is an object",
        ),
        ({"members": [{"name": "smallest"}]}, "the file, the member smallest has no 'subnet'"),
    ],
)
def test_what_somebody_has_crafted_is_one_line(change: dict[str, Any], message: str) -> None:
    refused(message, FamilyFile.from_json, written(FILE) | change, "the file")
