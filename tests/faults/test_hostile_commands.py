"""Every kind of file that a command reads, spoilt: the command refuses it in a line or does its work, and harms nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers.commands import call
from helpers.fuzzing import SEED
from helpers.hostile import HARMS, KINDS, campaign, make_valid
from helpers.made_once import made_once
from helpers.nnunet_task import environment

TIMES = float(os.environ.get("MONAI_PROX_FUZZ_TIMES", "0.6"))  # a campaign is the first of what more of them try
COUNTS = {"family": 150, "predict": 150, "search": 15}  # cases by command; of the exports:
BY_FORMAT = {"nnunet": 125, "bundle": 30, "onnx": 15, "torchscript": 25}
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "command"), EVERY, ids=[f"{n}-{c.split()[0]}{i}" for i, (n, c) in enumerate(EVERY)])
def test_every_command_refuses_spoilt_files_or_does_its_work(name: str, command: str, valid: Path, tmp_path: Path) -> None:
    result, count = tmp_path / "result.json", round(TIMES * count_of(command))
    variables = {f"nnUNet_{part}": valid / part for part in ("raw", "preprocessed")}
    files, known = tmp_path / "files", environment(**variables)
    call(campaign, name, command, count, int(SEED or 0), valid, files, result, environment=known)
    found = json.loads(result.read_text())
    print(name, command, found["happened"])
    assert sum(found["happened"].values()) == count
    assert not set(HARMS) & set(found["happened"]), f"{found['happened']}\n" + "\n".join(found["faults"])
