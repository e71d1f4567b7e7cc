"""The claims on classification: ProX against Progressive Shrinking and plain training, for MobileNetV3 on SYNTHETIC B-scans.

    python -m benchmarks.oct_claims --work WORK --results benchmarks/results/oct_claims
    python -m benchmarks.oct_claims --work WORK --results OUT --smoke

The scans are ``monai_prox.data.oct_phantom``'s: they tell networks and recipes apart, and say nothing about patients. All
contenders train on the same batches, for the same steps, with the same optimizer. Seconds are those of the training steps
alone, each run in a process of its own on one thread; CPU seconds are the same without what other processes took from it.
Accuracy is that on other synthetic patients. A family is its smallest and largest member and twelve random ones, the same in
all runs. Every member is measured with statistics of its own (``accuracy``, see ``monai_prox.training.calibrate``) and with
those that training left (``uncalibrated``). ``prox long`` is the recipe prox with two and a half times the steps. A run is
recorded when it ends, and an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.contenders import LONG
from benchmarks.race import race
from monai_prox.data.oct_phantom import write_phantom_scans
from monai_prox.training.recipes import RECIPES

CONTENDERS = [*RECIPES, LONG, "alone smallest", "alone middle", "alone largest"]
SPACE = {"depth": [1, 2], "resolution": [64, 80, 96]}
SMOKE: dict[str, Any] = {"steps": 14, "epochs": 14, "seeds": [0], "patients": [4, 2], "batch_size": 4, "curve": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the scans")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--space", default=json.dumps(SPACE), help="JSON of a MobileNetChoices")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument(
        "--epochs", type=int, default=100, help="into which the steps are divided, for stages and learning rate"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--patients", nargs=2, type=int, default=[400, 100], help="of each class, for training and held out")
    parser.add_argument("--severity", type=float, default=2.0, help="of the lesions")
    parser.add_argument("--curve", type=int, default=5, help="evaluations in a training, the one at its end included")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--smoke", action="store_true", help="a minute instead of hours; its figures mean nothing")
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    learnt, held_out = options.patients
    folder = options.work / f"{learnt}_{held_out}_{options.severity}"
    patients = {"train": learnt, "val": 1, "test": held_out}
    scans = write_phantom_scans(folder, patients=patients, size=(128, 128), severity=options.severity)
    of_seed = {seed: {"folder": str(scans)} for seed in options.seeds}
    keys = ("space", "steps", "epochs", "learning_rate", "batch_size", "patients", "severity", "curve")
    race("benchmarks.oct_contest", options, keys=keys, of_seed=of_seed)


if __name__ == "__main__":
    main()
