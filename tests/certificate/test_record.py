"""What a certificate holds: it is read as it was written, and what no measurement gives is refused in one line."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from helpers.certificates import CERTIFIED
from helpers.refusals import refused

from monai_prox.certificate import record
from monai_prox.certificate.record import FORMAT, MOST_CASES, parse_certificate, to_json


def test_a_certificate_is_read_as_it_was_written() -> None:
    assert parse_certificate(to_json(CERTIFIED), "the file") == CERTIFIED
    assert CERTIFIED.cases[0].dice == {"organ": 0.9} and CERTIFIED.cases[0].mean_dice == 0.9


def test_what_a_later_version_writes_is_told_apart() -> None:
    for text, found in (('{"format": 2}', "2"), ("[]", "'list'"), ("{}", "None"), ('"1"', "'str'")):
        refused(
            f"the file: its certificate has the format {found}; this version reads {FORMAT}",
            parse_certificate,
            text,
            "the file",
        )
    refused("the file: its certificate is not valid JSON", parse_certificate, "{", "the file")


PLACES: dict[str, list[Any]] = {
    "date": ["2026-11-30 ", "today", 3, None],
    "settings.step": [0, 1.5, "0.5", float("nan"), True],
    "settings.mirror": [1, None],
    "settings": [None, [], {"step": 0.5, "more": 1}],
    "machine.processor": ["x" * 201, 3],
    "machine.cores": [0, 2**17, 1.0],
    "machine.threads": [-1, 10**9],
    "machine.versions": [{"numpy": "x" * 201}, {"numpy": 2}, {str(n): "" for n in range(1_001)}],
    "cases": [[], None, {"image": "0"}],
    "cases.0.image": ["0" * 31, "0" * 33, "G" * 32, 3, None],
    "cases.0.truth": ["../x", 3],
    "cases.0.segmentation": ["", None],
    "cases.0.segments": [{}, {"": None}, {"x" * 201: {"voxels": 1}}, {str(n): {"voxels": 1} for n in range(1_001)}],
    "cases.0.segments.organ.voxels": [-1, 2**41, 1.5, True, "1"],
    "cases.0.segments.organ.true_voxels": [-1, 2**41, 0.5],
    "cases.0.segments.organ.dice": [-0.1, 1.1, float("nan"), float("inf"), "1", True],
    "cases.0.seconds": [[], [0], [-1], [1e-300], [1e300], [float("nan")], [float("inf")], ["1"], [1.0] * 1_001, 1.0],
    "cases.0.memory": [0, -1, 2**51, 0.5, "1"],
}


@pytest.mark.parametrize(("place", "value"), [(place, value) for place, values in PLACES.items() for value in values])
def test_what_no_measurement_gives_is_refused(place: str, value: Any) -> None:
    data = json.loads(to_json(CERTIFIED))
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    branch = data
    for part in way:
        branch = branch[part]
    branch[last] = value
    refused("the file: its certificate is malformed: ", parse_certificate, json.dumps(data), "the file")


@pytest.mark.parametrize("name", ["date", "settings", "machine", "cases"])
def test_what_is_missing_is_named(name: str) -> None:
    data = json.loads(to_json(CERTIFIED))
    del data[name]
    refused(name, parse_certificate, json.dumps(data), "the file")
    refused("malformed", parse_certificate, json.dumps(deepcopy(data) | {name: None, "more": 1}), "the file")


def test_more_cases_than_anybody_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = to_json(CERTIFIED)
    assert MOST_CASES == 10_000
    monkeypatch.setattr(record, "MOST_CASES", 1)
    refused("it has 2 cases; allowed are 1 to 1", parse_certificate, text, "the file")


def test_machines_are_compared_entry_by_entry() -> None:
    machine = CERTIFIED.machine
    assert machine.differences(machine) == []
    assert machine.differences(replace(machine, threads=1, versions={})) == ["threads", "versions"]
    assert str(machine) == ("a processor, cores 4, threads 2, Linux, onnxruntime 1.30 on cpu, numpy 2.4, monai-prox 0.2.0")
    assert str(CERTIFIED.settings) == "step size 0.7, mirrored, without postprocessing"
