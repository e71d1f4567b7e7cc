"""The claims, measured: ProX against Progressive Shrinking, the sandwich rule, plain training and a peer.

    python benchmarks/claims.py --task Task04_Hippocampus --work WORK --results benchmarks/results/claims/hippocampus
    python benchmarks/claims.py --task Task04_Hippocampus --work WORK --results OUT --smoke

All contenders train on the same batches of the same plan, for the same steps, with the same optimizer. Seconds are those of the
training steps alone, without loading and validation, each run in a process of its own on one thread (or on the GPU); CPU
seconds are the same without what other processes took from it, and mean nothing on a GPU. Dice is
the hard Dice of held-out cases, as whole volumes at native resolution without mirroring, mean over the foreground classes and
the cases. A family is its smallest and largest member and twelve random ones, the same in all runs; its ``middle`` is
measured, too, but not part of the mean. ``prox short`` is the recipe prox with the first two fifths of the batches. One JSON
per contender and seed: an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import matplotlib.pyplot as plt
from about import about
from contenders import ALONE, SHORT, make_contender
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from stream import write_stream
from task import prepare

from monai_prox.families.unet import CHOICES
from monai_prox.files import write_json
from monai_prox.schedule import RECIPES

CONTENDERS = [*RECIPES, SHORT, *(f"alone {name}" for name in ALONE), "modelopt"]
SMOKE = {"steps": 14, "epochs": 14, "seeds": [0], "features": [4, 8, 8, 8], "held_out": 2, "curve": 2, "curve_cases": 2}
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
COLOURS = ["#e8590c", "#f59f00", "#1c7ed6", "#2f9e44", "#fa5252", "#868e96", "#868e96", "#868e96", "#ae3ec9"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True, help="Decathlon task folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for nnU-Net's files and the batches")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--space", default="default", help=f"of {', '.join(CHOICES)}, or the JSON of another")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument(
        "--epochs", type=int, default=100, help="into which the steps are divided, for stages and learning rate"
    )
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--features", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--patch-size", nargs=3, type=int, help="the plan's own by default")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=60, help="cases, the last by name")
    parser.add_argument("--curve", type=int, default=8, help="evaluations in a training, the one at its end included")
    parser.add_argument("--curve-cases", type=int, default=20, help="of those held out, for the evaluations before the end")
    parser.add_argument("--bfloat16", action="store_true", help="autocast of the training steps")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--smoke", action="store_true", help="minutes instead of hours; its figures mean nothing")
    parsed = parser.parse_args()
    if parsed.smoke:
        vars(parsed).update(SMOKE)
    if "modelopt" in parsed.contenders and find_spec("modelopt") is None:
        print("modelopt is left out: pip install nvidia-modelopt", file=sys.stderr)
        parsed.contenders = [name for name in parsed.contenders if name != "modelopt"]
    return parsed


def streams(folder: Path, plan: str, options: argparse.Namespace) -> dict[int, Path]:
    """Writes the batches of every seed."""
    setting = {key: getattr(options, key) for key in ("space", "steps", "epochs", "learning_rate")}
    paths = {seed: options.work / "batches" / f"{plan}_{options.steps}_{options.epochs}_{seed}" for seed in options.seeds}
    loading = make_contender("alone smallest", folder, plan, seed=0, **setting).trainer
    for seed, path in paths.items():
        write_stream(loading, path, seed=seed, steps=options.steps, epochs=options.epochs)
    return paths


def compete(run: dict[str, Any], result: Path, progress: Progress) -> None:
    """One contender in a process of its own, unless its result is there."""
    described = {key: value for key, value in run.items() if key not in ("folder", "stream")}
    if result.is_file():
        if json.loads(result.read_text())["settings"] != described:
            raise SystemExit(f"{result} was made with other settings; give another --results or remove it")
        return
    task = progress.add_task(f"{run['contender']}, seed {run['seed']}", total=run["epochs"])
    asked, answer = result.with_suffix(".settings"), result.with_suffix(".part")
    write_json(run, asked)
    script = Path(__file__).with_name("contest.py")
    with result.with_suffix(".log").open("w") as log:
        command = [sys.executable, "-u", str(script), str(asked), str(answer)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                log.write(line)
                if line.startswith(f"{run['contender']} {run['seed']} epoch"):
                    progress.advance(task)
    if process.returncode:
        raise SystemExit(f"{run['contender']} failed, see {log.name}")
    write_json({"settings": described} | json.loads(answer.read_text()), result)
    for rest in (asked, answer, Path(log.name)):
        rest.unlink()


def family_dice(members: list[dict[str, Any]]) -> list[float]:
    """The Dice of those that count as the family; of a network trained alone its own."""
    return [member["dice"] for member in members if member["name"] != "middle" or len(members) == 1]


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per contender, a list over the seeds in each column."""
    rows = []
    for name in dict.fromkeys(result["contender"] for result in results):
        row: dict[str, Any] = {"contender": name, "seeds": []}
        for result in (result for result in results if result["contender"] == name):
            dice = {member["name"]: member["dice"] for member in result["members"]}
            of_family = family_dice(result["members"])
            values = {key: dice[key] for key in ("largest", "middle", "smallest") if key in dice}
            if len(of_family) > 1:
                values |= {"family": fmean(of_family), "worst": min(of_family)}
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


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Left the family's mean Dice over the seconds of training, right the members' at the end over what they cost."""
    figure, (over_time, over_size) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for name, colour in zip(CONTENDERS, COLOURS, strict=True):
        runs = [result for result in results if result["contender"] == name]
        for number, result in enumerate(runs):
            label = name if number == 0 else None
            final = {"seconds": result["training_seconds"], "members": result["members"]}
            points = [(point["seconds"], fmean(family_dice(point["members"]))) for point in [*result["curve"], final]]
            style = {"linestyle": ":", "marker": "."} if name.startswith("alone") else {"marker": "o", "markersize": 3}
            over_time.plot(*zip(*points, strict=True), color=colour, label=label, alpha=0.8, **style)
            if name.startswith("alone"):
                over_time.annotate(name, points[-1], fontsize=8, color=colour, textcoords="offset points", xytext=(4, 0))
            sized = sorted((member["macs"] / 1e9, member["dice"]) for member in result["members"])
            if sized:
                marker = "x" if name.startswith("alone") else "o"
                over_size.scatter(*zip(*sized, strict=True), color=colour, s=14, marker=marker, label=label, alpha=0.7)
    over_time.set(xlabel="seconds of training", ylabel="family's mean Dice", xscale="log", ylim=(0, 0.95))
    over_size.set(xlabel="GMAC per patch", ylabel="Dice of members at the end", xscale="log")
    over_time.legend(fontsize=8, frameon=False)
    for axes in (over_time, over_size):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = arguments()
    cut = {key: getattr(options, key) for key in ("features", "batch_size", "held_out", "patch_size")}
    folder, plan = prepare(options.task, options.work, **cut)
    paths = streams(folder, plan, options)
    options.results.mkdir(parents=True, exist_ok=True)
    keys = ("space", "steps", "epochs", "learning_rate", "curve", "curve_cases", "bfloat16")
    common = {"folder": str(folder), "plan": plan} | {key: getattr(options, key) for key in keys}
    runs = {
        options.results / f"{contender.replace(' ', '_')}_{seed}.json": common
        | {"contender": contender, "seed": seed, "stream": str(paths[seed])}
        for seed in options.seeds
        for contender in options.contenders
    }
    with Progress() as progress, ThreadPoolExecutor(options.jobs) as pool:
        for waiting in [pool.submit(compete, run, result, progress) for result, run in runs.items()]:
            waiting.result()
    results = [json.loads(result.read_text()) for result in runs]
    rows = summarise(results)
    settings = {key: value.name if isinstance(value, Path) else value for key, value in vars(options).items()}
    write_json(about(settings, threads=1) | {"rows": rows}, options.results / "summary.json")
    table, markdown = tables(rows)
    (options.results / "table.md").write_text(markdown)
    plot(results, options.results / "plot.png")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
