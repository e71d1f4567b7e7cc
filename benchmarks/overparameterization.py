"""The monitor, measured: what it closes, what that saves, and what it costs in Dice.

    python -m benchmarks.overparameterization --task Task04_Hippocampus --work WORK --results OUT
    python -m benchmarks.overparameterization --task threads --work WORK --results OUT
    python -m benchmarks.overparameterization --task balls --work WORK --results OUT

Trains a family with the monitor and without, several seeds, with nnU-Net's own loop, validation included. Two tasks
are made: ``threads`` needs the larger networks, lines one voxel thin, which half the resolution blurs away; ``balls`` does
not. Three groups of cases: for training, for validation, which steers the monitor, and the last ones by name for the Dice
that is reported, as whole volumes without mirroring. ``--alone`` trains the largest member and those that the monitor
compares it with by nnU-Net's own trainer, too, each for as many steps: what a choice is really worth. A run is recorded when
it ends, and an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.about import about
from benchmarks.contenders import build, stock_trainer
from benchmarks.contest import HeldOut
from benchmarks.task import prepare
from monai_prox.core import cost
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import write_json
from monai_prox.nnunet.variants import ProXTrainerAdam

SPACE = {"kernel": [3, 5], "resolution": [0.5, 1.0], "width": [0.5, 1.0], "depth": "full", "levels": 1}


def threads(generator: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Straight lines, one voxel thin."""
    label = np.zeros(size, np.uint8)
    for _ in range(12):
        ends = generator.uniform(0, 1, (2, 3)) * (np.array(size) - 1)
        along = np.linspace(0, 1, 4 * max(size))[:, None]
        label[tuple(np.round(ends[0] + along * (ends[1] - ends[0])).astype(int).T)] = 1
    return label


def balls(generator: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Two balls."""
    label = np.zeros(size, np.uint8)
    for radius in generator.uniform(7, 10, 2):
        centre = generator.uniform(radius, np.array(size) - radius)
        distances = [np.square(np.arange(n) - c) for n, c in zip(size, centre, strict=True)]
        label[distances[0][:, None, None] + distances[1][:, None] + distances[2] < radius**2] = 1
    return label


MADE = {"threads": (991, threads), "balls": (992, balls)}


def write_made(kind: str, folder: Path, *, cases: int, size: tuple[int, int, int] = (40, 56, 40)) -> Path:
    """A Decathlon task of a made kind, in noise."""
    number, draw = MADE[kind]
    task = folder / f"Task{number}_{kind.capitalize()}"
    if (task / "dataset.json").is_file():
        return task
    names = [f"{kind}_{index:03d}" for index in range(cases)]
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        generator = np.random.default_rng(index)
        label = draw(generator, size)
        image = (generator.normal(0, 1, size) + 2.5 * label).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), task / "imagesTr" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), task / "labelsTr" / f"{name}.nii.gz")
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    described = {"name": kind, "modality": {"0": "MRI"}, "labels": {"0": "background", "1": kind}}
    write_json(described | {"numTraining": cases, "numTest": 0, "training": pairs, "test": []}, task / "dataset.json")
    return task


class Timed(nnUNetTrainer):  # type: ignore[misc]
    """Measures the seconds of its training steps, and those of the processor, which mean nothing on a GPU."""

    seconds = cpu_seconds = 0.0
    bfloat16 = False

    def initialize(self) -> None:
        super().initialize()
        self.disable_checkpointing = True
        self.logger.plot_progress_png = lambda _: None  # it takes longer than an epoch of a small task

    def train_step(self, batch: dict) -> dict:  # type: ignore[type-arg]
        start, start_cpu = time.perf_counter(), time.process_time()
        with torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext():
            result: dict = super().train_step(batch)  # type: ignore[type-arg]
        self.seconds += time.perf_counter() - start
        self.cpu_seconds += time.process_time() - start_cpu
        return result


def no_validation(trainer: nnUNetTrainer, save_probabilities: bool = False) -> None:
    """In the place of a trainer's own at the end: what counts here is the Dice of other cases."""


class Family(Timed, ProXTrainerAdam):
    perform_actual_validation = no_validation

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.num_val_iterations_per_epoch = 20 if self.member_validation.compared else 1  # the others steer nothing


def run(folder: Path, plan: str, test: list[str], options: argparse.Namespace, seed: int, monitored: bool) -> dict[str, Any]:
    class Trainer(Family):
        pass

    Trainer.seed, Trainer.epochs, Trainer.monitored, Trainer.bfloat16 = seed, options.epochs, monitored, options.bfloat16
    Trainer.iterations_per_epoch, Trainer.validation_interval = options.steps // options.epochs, options.probe_every
    Trainer.monitor_threshold = options.threshold
    trainer = build(Trainer, folder, plan)
    trainer.run_training()
    held_out = HeldOut(trainer, test)
    trainer.set_deep_supervision_enabled(False)
    supernet, space = trainer.supernet, trainer.engine.final_space
    largest, smallest = space.largest(), space.smallest()
    return {
        "monitored": monitored,
        "training_seconds": trainer.seconds,
        "training_cpu_seconds": trainer.cpu_seconds,
        "closed": trainer.engine.closed,
        "space": str(space),
        "members": space.size(),
        "largest": {
            "macs": cost.macs(supernet.family, largest, trainer.configuration_manager.patch_size),
            "parameters": cost.parameters(supernet.family, largest),
            "dice": float(np.mean(held_out.dice(supernet.member(largest)))),
        },
        "smallest": {"dice": float(np.mean(held_out.dice(supernet.member(smallest))))},
        "comparisons": [comparison.to_json() for comparison in trainer.engine.comparisons],
    }


def alone_trainers(folder: Path, plan: str) -> dict[str, Any]:
    """nnU-Net's own trainers of the largest member and of those that the monitor compares with it at first."""
    trainer = build(Family, folder, plan)
    trainer.initialize()
    family: Any = trainer.supernet.family
    members = {f"without {dimension}": part.largest() for dimension, part in family.space.reductions().items()}
    members["largest"] = family.space.largest()
    return {name: stock_trainer(family, subnet, ProXTrainerAdam.configure_optimizers) for name, subnet in members.items()}


def run_alone(folder: Path, plan: str, test: list[str], options: argparse.Namespace, seed: int, stock: Any) -> dict[str, Any]:
    class Trainer(Timed, stock):  # type: ignore[misc]
        learning_rate, bfloat16 = ProXTrainerAdam.learning_rate, options.bfloat16
        perform_actual_validation = no_validation

    trainer = build(Trainer, folder, plan)
    trainer.num_epochs, trainer.num_iterations_per_epoch = options.epochs, options.steps // options.epochs
    trainer.num_val_iterations_per_epoch = 1
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    trainer.run_training()
    trainer.set_deep_supervision_enabled(False)
    by_case = HeldOut(trainer, test).dice(trainer.network)
    return {"dice": float(np.mean(by_case)), "by_case": by_case}


def make(name: str, seed: int, options: argparse.Namespace, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a run that is recorded, or else of ``run``, recorded. Exits where results are of other settings."""
    described = {key: value for key, value in vars(options).items() if key not in ("work", "results", "seeds", "alone")}
    described["task"] = Path(options.task).name
    known = records.by_seed(options.results)
    if any(result["settings"] != described for result in known.values()):
        raise SystemExit(f"{options.results} has results of other settings; give another --results or remove it")
    if (name, seed) not in known:
        records.add({"contender": name, "seed": seed} | about(described, threads=1) | run(), options.results)
    return records.by_seed(options.results)[name, seed]


def show(results: list[dict[str, Any]]) -> None:
    table = Table(
        "monitor", "seed", "training s", "CPU s", "closed (choices left)", "largest GMAC", "largest Dice", "smallest Dice"
    )
    for result in results:
        closed = ", ".join(f"{dimension} {left}" for dimension, left in result["closed"].items()) or "-"
        largest, smallest = result["largest"], result["smallest"]
        cells = [
            f"{result['training_seconds']:.0f}",
            f"{result['training_cpu_seconds']:.0f}",
            closed,
            f"{largest['macs'] / 1e9:.2f}",
        ]
        cells += [f"{largest['dice']:.3f}", f"{smallest['dice']:.3f}"]
        table.add_row("on" if result["monitored"] else "off", str(result["seed"]), *cells)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help="a Decathlon task folder, threads, or balls")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=120, help="of a task that is made")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=75)
    parser.add_argument("--probe-every", type=int, default=3, help="epochs")
    parser.add_argument("--space", type=json.loads, default=SPACE, help="as in a plan, in JSON")
    parser.add_argument("--threshold", type=float, default=Family.monitor_threshold, help="the monitor's, in Dice")
    parser.add_argument("--features", nargs="+", type=int, default=[8, 16, 32])
    parser.add_argument("--patch-size", nargs=3, type=int, default=[40, 48, 40])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="autocast, faster where the processor has it")
    parser.add_argument("--validation", type=int, default=20, help="cases that steer the monitor")
    parser.add_argument("--alone", action="store_true", help="train what is compared alone, too")
    parser.add_argument("--test", type=int, default=60, help="cases, the last by name")
    options = parser.parse_args()
    Family.choices = UNetChoices.from_json(options.space)
    torch.set_num_threads(1)
    task = write_made(options.task, options.work, cases=options.cases) if options.task in MADE else Path(options.task)
    held_out = options.validation + options.test
    cut = {key: getattr(options, key) for key in ("features", "patch_size", "batch_size")}
    folder, plan = prepare(task, options.work, held_out=held_out, **cut)
    split = json.loads((folder / "splits_final.json").read_text())[0]
    steering, test = split["val"][: options.validation], split["val"][options.validation :]
    write_json([{"train": split["train"], "val": steering}], folder / "splits_final.json")
    alone = alone_trainers(folder, plan) if options.alone else {}
    results = []
    for seed in options.seeds:
        for name, monitored in (("on", True), ("off", False)):
            trained = partial(run, folder, plan, test, options, seed, monitored)
            results.append(make(name, seed, options, trained))
        for name, stock in alone.items():
            trained = partial(run_alone, folder, plan, test, options, seed, stock)
            print(f"{name} alone, seed {seed}: Dice {make(f'alone {name}', seed, options, trained)['dice']:.3f}")
    show(results)


if __name__ == "__main__":
    main()
