"""The family's Dice by recipe: same plan, data, steps and augmentation, several seeds.

    python benchmarks/recipes.py --task Task04_Hippocampus --work WORK --results benchmarks/results/recipes

One JSON per recipe and seed, so that an interrupted run goes on where it stopped; ``summary.json`` and a table at the end.
Dice is the hard Dice on the held-out cases as whole volumes without mirroring, at the plan's spacing, mean over the foreground
classes and cases. The family is its smallest and largest and 12 random members, the same for all recipes and seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about import about
from batchgenerators.utilities.file_and_folder_operations import load_json
from contenders import family_members
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from rich.console import Console
from rich.progress import track
from rich.table import Table
from task import prepare

from monai_prox import cost
from monai_prox.families.unet import CHOICES, UNetChoices
from monai_prox.files import write_json
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.nnunet.variants import ProXTrainerAdam
from monai_prox.schedule import RECIPES
from monai_prox.space import Subnet


def make_trainer(folder: Path, plan: str, choices: UNetChoices, recipe: str, seed: int, steps: int, epochs: int) -> ProXTrainer:
    class BenchmarkTrainer(ProXTrainerAdam):
        pass

    BenchmarkTrainer.choices, BenchmarkTrainer.recipe = choices, recipe
    BenchmarkTrainer.seed, BenchmarkTrainer.epochs = seed, epochs
    BenchmarkTrainer.iterations_per_epoch, BenchmarkTrainer.validation_iterations_per_epoch = steps // epochs, 1
    BenchmarkTrainer.probe_every = epochs
    plans = load_json(str(folder / f"{plan}.json")) | {"continue_training": False}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = BenchmarkTrainer(plans, "3d_fullres", 0, load_json(str(folder / "dataset.json")), device)
    trainer.disable_checkpointing = True
    return trainer


@torch.no_grad()
def dice(trainer: ProXTrainer, subnet: Subnet, cases: list[str]) -> float:
    predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.supernet.member(subnet).eval(),
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    predictor.network.network.decoder.deep_supervision = False
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    scores = []
    for case in cases:
        data, segmentation, _, _ = dataset.load_case(case)
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(data[:].copy()))
        predicted, truth = logits.argmax(0).cpu().numpy(), segmentation[:][0]
        for label in trainer.label_manager.foreground_labels:
            p, t = predicted == label, truth == label
            if p.any() or t.any():
                scores.append(2 * np.sum(p & t) / (np.sum(p) + np.sum(t)))
    return float(np.mean(scores))


def run(folder: Path, plan: str, choices: UNetChoices, recipe: str, seed: int, steps: int, epochs: int) -> dict[str, Any]:
    trainer = make_trainer(folder, plan, choices, recipe, seed, steps, epochs)
    trainer.on_train_start()
    losses, seconds = [], 0.0
    for _ in range(epochs):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        start = time.perf_counter()
        outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(trainer.num_iterations_per_epoch)]
        seconds += time.perf_counter() - start
        losses.append(float(np.mean([o["loss"] for o in outputs])))
        trainer.current_epoch += 1
    space, patch = trainer.supernet.family.space, trainer.configuration_manager.patch_size
    held_out = trainer.do_split()[1]
    start = time.perf_counter()
    members = [
        {
            "name": name,
            "subnet": subnet.to_json(),
            "parameters": cost.parameters(trainer.supernet, subnet),
            "macs": cost.macs(trainer.supernet, subnet, patch),
            "dice": dice(trainer, subnet, held_out),
        }
        for name, subnet in track(family_members(space).items(), f"{recipe} {seed}: evaluating")
    ]
    return {
        "recipe": recipe,
        "seed": seed,
        "stages": [stage.to_json() for stage in trainer.engine.schedule.stages],
        "training_seconds": seconds,
        "evaluation_seconds": time.perf_counter() - start,
        "losses": losses,
        "members": members,
    }


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for recipe in dict.fromkeys(r["recipe"] for r in runs):
        of_recipe = [r for r in runs if r["recipe"] == recipe]
        by_seed = [{m["name"]: m["dice"] for m in r["members"]} for r in of_recipe]
        columns = {
            "largest": [d["largest"] for d in by_seed],
            "smallest": [d["smallest"] for d in by_seed],
            "family": [statistics.mean(d.values()) for d in by_seed],
            "worst": [min(d.values()) for d in by_seed],
            "seconds": [r["training_seconds"] for r in of_recipe],
        }
        rows.append({"recipe": recipe, "seeds": [r["seed"] for r in of_recipe]} | columns)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("recipe", "seeds", "largest", "smallest", "family mean", "worst", "training s")
    for row in rows:
        cells = [
            f"{statistics.mean(row[key]):.3f} ± {statistics.pstdev(row[key]):.3f}"
            for key in ("largest", "smallest", "family", "worst")
        ]
        table.add_row(row["recipe"], str(len(row["seeds"])), *cells, f"{statistics.mean(row['seconds']):.0f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True, help="Decathlon task folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for nnU-Net's files")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=["prox", "prox_paper"], choices=list(RECIPES))
    parser.add_argument("--space", default="default", choices=list(CHOICES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=30, help="into which the steps are divided, for stages and learning rate")
    parser.add_argument("--features", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder, plan = prepare(
        arguments.task,
        arguments.work,
        features=arguments.features,
        batch_size=arguments.batch_size,
        held_out=arguments.held_out,
    )
    arguments.results.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in arguments.seeds:
        for recipe in arguments.recipes:
            path = arguments.results / f"{recipe}_{seed}.json"
            if not path.is_file():
                choices = CHOICES[arguments.space]
                write_json(run(folder, plan, choices, recipe, seed, arguments.steps, arguments.epochs), path)
            runs.append(json.loads(path.read_text()))
    rows = summarise(runs)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    for key in ("task", "work", "results"):
        settings[key] = Path(settings[key]).name
    write_json(about(settings, threads=arguments.threads) | {"rows": rows}, arguments.results / "summary.json")
    show(rows)


if __name__ == "__main__":
    main()
