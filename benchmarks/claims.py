"""The claims, measured: ProX against Progressive Shrinking, the sandwich rule, plain training and a peer.

    python -m benchmarks.claims --task Task04_Hippocampus --work WORK --results OUT
    python -m benchmarks.claims --task Task04_Hippocampus --work WORK --results OUT --smoke

All contenders train on the same batches of the same plan, for the same steps, with the same optimizer: AdamW, or nnU-Net's
own with ``--sgd``. Seconds are those of the training steps alone, without loading and validation, each run in a process of
its own on one thread (or on the GPU); CPU seconds are the same without what other processes took from it, and mean nothing
on a GPU. Peak memory is what training takes on the GPU, and on a CPU what the whole process does, held-out cases included.
Dice is the hard Dice of held-out cases, as whole volumes at native resolution without mirroring, mean over the foreground
classes and the cases. A family is its smallest and largest member and twelve random ones, the same in all runs; its
``middle`` is measured, too, but not part of the mean. ``prox long`` is the recipe prox with two and a half times the steps,
about as much work as the largest network alone: its batches begin as those of the others and go on. ``prox, 2 members a
batch``, 3 or 4, which runs only if it is named, is the recipe prox with as many updates with each of the same batches: where a
loader is the limit, it takes the same time. A run is recorded when it ends, and an interrupted benchmark goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import ALONE, LENGTHENED, LONG, SEVERAL, make_contender
from benchmarks.race import race
from benchmarks.stream import missing, write_stream
from benchmarks.task import prepare
from monai_prox.families.unet_choices import CHOICES
from monai_prox.training.recipes import RECIPES

CONTENDERS = [*(name for name in RECIPES if name != "adopt"), LONG, *(f"alone {name}" for name in ALONE), "modelopt"]
SMOKE = {"steps": 14, "epochs": 14, "seeds": [0], "features": [4, 8, 8, 8], "held_out": 2, "curve": 2, "curve_cases": 1}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True, help="Decathlon task folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for nnU-Net's files and the batches")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=[*CONTENDERS, *SEVERAL], metavar="NAME")
    parser.add_argument("--space", default="default", help=f"of {', '.join(CHOICES)}, or the JSON of another")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument(
        "--epochs", type=int, default=100, help="into which the steps are divided, for stages and learning rate"
    )
    optimizer = parser.add_mutually_exclusive_group()
    optimizer.add_argument("--learning-rate", type=float, default=4e-3, help="of AdamW")
    optimizer.add_argument(
        "--sgd",
        dest="learning_rate",
        action="store_const",
        const=None,
        default=argparse.SUPPRESS,
        help="nnU-Net's own optimizer at its own rate, as ProXTrainer has it",
    )
    parser.add_argument("--features", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--configuration", default="3d_fullres", help="nnU-Net's, one that inherits from no other")
    parser.add_argument("--patch-size", nargs="+", type=int, help="the plan's own by default")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=60, help="cases, the last by name")
    parser.add_argument("--left-out", type=int, default=0, help="cases after these, which are not touched: for tuning")
    parser.add_argument(
        "--curve", type=int, default=8, help="evaluations of a training, that at its end included; 0: seconds alone"
    )
    parser.add_argument("--curve-cases", type=int, default=20, help="of those held out, for the evaluations before the end")
    parser.add_argument("--bfloat16", action="store_true", help="autocast of the training steps")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--smoke", action="store_true", help="minutes instead of hours; its figures mean nothing")
    parsed = parser.parse_args()
    if parsed.smoke:
        vars(parsed).update(SMOKE)
    if "modelopt" in parsed.contenders and find_spec("modelopt") is None:
        print('modelopt is left out: pip install -e ".[benchmarks]"', file=sys.stderr)
        parsed.contenders = [name for name in parsed.contenders if name != "modelopt"]
    return parsed


def streams(folder: Path, plan: str, options: argparse.Namespace) -> dict[int, Path]:
    """Writes the batches of every seed, as many as the longest training takes, with ``jobs`` processes."""
    of_epoch = options.steps // options.epochs
    epochs = round(LENGTHENED * options.epochs) if LONG in options.contenders else options.epochs
    setting = {key: getattr(options, key) for key in ("space", "steps", "epochs", "learning_rate")}
    paths = {seed: options.work / "batches" / f"{plan}_{of_epoch}_{seed}" for seed in options.seeds}
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        writing = []
        for seed, path in paths.items():
            left = missing(path, epochs)
            parts = [part for part in (left[first :: options.jobs] for first in range(options.jobs)) if part]
            writing += [pool.submit(write_part, folder, plan, setting, path, seed, part, of_epoch) for part in parts]
        for done in writing:
            done.result()
    return paths


def write_part(
    folder: Path, plan: str, setting: dict[str, Any], path: Path, seed: int, epochs: list[int], of_epoch: int
) -> None:
    """Writes some epochs of a stream, in a process of its own."""
    torch.set_num_threads(1)
    loading = make_contender("alone smallest", folder, plan, seed=0, **setting).trainer
    write_stream(loading, path, seed=seed, epochs=epochs, of_epoch=of_epoch)


def main() -> None:
    options = arguments()
    cut_by = ("features", "batch_size", "held_out", "left_out", "patch_size", "configuration")
    cut = {key: getattr(options, key) for key in cut_by}
    folder, plan = prepare(options.task, options.work, **cut)
    paths = streams(folder, plan, options)
    of_seed = {seed: {"folder": str(folder), "plan": plan, "stream": str(path)} for seed, path in paths.items()}
    keys = ("space", "steps", "epochs", "learning_rate", "curve", "curve_cases", "bfloat16")
    race("benchmarks.contest", options, keys=keys, of_seed=of_seed)


if __name__ == "__main__":
    main()
