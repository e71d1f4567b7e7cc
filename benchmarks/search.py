"""The search against random sampling with as many members scored, and what it costs beside the training that it follows.

Needs a model folder that a ProXTrainer left, and the raw dataset. The hypervolume is the area below the front of the finalists,
Dice on all held-out cases over the logarithm of MACs, up to the largest member's. Seconds of the training are the sum of the
epochs in its log, so both should have run on the same quiet machine.

    python -m benchmarks.search MODEL --dataset nnUNet_raw/DATASET --results benchmarks/results/search-NAME
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import records
from benchmarks.about import about
from monai_prox.core import cost
from monai_prox.search.front import hypervolume
from monai_prox.search.result import Result
from monai_prox.search.scored import Scored, best_so_far
from monai_prox.search.study import SAMPLERS, Search
from monai_prox.trained.nnunet_source import TrainedNNUNet

EPOCH = re.compile(r"Epoch time: ([\d.]+) s")
COLOURS = {"nsga2": "#1c7ed6", "random": "#868e96"}


def training_seconds(source: TrainedNNUNet) -> float:
    logs = (source.path / source.fold).glob("training_log_*.txt")
    return sum(float(seconds) for log in logs for seconds in EPOCH.findall(log.read_text()))


def volume(scored: list[Scored], worst: float) -> float:
    return hypervolume([one.score for one in scored], [one.price.macs for one in scored], worst)


def row(sampler: str, seed: int, result: Result, worst: float) -> dict[str, Any]:
    return {
        "contender": sampler,
        "seed": seed,
        "members": len(result.members),
        "seconds": result.seconds,
        "hypervolume": volume(result.finalists, worst),
        "hypervolume_of_some_cases": volume(result.members, worst),
        "front": [{"macs": one.price.macs, "dice": one.score} for one in best_so_far(result.finalists, ["macs"])],
    }


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for one in rows:
        points = [(point["macs"] / 1e9, point["dice"]) for point in one["front"]]
        label = one["contender"] if one["seed"] == rows[0]["seed"] else None
        axes.step(
            *zip(*points, strict=True), where="post", marker="o", markersize=3, color=COLOURS[one["contender"]], label=label
        )
    axes.set(xscale="log", xlabel="MACs per patch (billion)", ylabel="mean Dice on held-out cases")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=Search.trials)
    parser.add_argument("--cases", type=int, default=Search.cases)
    parser.add_argument("--finalists", type=int, default=Search.finalists)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = {"trials": arguments.trials, "cases": arguments.cases, "finalists": arguments.finalists}
    rows = []
    runs = [(seed, sampler) for seed in arguments.seeds for sampler in SAMPLERS]
    for seed, sampler in track(runs, "searching"):
        source = TrainedNNUNet.open(arguments.model, dataset=arguments.dataset.resolve())
        worst = cost.macs(source.supernet.family, source.supernet.family.space.largest(), source.size)
        with tempfile.TemporaryDirectory() as folder:
            storage = str(Path(folder, "study.journal"))
            result = Search(source=source, storage=storage, seed=seed, sampler=sampler, **settings).run()
        rows.append(row(sampler, seed, result, worst))
    training = training_seconds(source)
    described = about(
        {"model": source.path.name, "dataset": arguments.dataset.name, "held_out": len(source.held_out().names), **settings},
        threads=torch.get_num_threads(),
        packages=["optuna"],
    )
    for one in rows:
        one |= {"training_seconds": training, "share_of_training": one["seconds"] / training}
    records.write([described | one for one in rows], arguments.results)
    plot(rows, arguments.results / "plot.png")
    table = Table("sampler", "seed", "members", "seconds", "hypervolume", "on some cases")
    for one in rows:
        volumes = f"{one['hypervolume']:.4f}", f"{one['hypervolume_of_some_cases']:.4f}"
        table.add_row(one["contender"], str(one["seed"]), str(one["members"]), f"{one['seconds']:.0f}", *volumes)
    Console().print(table)
    share = fmean(one["share_of_training"] for one in rows if one["contender"] == "nsga2")
    print(f"the search took {share:.1%} of the {training:.0f} s of training")


if __name__ == "__main__":
    main()
