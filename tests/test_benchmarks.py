"""The benchmarks of the claims, end to end at their smallest size on synthetic data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.nnunet_task import environment

from monai_prox.data.phantom import write_phantom_task
from monai_prox.training.recipes import RECIPES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CONTENDERS = [*RECIPES, "prox long", "alone smallest", "alone middle", "alone largest"]


@pytest.mark.slow
def test_the_smoke_run_gives_a_result_of_every_contender_a_table_and_a_plot_and_is_taken_up_again(tmp_path: Path) -> None:
    task = write_phantom_task(tmp_path, cases=8, test_cases=0)
    results = tmp_path / "results"

    def claims(*more: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(BENCHMARKS / "claims.py"),
            "--task",
            str(task),
            "--work",
            str(tmp_path / "work"),
            "--results",
            str(results),
        ]
        command += ["--contenders", *CONTENDERS, "--jobs", "2", "--smoke", *more]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1200)

    done = claims()
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {path.stem: json.loads(path.read_text()) for path in results.glob("*_0.json")}
    assert set(runs) == {f"{name.replace(' ', '_')}_0" for name in CONTENDERS}
    for name, run in runs.items():
        assert run["training_macs"] > 0 and run["training_seconds"] > 0 and run["peak_memory_bytes"] > 0
        assert len(run["curve"]) == 1 and 0 < run["curve"][0]["seconds"] < run["training_seconds"]
        assert len(run["members"]) == (1 if name.startswith("alone") else 15)
        for member in run["members"]:
            assert 0 <= member["dice"] <= 1 and len(member["by_case"]) == 2 and member["macs"] > 0
            assert 0 <= member["surface_dice"] <= 1 and len(member["surface_by_case"]) == 2
        assert run["surface_tolerance_mm"] == 1 and not any("surface_dice" in member for member in run["curve"][0]["members"])
    assert runs["prox_paper_0"]["training_macs"] < runs["prox_0"]["training_macs"] < runs["sandwich_0"]["training_macs"]
    table = (results / "table.md").read_text()
    assert all(f"| {name} |" in table for name in CONTENDERS) and "| surface Dice |" in table
    assert (results / "plot.png").stat().st_size > 10_000
    assert {row["contender"] for row in json.loads((results / "summary.json").read_text())["rows"]} == set(CONTENDERS)

    written = {path: path.stat().st_mtime_ns for path in results.glob("*_0.json")}
    (results / "alone_smallest_0.json").unlink()
    assert claims().returncode == 0
    assert {path for path in written if path.stat().st_mtime_ns != written[path]} == {results / "alone_smallest_0.json"}

    other = claims("--learning-rate", "1e-2")
    assert other.returncode != 0 and "was made with other settings" in other.stderr

    done = claims("--sgd", "--results", str(tmp_path / "sgd"), "--contenders", "prox", "alone smallest")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("prox_0", "alone_smallest_0"):
        run = json.loads((tmp_path / "sgd" / f"{name}.json").read_text())
        assert run["settings"]["learning_rate"] is None
        assert run["losses"][0] == runs[name]["losses"][0] and run["losses"][1:] != runs[name]["losses"][1:]


def test_augmented_scans_keep_the_range_of_those_that_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from oct_contest import AUGMENT

    scan = torch.full((1, 64, 64), -2.0)
    scan[:, :32] = 2.0
    augmented = AUGMENT(scan)
    assert augmented.shape == scan.shape
    assert augmented.min() < -1.5 and augmented.max() > 1.5


@pytest.mark.slow
def test_the_smoke_run_on_scans_measures_members_with_and_without_statistics_of_their_own(tmp_path: Path) -> None:
    contenders = ["prox", "progressive_shrinking", "alone smallest"]
    command = [sys.executable, str(BENCHMARKS / "oct_claims.py"), "--work", str(tmp_path / "work")]
    command += ["--results", str(tmp_path / "results"), "--contenders", *contenders, "--jobs", "2", "--smoke"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*_0.json")}
    assert set(runs) == {f"{name.replace(' ', '_')}_0" for name in contenders}
    for name, run in runs.items():
        assert run["training_macs"] > 0 and len(run["curve"]) == 1
        assert len(run["members"]) == (1 if name.startswith("alone") else 15)
        for member in run["members"]:
            assert 0 <= member["accuracy"] <= 1 and 0 <= member["uncalibrated"] <= 1 and member["macs"] > 0
    assert runs["prox_0"]["training_macs"] < runs["progressive_shrinking_0"]["training_macs"]
    assert "| prox |" in (tmp_path / "results" / "table.md").read_text()
    assert (tmp_path / "results" / "plot.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_monitor_is_measured_with_and_without(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "overparameterization.py"), "--task", "balls", "--work", str(tmp_path / "work")]
    command += ["--results", str(tmp_path), "--cases", "8", "--validation", "3", "--test", "2", "--seeds", "0"]
    command += ["--steps", "8", "--epochs", "8", "--probe-every", "1", "--features", "4", "8", "8", "--alone"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    on, off = (json.loads((tmp_path / "Task992_Balls" / f"{name}_0.json").read_text()) for name in ("on", "off"))
    assert on["monitored"] and not off["monitored"] and off["comparisons"] == [] and off["closed"] == {}
    for result in (on, off):
        assert result["training_cpu_seconds"] > 0 and 0 <= result["largest"]["dice"] <= 1
    for member in ("largest", "without_levels", "without_resolution", "without_width", "without_kernel"):
        alone = json.loads((tmp_path / "Task992_Balls" / f"alone_{member}_0.json").read_text())
        assert 0 <= alone["dice"] <= 1 and len(alone["by_case"]) == 2
    summary = json.loads((tmp_path / "Task992_Balls" / "summary.json").read_text())
    assert summary["machine"] and len(summary["results"]) == 2
    other = subprocess.run([*command, "--threshold", "0.01"], env=environment(), capture_output=True, text=True, timeout=1200)
    assert other.returncode == 1 and "results of other settings" in other.stderr
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1200)
    assert again.returncode == 0, again.stdout + again.stderr
