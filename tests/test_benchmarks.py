"""The benchmarks of the claims, end to end at their smallest size on synthetic data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import forked
from helpers.nnunet_task import Prepared, Start, environment
from helpers.programs import Programs
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import contest, documents, records, unfinished
from benchmarks.claims import SMOKE, write_part
from benchmarks.oct_contest import AUGMENT
from benchmarks.overparameterization import SPACE
from benchmarks.quantities import markdown, quantities
from benchmarks.registry import Figure, read_claims
from benchmarks.stream import read_stream
from benchmarks.task import prepare
from monai_prox.files import replacing

pytest_plugins = ["helpers.nnunet_fixtures", "helpers.program_fixtures"]

ROOT = Path(__file__).parents[1]
TWO = "prox, 2 members a batch"
CONTENDERS = ["prox", TWO, "sandwich", "prox long", "alone smallest"]  # the shrinking one is in the run on scans


def benchmark(name: str, *words: object, start: Start = forked) -> subprocess.CompletedProcess[str]:
    """start: ``programs`` for one that starts others."""
    return start([name, *words], environment(), cwd=ROOT, module=True)


# ---------------------------------------------------------------------- results
def test_runs_are_read_as_they_were_written_a_line_each(tmp_path: Path) -> None:
    runs = [
        {"contender": "prox", "seed": seed, "losses": [seed + 0.1 * i for i in range(20)], "curve": [], "few": [1, 2]}
        | {"members": [{"name": "largest", "by_case": list(range(30)), "closed": [True] * 9, "none": None}]}
        for seed in range(2)
    ]
    records.write(runs, tmp_path / "results")
    assert records.read(tmp_path / "results") == runs
    lines = (tmp_path / "results" / records.RUNS).read_text().splitlines()
    assert len(lines) == 2 and all(len(line) < 400 for line in lines)
    assert records.read(tmp_path) == []


def test_a_process_that_is_killed_leaves_the_old_runs_or_the_new_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(seed: int, first: float) -> records.Run:
        return {"contender": "prox", "seed": seed, "losses": [first + i for i in range(20)]}

    old, new = [run(0, 0.5), run(1, 100)], [run(1, 100), run(0, 7)]
    for written in range(4):
        records.write(old, tmp_path)
        left = iter(range(written))

        def killed(path: Path, left: Iterator[int] = left) -> AbstractContextManager[Path]:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return replacing(path)

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(records, "replacing", killed)
            records.write(new, tmp_path)
        assert records.read(tmp_path) == (old if written < 2 else new)
    with np.load(tmp_path / records.ARRAYS) as arrays:
        assert len(arrays) == 2
    records.add(run(0, 50), tmp_path)  # as a second process that was slower
    assert records.read(tmp_path) == new
    records.add(run(2, 50), tmp_path)
    assert records.read(tmp_path) == [*new, run(2, 50)]


def test_what_was_not_measured_is_shown_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        {"contender": "prox", "seed": seed, "members": [{"name": "smallest", "dice": dice}, {"name": "largest", "dice": 0.5}]}
        | {"peak": {"gpu": [1.0, nan][seed]}}
        for seed, dice in enumerate((0.5, None))
    ]
    found, claim = quantities(runs), read_claims()["widths"]
    row = "| prox | 2 | nan ± nan | 0.500 ± 0.000 | nan ± nan |"
    assert markdown(found, ["smallest", "largest", "worst"]).splitlines()[2] == row
    monkeypatch.setattr(claim, "found", {"prox": found["prox"]})  # where nobody installed the other contender's package
    table, all_hold = command.figures(claim, claim.found)
    assert not all_hold and [*table.columns[3].cells] == ["-"] * len(claim.figures)
    monkeypatch.setattr(command, "read_claims", lambda: {"widths": claim})
    monkeypatch.setattr(command, "documents", list)
    done = CliRunner().invoke(command.app, ["check"])
    assert done.exit_code == 1 and "widths.work is -, and claims.toml expects 0.89" in done.output


def test_quantities_are_those_of_the_family_and_of_all_numbers() -> None:
    members = [
        {"name": name, "dice": dice} for name, dice in (("smallest", 0.5), ("largest", 0.9), ("middle", 0.1), ("r", 0.7))
    ]
    runs = [{"contender": "prox", "seed": s, "training_macs": 10.0 + s, "members": members, "peak": {"gpu": s}} for s in (0, 1)]
    found = quantities([*runs, {"contender": "alone", "seed": 0, "dice": 0.25, "closed": {"kernel": True}}])
    assert found["prox"]["family"] == [pytest.approx(0.7)] * 2 and found["prox"]["worst"] == [0.5, 0.5]
    assert found["prox"]["training_macs"] == [10.0, 11.0] and found["prox"]["peak.gpu"] == [0, 1]
    assert found["alone"] == {"dice": [0.25]}
    assert markdown(found, ["worst", "dice"]).splitlines() == [
        "|  | seeds | worst | Dice |",
        "|---|---|---|---|",
        "| prox | 2 | 0.500 ± 0.000 | - |",
        "| alone | 1 | - | 0.250 |",
    ]


@pytest.mark.parametrize(
    ("metric", "value"),
    [("dice[a, b]", 0.5), ("dice[a, b] / dice[c]", 2.0), ("dice[a, b] - dice[c]", 0.25), ("macs.all[c]", 3.0)],
)
def test_a_metric_is_a_mean_or_a_ratio_or_difference_of_two(metric: str, value: float) -> None:
    found = {"a, b": {"dice": [0.25, 0.75]}, "c": {"dice": [0.25], "macs.all": [3.0]}}
    assert Figure(metric, value, 0.0).measured(found) == value


@pytest.mark.parametrize("metric", ["dice", "dice[a] * dice[b]", "__import__('os')[a]", "dice[a] / dice[b] / dice[c]"])
def test_another_metric_is_refused(metric: str) -> None:
    with pytest.raises(ValueError, match=r"is not quantity\[contender\]"):
        Figure(metric, 0.0, 0.0).measured({"a": {"dice": [1.0]}})


def test_documents_say_what_the_results_say() -> None:
    done = benchmark("benchmarks", "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_document_that_says_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    claims = read_claims()
    price = claims["four-dimensions"].figures["price"].written(claims["four-dimensions"].figures["price"].expected)
    right = f"It costs <!-- figure four-dimensions.price -->{price}<!-- end --> of it.\n"
    assert documents.rewritten(right, claims) == right
    wrong = tmp_path / "README.md"
    wrong.write_text(right.replace(price, "0.01"))
    monkeypatch.setattr(command, "documents", lambda: [wrong])
    done = CliRunner().invoke(command.app, ["check"])
    assert done.exit_code == 1 and f"{wrong}: differs from the results" in done.output
    assert CliRunner().invoke(command.app, ["check", "--write"]).exit_code == 0
    assert wrong.read_text() == right
    wrong.write_bytes(right.replace(price, "0.01").replace("\n", "\r\n").encode())
    assert CliRunner().invoke(command.app, ["check", "--write"]).exit_code == 0
    assert wrong.read_bytes() == right.replace("\n", "\r\n").encode()
    wrong.write_text("<!-- table four-dimensions -->\nWords\n" + right)
    done = CliRunner().invoke(command.app, ["check", "--write"])
    assert done.exit_code == 1 and "<!-- table four-dimensions --> is not closed before <!-- figure" in done.output
    assert "Words" in wrong.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- figure four-dimensions.speed -->1<!-- end -->", "'speed'"),
        ("<!-- figure four-dimensions -->1<!-- end -->", "''"),
        ("<!-- table nothing -->1<!-- end -->", "'nothing'"),
        ("<!-- table four-dimensions: speed -->1<!-- end -->", "'speed'"),
        ("<!-- table four-dimensions | nobody -->1<!-- end -->", "'nobody'"),
        ("<!-- table four-dimensions -->\n1\n", "is not closed"),
        (
            "<!-- table four-dimensions -->1<!-- figure time.largest -->1<!-- end --><!-- end -->",
            "is not closed before",
        ),
        ("1<!-- end -->", "closes nothing"),
        ("<!--figure four-dimensions.price-->1<!--end-->", "is no marker"),
        ("<!-- Figure four-dimensions.price -->1<!-- end -->", "is no marker"),
    ],
)
def test_a_marker_that_cannot_be_followed_is_refused(text: str, said: str) -> None:
    with pytest.raises((KeyError, ValueError), match=said):
        documents.rewritten(text, read_claims())


def test_every_command_of_a_claim_is_one_that_its_program_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def parse(parser: ArgumentParser, arguments: Sequence[str] | None = None, namespace: None = None) -> None:
        options = parse_args(parser, arguments, namespace)
        taken.append(getattr(options, "results", None))
        raise KeyboardInterrupt

    parse_args = ArgumentParser.parse_args
    monkeypatch.setattr(ArgumentParser, "parse_args", parse)
    data, work, results = (Path("/a folder") / part for part in ("{data}", "[work]", "results"))
    asked = 0
    for claim in read_claims().values():
        for smoke in (False, True):
            for words in claim.command_lines(smoke=smoke, data=data, work=work, results=results):
                if words[0] == "python":
                    asked += 1
                    monkeypatch.setattr(sys, "argv", words[2:])
                    with pytest.raises(KeyboardInterrupt):
                        import_module(words[2]).main()
                else:
                    assert words[:2] == ["monai-prox", "demo"]
    made_before = work / "quality"  # by a command whose family another one of the claim measures
    assert len(taken) == asked and set(taken) == {results, made_before}


def test_a_claim_is_run_anywhere_in_folders_of_its_own(tmp_path: Path) -> None:
    claim = """
[[claim]]
id = "two"
sentence = "Two."
commands = ["monai-prox --version", "python -m made --results {results} --data {data}"]
smoke = ["", "--smoke"]
hours = 1
columns = ["dice"]
figures.dice = { metric = "dice[a]", expected = 0.5, tolerance = 0.1 }
"""
    made = (
        "import sys; from pathlib import Path; from benchmarks import records;"
        "records.write([{'contender': 'a', 'dice': 0.25 + 0.25 * (len(sys.argv) == 5)}], Path(sys.argv[2]))"
    )
    work, python = tmp_path / "a {folder}", tmp_path / "python"
    python.mkdir()
    (python / "made.py").write_text(made)
    (python / "claims.toml").write_text(claim)
    code = f"import pathlib; from benchmarks import registry, __main__; registry.FOLDER = pathlib.Path({str(python)!r}); "
    code += "__main__.app()"

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", code, "run", "two", "--work", str(work), *more]
        path = {"PYTHONPATH": f"{ROOT}{os.pathsep}{python}"}
        return subprocess.run(words, cwd=tmp_path, env=environment() | path, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0 and "monai-prox " in done.stdout and "0.50 ± 0.1" in done.stdout, done.stdout + done.stderr
    assert run("--smoke").returncode == 0
    assert records.read(work / "results")[0]["dice"] == 0.5 and records.read(work / "smoke" / "results")[0]["dice"] == 0.25


def test_every_claim_is_shown_and_another_is_refused() -> None:
    for name in read_claims():
        done = CliRunner().invoke(command.app, ["show", name])
        assert done.exit_code == 0, (name, done.output)
    refused = CliRunner().invoke(command.app, ["show", "nothing"])
    assert refused.exit_code == 2 and "there is no claim 'nothing'" in refused.output


# ---------------------------------------------------------------------- smoke runs
@pytest.mark.slow
def test_the_smoke_run_gives_a_result_of_every_contender_and_a_plot_and_is_taken_up_again(
    phantom: Prepared, tmp_path: Path, programs: Programs
) -> None:
    """On what nnU-Net has preprocessed before; in the monitor's run below, the benchmark has it planned."""
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(phantom.root / folder, tmp_path / "work" / folder)
    results = tmp_path / "results"

    def claims(*more: object) -> subprocess.CompletedProcess[str]:
        folders = ["--task", phantom.root / "Task990_Phantom", "--work", tmp_path / "work", "--results", results]
        words = [*folders, "--contenders", *CONTENDERS, "--jobs", 2, "--smoke"]
        return benchmark("benchmarks.claims", *words, *more, start=programs)

    done = claims()
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run["contender"]: run for run in records.read(results)}
    assert set(runs) == set(CONTENDERS)
    for name, run in runs.items():
        assert run["training_macs"] > 0 and run["training_seconds"] > 0 and run["peak_memory_bytes"] > 0
        assert len(run["curve"]) == 1 and 0 < run["curve"][0]["seconds"] < run["training_seconds"]
        assert len(run["members"]) == (1 if name.startswith("alone") else 15)
        for member in run["members"]:
            assert 0 <= member["dice"] <= 1 and len(member["by_case"]) == 2 and member["macs"] > 0
            assert 0 <= member["surface_dice"] <= 1 and len(member["surface_by_case"]) == 2
        assert run["surface_tolerance_mm"] == 1 and not any("surface_dice" in member for member in run["curve"][0]["members"])
    assert runs["alone smallest"]["training_macs"] < runs["prox"]["training_macs"] < runs["sandwich"]["training_macs"]
    assert 1.5 < runs[TWO]["training_macs"] / runs["prox"]["training_macs"] < 2.5
    assert (results / "plot.png").stat().st_size > 10_000
    assert {path.name for path in results.iterdir()} == {records.RUNS, records.ARRAYS, "plot.png"}

    others = [run for run in records.read(results) if run["contender"] != "alone smallest"]
    records.write(others, results)
    assert claims().returncode == 0
    assert records.read(results)[:-1] == others and records.read(results)[-1]["contender"] == "alone smallest"

    other = claims("--learning-rate", "1e-2")
    assert other.returncode != 0 and "with other settings" in other.stderr

    done = claims("--sgd", "--results", tmp_path / "sgd", "--contenders", "alone smallest")
    assert done.returncode == 0, done.stdout + done.stderr
    (sgd,), adam = records.read(tmp_path / "sgd"), runs["alone smallest"]
    assert sgd["settings"]["learning_rate"] is None
    assert sgd["losses"][0] == adam["losses"][0] and sgd["losses"][1:] != adam["losses"][1:]


@pytest.mark.slow
def test_a_family_is_adopted_beside_its_rivals(phantom: Prepared, tmp_path: Path, programs: Programs) -> None:
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed")
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(phantom.root / folder, tmp_path / folder)
    contenders = ["given", "adopt 1", "scratch 0.5", "distilled smallest 0.5", "fastnas middle 0.5"]
    folders = ["--task", phantom.root / "Task990_Phantom", "--work", tmp_path, "--results", tmp_path / "results"]
    done = benchmark("benchmarks.adoption", *folders, "--contenders", *contenders, "--smoke", start=programs)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run["contender"]: run for run in records.read(tmp_path / "results")}
    macs = {name: {member["name"]: member["macs"] for member in run["members"]} for name, run in runs.items()}
    largest, images = macs["given"]["largest"], 2 * SMOKE["steps"]
    assert list(runs) == contenders and len(macs["adopt 1"]) == len(macs["scratch 0.5"]) == 15
    assert runs["given"]["training_macs"] == 3 * largest * images and largest == macs["adopt 1"]["largest"]
    assert runs["adopt 1"]["training_macs"] < 0.75 * runs["given"]["training_macs"]
    taught = 3 * macs["distilled smallest 0.5"]["smallest"] + largest
    assert runs["distilled smallest 0.5"]["training_macs"] == taught * images / 2
    assert macs["fastnas middle 0.5"]["middle"] <= macs["adopt 1"]["middle"]


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["prox", "modelopt"])
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(
    contender: str, phantom: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if contender == "modelopt":
        pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed")
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(phantom.root / folder, tmp_path / folder)
    cut = {"features": SMOKE["features"], "batch_size": 2, "held_out": 2, "left_out": 0}
    folder, plan = prepare(phantom.root / "Task990_Phantom", tmp_path, **cut, patch_size=None, configuration="3d_fullres")
    setting = {"space": "default", "steps": 14, "epochs": 7, "learning_rate": 4e-3}
    write_part(folder, plan, setting, tmp_path / "stream", 0, list(range(7)), 2)
    asked = setting | {
        "contender": contender,
        "seed": 0,
        "folder": str(folder),
        "plan": plan,
        "stream": str(tmp_path / "stream"),
    }
    asked |= {"curve": 0, "curve_cases": 1, "bfloat16": False}
    whole = contest.run(asked | {"place": str(tmp_path / "whole")})

    def interrupted(stream: Path, epoch: int) -> Any:
        if epoch == 4:
            raise KeyboardInterrupt
        return read_stream(stream, epoch)

    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    monkeypatch.setattr(contest, "read_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        contest.run(asked | {"place": str(tmp_path / "cut")})
    monkeypatch.setattr(contest, "read_stream", read_stream)
    taken_up = contest.run(asked | {"place": str(tmp_path / "cut")})
    assert (whole["training_parts"], taken_up["training_parts"]) == (1, 2)
    assert taken_up["losses"] == whole["losses"] and taken_up["training_macs"] == whole["training_macs"]
    assert len(list(unfinished.checkpoints(tmp_path / "cut"))) == 1
    unfinished.forget(tmp_path / "cut")
    assert not list(tmp_path.glob("cut*"))


def test_augmented_scans_keep_the_range_of_those_that_are_held_out() -> None:
    scan = torch.full((1, 64, 64), -2.0)
    scan[:, :32] = 2.0
    augmented = AUGMENT(scan)
    assert augmented.shape == scan.shape
    assert augmented.min() < -1.5 and augmented.max() > 1.5


@pytest.mark.slow
def test_the_smoke_run_on_scans_measures_members_with_and_without_statistics_of_their_own(
    tmp_path: Path, programs: Programs
) -> None:
    contenders = ["prox", "progressive_shrinking", "alone smallest"]
    folders = ["--work", tmp_path / "work", "--results", tmp_path / "results"]
    words = [*folders, "--contenders", *contenders, "--jobs", 2, "--smoke"]
    done = benchmark("benchmarks.oct_claims", *words, start=programs)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run["contender"]: run for run in records.read(tmp_path / "results")}
    assert set(runs) == set(contenders)
    for name, run in runs.items():
        assert run["training_macs"] > 0 and len(run["curve"]) == 1
        assert len(run["members"]) == (1 if name.startswith("alone") else 15)
        for member in run["members"]:
            assert 0 <= member["accuracy"] <= 1 and 0 <= member["uncalibrated"] <= 1 and member["macs"] > 0
    assert runs["prox"]["training_macs"] < runs["progressive_shrinking"]["training_macs"]
    assert (tmp_path / "results" / "plot.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_monitor_is_measured_with_and_without(tmp_path: Path, programs: Programs) -> None:
    def measured(*more: object) -> subprocess.CompletedProcess[str]:
        words: list[object] = ["--task", "balls", "--work", tmp_path / "work", "--results", tmp_path, "--seeds", 0, "--alone"]
        words += ["--cases", 8, "--validation", 3, "--test", 2, "--steps", 6, "--epochs", 6, "--probe-every", 1]
        words += ["--patch-size", 24, 32, 24, "--features", 4, 8, 8]
        words += ["--space", json.dumps(SPACE | {"kernel": [3], "width": [1.0]})]
        return benchmark("benchmarks.overparameterization", *words, *more, start=programs)

    done = measured()
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run["contender"]: run for run in records.read(tmp_path)}
    on, off = runs["on"], runs["off"]
    assert on["monitored"] and not off["monitored"] and off["comparisons"] == [] and off["closed"] == {}
    for result in (on, off):
        assert result["training_cpu_seconds"] > 0 and 0 <= result["largest"]["dice"] <= 1
    alone = ["largest", "without levels", "without resolution"]
    assert runs.keys() == {"on", "off", *(f"alone {member}" for member in alone)}
    for member in alone:
        assert 0 <= runs[f"alone {member}"]["dice"] <= 1 and len(runs[f"alone {member}"]["by_case"]) == 2
    other = measured("--threshold", 0.01)
    assert other.returncode == 1 and "results of other settings" in other.stderr
