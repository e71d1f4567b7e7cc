"""Contenders of a benchmark, each run in a process of its own, and their results: summary, table and plot.

A result has ``contender``, ``seed``, ``training_seconds``, ``training_cpu_seconds``, ``training_macs``, ``peak_memory_bytes``,
``curve`` (``seconds`` and ``members`` of evaluations on the way) and ``members``, each with a name, its MACs, and its measure
of 0 to 1. ``middle`` is measured, too, but does not count as the family.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import matplotlib.pyplot as plt
from about import about
from matplotlib.ticker import NullFormatter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from monai_prox.files import write_json

COLUMNS = {
    "largest": ("largest", 1.0),
    "middle": ("middle", 1.0),
    "smallest": ("smallest", 1.0),
    "family": ("family mean", 1.0),
    "worst": ("worst", 1.0),
    "seconds": ("training s", 1.0),
    "cpu_seconds": ("CPU s", 1.0),
    "macs": ("training TMAC", 1e-12),
    "memory": ("peak GB", 1e-9),
}
COLOURS = {
    "prox": "#e8590c",
    "prox_paper": "#f59f00",
    "progressive_shrinking": "#1c7ed6",
    "sandwich": "#2f9e44",
    "prox long": "#c92a2a",
    "modelopt": "#ae3ec9",
}
GREY, ALONE = "#868e96", {"alone smallest": ":", "alone middle": "--", "alone largest": "-."}


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
    write_json(about(described, threads=1) | json.loads(answer.read_text()), result)
    for rest in (asked, answer, Path(log.name)):
        rest.unlink()


def of_family(members: Sequence[Mapping[str, Any]], measure: str) -> list[float]:
    """The measure of those that count as the family; of a network trained alone its own."""
    return [member[measure] for member in members if member["name"] != "middle" or len(members) == 1]


def summarise(results: list[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    """A row per contender, a list over the seeds in each column."""
    rows = []
    for name in dict.fromkeys(result["contender"] for result in results):
        row: dict[str, Any] = {"contender": name, "seeds": []}
        for result in (result for result in results if result["contender"] == name):
            found = {member["name"]: member[measure] for member in result["members"]}
            values = {key: found[key] for key in ("largest", "middle", "smallest") if key in found}
            if len(family := of_family(result["members"], measure)) > 1:
                values |= {"family": fmean(family), "worst": min(family)}
            values |= {"seconds": result["training_seconds"], "cpu_seconds": result["training_cpu_seconds"]}
            values |= {"macs": result["training_macs"], "memory": result["peak_memory_bytes"]}
            row["seeds"].append(result["seed"])
            for key, value in values.items():
                row.setdefault(key, []).append(value)
        rows.append(row)
    return rows


def cell(values: list[float] | None, scale: float) -> str:
    if values is None:
        return "-"
    mean, spread = fmean(values) * scale, pstdev(values) * scale
    digits = 3 if scale == 1 and mean < 1 else 0 if mean >= 10 else 1
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if len(values) > 1 else "")


def tables(rows: list[dict[str, Any]]) -> tuple[Table, str]:
    """For the terminal and as Markdown: mean ± standard deviation over the seeds."""
    names = [title for title, _ in COLUMNS.values()]
    table = Table("contender", "seeds", *names)
    lines = ["| contender | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        cells = [row["contender"], str(len(row["seeds"])), *(cell(row.get(k), scale) for k, (_, scale) in COLUMNS.items())]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    return table, "\n".join(lines) + "\n"


def plot(results: list[dict[str, Any]], measure: str, path: Path) -> None:
    """Left the family's mean over the seconds of training, a line per seed; right members at the end over what they cost."""
    figure, (over_time, over_size) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for name in dict.fromkeys(result["contender"] for result in results):
        colour, alone = COLOURS.get(name, GREY), name.startswith("alone")
        runs = [result for result in results if result["contender"] == name]
        style = {"linestyle": ALONE[name], "marker": "."} if alone else {"marker": "o", "markersize": 3}
        for number, result in enumerate(runs):
            final = {"seconds": result["training_seconds"], "members": result["members"]}
            points = [(point["seconds"], fmean(of_family(point["members"], measure))) for point in [*result["curve"], final]]
            label = name if number == 0 else None
            over_time.plot(*zip(*points, strict=True), color=colour, label=label, alpha=0.8, **style)
        members = zip(*(result["members"] for result in runs), strict=True)  # each by seed
        sized = [(fmean(m["macs"] for m in of) / 1e9, fmean(m[measure] for m in of)) for of in members]
        marker = "x" if alone else "o"
        label = None if alone and name != "alone smallest" else "alone" if alone else name
        over_size.scatter(*zip(*sized, strict=True), color=colour, s=18, marker=marker, label=label, alpha=0.8)
    over_time.set(xlabel="seconds of training", ylabel=f"{measure.capitalize()}, mean of the family", xscale="log")
    over_size.set(xlabel="GMAC of a forward pass", ylabel=f"{measure.capitalize()} at the end, mean of the seeds", xscale="log")
    for axes in (over_time, over_size):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


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
            report(found, options, measure)


def report(found: list[dict[str, Any]], options: Namespace, measure: str) -> None:
    """Writes summary.json, table.md and plot.png of the results that there are, and prints the table."""
    rows = summarise(found, measure)
    settings = {key: value.name if isinstance(value, Path) else value for key, value in vars(options).items()}
    write_json(about(settings, threads=1) | {"rows": rows}, options.results / "summary.json")
    table, markdown = tables(rows)
    (options.results / "table.md").write_text(markdown)
    plot(found, measure, options.results / "plot.png")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
