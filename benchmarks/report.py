"""Table and plot of a benchmark's results.

    python benchmarks/report.py FOLDER... --to FOLDER

A result has ``contender``, ``seed``, ``training_seconds``, ``training_cpu_seconds``, ``training_macs``, ``peak_memory_bytes``,
``curve`` (``seconds``, ``macs`` and ``members`` of evaluations on the way) and ``members``, each with a name, its MACs and its
measure of 0 to 1. ``middle`` is measured, too, but does not count as the family. The command puts the results of several
folders together, which may be of several machines, so its plot goes over the MACs of training unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from rich.console import Console
from rich.table import Table

COLUMNS = {
    "largest": ("largest", 1.0),
    "middle": ("middle", 1.0),
    "smallest": ("smallest", 1.0),
    "family": ("family mean", 1.0),
    "worst": ("worst", 1.0),
    "surface": ("surface Dice", 1.0),
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
OVER = {"seconds": ("seconds of training", 1.0), "macs": ("TMAC of training", 1e-12)}
GREY, ALONE = "#868e96", {"alone smallest": ":", "alone middle": "--", "alone largest": "-."}


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
            if any("surface_dice" in member for member in result["members"]):  # results of earlier versions have none
                values["surface"] = fmean(of_family(result["members"], "surface_dice"))
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
    columns = {key: column for key, column in COLUMNS.items() if key != "surface" or any(key in row for row in rows)}
    names = [title for title, _ in columns.values()]
    table = Table("contender", "seeds", *names)
    lines = ["| contender | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        cells = [row["contender"], str(len(row["seeds"])), *(cell(row.get(k), scale) for k, (_, scale) in columns.items())]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    return table, "\n".join(lines) + "\n"


def plot(results: list[dict[str, Any]], measure: str, path: Path, *, over: str = "seconds") -> None:
    """Left the family's mean over what training has cost, a line per seed; right members at the end over what they cost.

    over: "seconds" of training, or its "macs", which do not depend on the machine.
    """
    label, scale = OVER[over]
    figure, (over_training, over_size) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for name in dict.fromkeys(result["contender"] for result in results):
        colour, alone = COLOURS.get(name, GREY), name.startswith("alone")
        runs = [result for result in results if result["contender"] == name]
        style = {"linestyle": ALONE[name], "marker": "."} if alone else {"marker": "o", "markersize": 3}
        for number, result in enumerate(runs):
            final = {over: result[f"training_{over}"], "members": result["members"]}
            points = [(point[over] * scale, fmean(of_family(point["members"], measure))) for point in [*result["curve"], final]]
            named = {"label": name} if number == 0 else {}
            over_training.plot(*zip(*points, strict=True), color=colour, alpha=0.8, **named, **style)
        members = zip(*(result["members"] for result in runs), strict=True)  # each by seed
        sized = [(fmean(m["macs"] for m in of) / 1e9, fmean(m[measure] for m in of)) for of in members]
        over_size.scatter(*zip(*sized, strict=True), color=colour, s=18, marker="x" if alone else "o", alpha=0.8)
    over_training.set(xlabel=label, ylabel=f"{measure.capitalize()}, mean of the family", xscale="log")
    over_size.set(xlabel="GMAC of a forward pass", ylabel=f"{measure.capitalize()} at the end, mean of the seeds", xscale="log")
    for axes in (over_training, over_size):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # some members lie within one power of ten
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside lower center", ncols=9, fontsize=8, columnspacing=1.2, frameon=False)
    figure.savefig(path, dpi=120)


def report(results: list[dict[str, Any]], measure: str, folder: Path, *, over: str = "seconds") -> list[dict[str, Any]]:
    """Writes table.md and, where members were evaluated, plot.png, prints the table and returns its rows."""
    rows = summarise(results, measure)
    table, markdown = tables(rows)
    (folder / "table.md").write_text(markdown)
    if all(result["members"] for result in results):
        plot(results, measure, folder / "plot.png", over=over)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="with results")
    parser.add_argument("--to", required=True, type=Path, help="folder for table.md and plot.png")
    parser.add_argument("--over", choices=OVER, default="macs", help="the plot's axis; seconds for results of one machine")
    options = parser.parse_args()
    paths = [path for folder in options.folders for path in sorted(folder.glob("*_[0-9]*.json"))]
    order = [*COLOURS, *ALONE]
    results = sorted((json.loads(path.read_text()) for path in paths), key=lambda result: order.index(result["contender"]))
    options.to.mkdir(parents=True, exist_ok=True)
    measure = "accuracy" if any("accuracy" in member for result in results for member in result["members"]) else "dice"
    report(results, measure, options.to, over=options.over)


if __name__ == "__main__":
    main()
