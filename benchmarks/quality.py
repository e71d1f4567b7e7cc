"""How well the agreement of two members tells the Dice of a case.

A family is trained shortly by ProXTrainer. Its largest member predicts cases that the training has not seen, with a smaller one
as second opinion. The cases are halved by name, so that those of a patient should have neighbouring names. What is expected of
each half is calibrated on the other one, and compared with the true Dice. What a constant would miss, the mean Dice of the
calibration, stands beside. A training that was interrupted goes on.

    python -m benchmarks.quality Task04_Hippocampus --work FOLDER --results benchmarks/results/quality
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import records
from benchmarks.about import about
from benchmarks.quantities import quantities, terminal
from benchmarks.short_training import EPOCHS, trained
from benchmarks.task import prepare
from monai_prox.export.device_file import export_file
from monai_prox.runtime.calibrate import labelled_cases, scores_and_dice
from monai_prox.runtime.calibration import Calibration, rank_correlation
from monai_prox.runtime.description import Description
from monai_prox.runtime.model import Model
from monai_prox.runtime.options import Options
from monai_prox.runtime.second_opinion import SecondOpinion
from monai_prox.trained.nnunet_source import TrainedNNUNet

FIRST = "largest"
COLUMNS = ("rank_correlation", "lower", "upper", "expected_error", "constant_error", "coverage", "width", "dice")


def measured(first: Path, second: Path, images: Path, labels: Path, last: int) -> tuple[list[float], list[float]]:
    """Scores and Dice of the last cases by name."""
    model, other = Model(first, threads=1), Model(second, threads=1)
    assert isinstance(model.description, Description)
    options = Options(second_opinions=(SecondOpinion.of(other),))
    cases = labelled_cases(images, labels, model.description)[-last:]
    pairs = []
    for name, found in scores_and_dice(model.description, model, cases, options):
        if isinstance(found, str):
            print(f"{name}: {found}")
        else:
            pairs.append(found)
    scores, dice = zip(*pairs, strict=True)
    return list(scores), list(dice)


def compared(scores: Sequence[float], dice: Sequence[float]) -> dict[str, Any]:
    """What is expected of each half by the other one, against the truth."""
    half = len(scores) // 2
    halves = slice(0, half), slice(half, None)
    expected, constant = [], []
    for these, others in (halves, halves[::-1]):
        calibration = Calibration(tuple(scores[others]), tuple(dice[others]), step=0.5, mirror=False, postprocess=True)
        expected += [calibration.expected(score) for score in scores[these]]
        constant += [float(np.mean(dice[others]))] * len(scores[these])
    truth, ends = np.array(dice), np.array(expected)
    correlation, lower, upper = rank_correlation(scores, dice)
    return {
        "cases": len(scores),
        "rank_correlation": correlation,
        "lower": lower,
        "upper": upper,
        "expected_error": float(np.abs(ends[:, 0] - truth).mean()),
        "constant_error": float(np.abs(np.array(constant) - truth).mean()),
        "coverage": float(((ends[:, 1] <= truth) & (truth <= ends[:, 2])).mean()),
        "width": float((ends[:, 2] - ends[:, 1]).mean()),
        "dice": float(truth.mean()),
        "spread": float(truth.std()),
        "scores": list(scores),
        "true_dice": list(dice),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--patch-size", type=int, nargs=3, help="the plan's own by default")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--cases", type=int, default=80, help="that the training does not see, the last by name")
    parser.add_argument("--second-opinions", nargs="+", default=["smallest"], help="members, each by itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task, work = arguments.task.resolve(), arguments.work.resolve() / arguments.task.name
    cut = {"features": arguments.features, "batch_size": arguments.batch_size, "patch_size": arguments.patch_size}
    folder, plan = prepare(task, work, **cut, held_out=1, left_out=arguments.cases)
    model = trained(folder, plan, steps=arguments.steps, seed=arguments.seed)
    source, raw = TrainedNNUNet.open(model), work / "nnUNet_raw" / folder.name
    for name in (FIRST, *arguments.second_opinions):
        export_file(source, name, work / f"{name}.onnx", "onnx", overwrite=True)
    settings = {name: getattr(arguments, name) for name in ("features", "patch_size", "batch_size", "steps", "cases")}
    for name in arguments.second_opinions:
        files = work / f"{FIRST}.onnx", work / f"{name}.onnx"
        found = compared(*measured(*files, raw / "imagesTr", raw / "labelsTr", arguments.cases))
        described = about({"task": task.name, "epochs": EPOCHS, **settings}, threads=1, packages=["onnxruntime", "scipy"])
        run = {"contender": f"{task.name}, {FIRST} and {name}", "seed": arguments.seed, **described, **found}
        records.add(run, arguments.results)
    Console(width=160).print(terminal(quantities(records.read(arguments.results)), COLUMNS))


if __name__ == "__main__":
    main()
