"""Contenders of a benchmark, each run in a process of its own, one result each."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from about import about
from report import report
from rich.progress import Progress

from monai_prox.files import write_json


def compete(script: Path, run: dict[str, Any], result: Path, progress: Progress) -> None:
    """One contender in a process of its own, unless its result is there."""
    described = {key: value for key, value in run.items() if key not in ("folder", "stream")}
    if result.is_file():
        if json.loads(result.read_text())["settings"] != described:
            raise SystemExit(f"{result} was made with other settings; give another --results or remove it")
        return
    task = progress.add_task(f"{run['contender']}, seed {run['seed']}", total=run["epochs"])
    asked, answer = result.with_suffix(".settings"), result.with_suffix(".part")
    write_json(run, asked)
    with result.with_suffix(".log").open("w", buffering=1) as log:
        command = [sys.executable, "-u", str(script), str(asked), str(answer)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                log.write(line)
                if line.startswith(f"{run['contender']} {run['seed']} epoch"):
                    progress.advance(task)
    if process.returncode:
        raise SystemExit(f"{run['contender']} failed, see {log.name}")
    peer = ["nvidia-modelopt"] if run["contender"] == "modelopt" else []
    write_json(about(described, threads=1, packages=peer) | json.loads(answer.read_text()), result)
    for rest in (asked, answer, Path(log.name)):
        rest.unlink()


def one_run(run: Callable[[dict[str, Any]], dict[str, Any]], description: str | None) -> None:
    """The command of the process that ``compete`` starts: ``run`` of a file of settings, its result as another."""
    parser = ArgumentParser(description=description)
    parser.add_argument("settings", type=Path)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_json(run(json.loads(arguments.settings.read_text())), arguments.result)


def race(
    script: Path, options: Namespace, *, keys: Sequence[str], of_seed: Mapping[int, Mapping[str, Any]], measure: str
) -> None:
    """Makes the results that are not there yet by ``script``, and reports; interrupted, on those that there are.

    options: ``contenders``, ``seeds``, ``results``, ``jobs`` at a time, and ``keys``, which all runs get. of_seed: what else.
    """
    options.results.mkdir(parents=True, exist_ok=True)
    common = {key: getattr(options, key) for key in keys}
    runs = {
        options.results / f"{contender.replace(' ', '_')}_{seed}.json": common
        | of_seed[seed]
        | {"contender": contender, "seed": seed}
        for seed in options.seeds
        for contender in options.contenders
    }
    try:
        with Progress() as progress, ThreadPoolExecutor(options.jobs) as pool:
            for waiting in [pool.submit(compete, script, run, result, progress) for result, run in runs.items()]:
                waiting.result()
    finally:
        if found := [json.loads(result.read_text()) for result in runs if result.is_file()]:
            settings = {key: value.name if isinstance(value, Path) else value for key, value in vars(options).items()}
            rows = report(found, measure, options.results)
            write_json(about(settings, threads=1) | {"rows": rows}, options.results / "summary.json")
