"""Contenders of a benchmark, each run in a process of its own and recorded when it ends: a race can be taken up again.

So can a run that was interrupted, if what it runs keeps itself, see ``benchmarks.unfinished``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from rich.progress import Progress

from benchmarks import records
from benchmarks.about import about
from benchmarks.report import report
from benchmarks.unfinished import forget
from monai_prox.files import write_json

NO_ENDING = str.maketrans(" .", "_-")  # for names of files


def compete(module: str, run: dict[str, Any], results: Path, lock: Lock, progress: Progress) -> None:
    """One contender in a process of its own, unless its result is there. lock: held while results are read or written."""
    name = f"{run['contender']}, seed {run['seed']}"
    described = {key: value for key, value in run.items() if key not in ("folder", "stream")}
    with lock:
        known = records.by_seed(results)
    if (key := (run["contender"], run["seed"])) in known:
        if known[key]["settings"] != described:
            raise SystemExit(f"{results} has {name} with other settings; give another --results")
        return
    task = progress.add_task(name, total=run["epochs"])
    part = results / f"{run['contender'].translate(NO_ENDING)}_{run['seed']}"
    asked, answer = part.with_suffix(".settings"), part.with_suffix(".part")
    write_json(run | {"place": str(part)}, asked)
    with part.with_suffix(".log").open("a", buffering=1) as log:
        command = [sys.executable, "-u", "-m", module, str(asked), str(answer)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                log.write(line)
                if line.startswith(f"{run['contender']} {run['seed']} epoch"):
                    progress.advance(task)
    if process.returncode:
        raise SystemExit(f"{run['contender']} failed, see {log.name}")
    peer = ["nvidia-modelopt"] if run["contender"].startswith(("modelopt", "fastnas")) else []
    result = {"contender": run["contender"], "seed": run["seed"]} | about(described, threads=1, packages=peer)
    with lock:
        records.add(result | json.loads(answer.read_text()), results)
    for rest in (asked, answer, Path(log.name)):
        rest.unlink(missing_ok=True)
    forget(part)


def one_run(run: Callable[[dict[str, Any]], dict[str, Any]], description: str | None) -> None:
    """The command of the process that ``compete`` starts: ``run`` of a file of settings, its result as another."""
    parser = ArgumentParser(description=description)
    parser.add_argument("settings", type=Path)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_json(run(json.loads(arguments.settings.read_text())), arguments.result)


def race(module: str, options: Namespace, *, keys: Sequence[str], of_seed: Mapping[int, Mapping[str, Any]]) -> None:
    """Makes the results that are not there yet by the command of ``module``, and reports; interrupted, on those that there are.

    options: ``contenders``, ``seeds``, ``results``, ``jobs`` at a time, and ``keys``, which all runs get. of_seed: what else.
    """
    options.results.mkdir(parents=True, exist_ok=True)
    common = {key: getattr(options, key) for key in keys}
    runs = [
        common | of_seed[seed] | {"contender": contender, "seed": seed}
        for seed in options.seeds
        for contender in options.contenders
    ]
    lock = Lock()
    try:
        with Progress() as progress, ThreadPoolExecutor(options.jobs) as pool:
            for waiting in [pool.submit(compete, module, run, options.results, lock, progress) for run in runs]:
                waiting.result()
    finally:
        if found := records.read(options.results):
            report(found, options.results)
