"""Every kind of file that a command reads, spoilt: the command refuses it in a line or does its work, and harms nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import call
from fuzzing import CAMPAIGN, SEED
from hostile import HARMS, KINDS, campaign, make_valid
from hypothesis import settings
from made_once import made_once
from nnunet_task import environment

COUNTS = {"family": 400, "predict": 400, "search": 60}  # cases by command in a campaign; of the exports:
BY_FORMAT = {"nnunet": 400, "bundle": 120, "onnx": 60, "torchscript": 100}
EVERY = [(name, command) for name, kind in KINDS.items() for command in kind.commands]


def count_of(command: str) -> int:
    words = command.split()
    if words[0] in COUNTS:
        return COUNTS[words[0]]
    return BY_FORMAT[words[words.index("--format") + 1]]


def fill(folder: Path) -> None:
    variables = {f"nnUNet_{part}": folder / part for part in ("raw", "preprocessed", "results")}
    for place in variables.values():
        place.mkdir(exist_ok=True)
    call(make_valid, folder, environment=environment(**variables))


@pytest.fixture(scope="module")
def valid() -> Path:
    return made_once("hostile", fill)


@pytest.mark.parametrize(("name", "command"), EVERY, ids=[f"{n}-{c.split()[0]}{i}" for i, (n, c) in enumerate(EVERY)])
def test_a_command_refuses_a_spoilt_file_or_does_its_work(name: str, command: str, valid: Path, tmp_path: Path) -> None:
    count = max(2, count_of(command) * settings.default.max_examples // CAMPAIGN // 5)
    result = tmp_path / "result.json"
    call(
        campaign,
        *(name, command, count, int(SEED or 0), valid, tmp_path / "work", result),
        environment=environment(nnUNet_raw=valid / "raw", nnUNet_preprocessed=valid / "preprocessed"),
    )
    found = json.loads(result.read_text())
    assert sum(found["happened"].values()) == count
    assert not {harm: found["happened"][harm] for harm in HARMS if harm in found["happened"]}, "\n".join(found["faults"])
