"""The plot of a contest: what a family reaches over what its training has cost, and its members over what they cost.

    python -m benchmarks.report FOLDER... --to PLOT.png

A result has ``contender``, ``seed``, ``training_seconds``, ``training_macs``, ``curve`` (``seconds``, ``macs`` and ``members``
of evaluations on the way) and ``members``, each with a name, its MACs and its measure of 0 to 1. The command puts the results
of several folders together, which may be of several machines, so its plot goes over the MACs of training unless told otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from rich.console import Console

from benchmarks import records
from benchmarks.quantities import measure_of, of_family, quantities, terminal

SHOWN = ("largest", "middle", "smallest", "family", "worst", "surface")
SHOWN += ("training_seconds", "training_cpu_seconds", "training_macs", "peak_memory_bytes")
COLOURS = {
    "prox": "#e8590c",
    "prox_paper": "#f59f00",
    "progressive_shrinking": "#1c7ed6",
    "sandwich": "#2f9e44",
    "prox long": "#c92a2a",
    "modelopt": "#ae3ec9",
    "prox, 2 members a batch": "#0c8599",
    "prox, 3 members a batch": "#364fc7",
    "prox, 4 members a batch": "#5f3dc4",
}
OVER = {"seconds": ("seconds of training", 1.0), "macs": ("TMAC of training", 1e-12)}
GREY, ALONE = "#868e96", {"alone smallest": ":", "alone middle": "--", "alone largest": "-."}


def plot(results: list[records.Run], path: Path, *, over: str = "seconds") -> None:
    """Left the family's mean over what training has cost, a line per seed; right members at the end over what they cost.

    over: "seconds" of training, or its "macs", which do not depend on the machine.
    """
    label, scale = OVER[over]
    measure = measure_of(results) or ""
    figure, (over_training, over_size) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for name in dict.fromkeys(result["contender"] for result in results):
        colour, alone = COLOURS.get(name, GREY), name.startswith("alone")
        runs = [result for result in results if result["contender"] == name]
        style = {"linestyle": ALONE.get(name, ":"), "marker": "."} if alone else {"marker": "o", "markersize": 3}
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


def report(results: list[records.Run], folder: Path, *, over: str = "seconds") -> None:
    """Prints the table and, where members were evaluated, writes plot.png."""
    if all(result["members"] for result in results):
        plot(results, folder / "plot.png", over=over)
    found = quantities(results)
    shown = [name for name in SHOWN if any(name in row for row in found.values())]
    Console(width=None if sys.stdout.isatty() else 160).print(terminal(found, shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="with results")
    parser.add_argument("--to", required=True, type=Path, help="the plot")
    parser.add_argument("--over", choices=OVER, default="macs", help="the plot's axis; seconds for results of one machine")
    options = parser.parse_args()
    plot([run for folder in options.folders for run in records.read(folder)], options.to, over=options.over)


if __name__ == "__main__":
    main()
