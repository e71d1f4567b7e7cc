"""Trains, evaluates and predicts with a bundle at a size for CPUs, and records what its members reach.

The commands are MONAI's own, as the bundle's README gives them, with the overrides of SETTINGS. Training is only as long
as two cores allow, so the figures show that all of it works on real images, and not what the networks could reach. What
``hippocampus_prox`` leaves in FOLDER/hippocampus_prox/models is the family that the repository shares.

    python -m benchmarks.bundles hippocampus_prox --data FOLDER_OF_TASKS --work FOLDER --results benchmarks/results/bundles
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.about import about

THREADS = 1
ROOT = Path(__file__).parents[1]
CPU = {"num_workers": 0, "val_interval": 1000}
FEW = {"batch_size": 1, "samples_per_image": 4, "learning_rate": 0.01, "plan#features": 8}  # for tasks of a few images
# by name of the result: the bundle, the task's folder, overrides of training, and of all commands
SETTINGS: dict[str, dict[str, Any]] = {
    "hippocampus_prox": {
        "bundle": "hippocampus_prox",
        "task": "Task04_Hippocampus",
        # Its weights are shared, so no choice may depend on the held-out cases: the monitor is off
        "train": {
            "epochs": 120,
            "iterations": 35,
            "batch_size": 4,
            "learning_rate": 0.01,
            "plan#features": 16,
            "monitor": False,
            "val_interval": 10,
        },
        "cases": {"validation_cases": 60},
    },
    "brats_prox": {
        "bundle": "brats_prox",
        "task": "Task101_BraTS2015_2ch",
        "train": {"epochs": 60, "iterations": 4, **FEW, "plan#patch_voxels": 64**3},
        "cases": {"validation_cases": 2},
    },
    "brats_prox_4ch": {
        "bundle": "brats_prox",
        "task": "Task102_TCGA4ch_silver",
        "train": {"epochs": 10, "iterations": 1, **FEW, "plan#patch_voxels": 48**3},
        "cases": {"validation_cases": 1},
    },
    "msd_prox_spleen": {
        "bundle": "msd_prox",
        "task": "Task09_Spleen",
        "train": {"epochs": 150, "iterations": 1, **FEW, "plan#patch_voxels": 48**3},
        "cases": {"validation_cases": 1},
    },
    "msd_prox_spinal_cord": {
        "bundle": "msd_prox",
        "task": "Task111_SpinalCordGM",
        "train": {"epochs": 300, "iterations": 1, **FEW},
        "cases": {},
    },
}


def run(configs: list[str], bundle: str, overrides: dict[str, Any], log: Path) -> float:
    """Seconds that ``python -m monai.bundle run`` takes."""
    files = [f"bundles/{bundle}/configs/{name}.json" for name in configs]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files)]
    command += [argument for key, value in overrides.items() for argument in (f"--{key}", str(value))]
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    with log.open("a") as file:
        subprocess.run(command, cwd=ROOT, check=True, stdout=file, stderr=subprocess.STDOUT, env=environment)
    return round(time.perf_counter() - start, 1)


def evaluated(folder: Path) -> dict[str, float]:
    """The metrics that MetricsSaver wrote."""
    with (folder / "metrics.csv").open() as file:
        return {name: float(value) for name, value in csv.reader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=list(SETTINGS))
    parser.add_argument("--data", type=Path, required=True, help="folder that has the task's folder")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    setting = SETTINGS[arguments.setting]
    bundle, work = setting["bundle"], (arguments.work / arguments.setting).resolve()
    work.mkdir(parents=True, exist_ok=True)
    where = {
        "dataset_dir": (arguments.data / setting["task"]).resolve(),
        "ckpt_dir": work / "models",
        "output_dir": work / "eval",
    }
    log = work / "log.txt"
    seconds = {"train": run(["train"], bundle, CPU | where | setting["train"] | setting["cases"], log)}
    family = json.loads((work / "models" / "family.json").read_text())
    for member in ("smallest", "largest"):
        options = where | setting["cases"] | {"num_workers": 0, "subnet": member}
        seconds[f"evaluate {member}"] = run(["train", "evaluate"], bundle, options, log)
        predicted = {"output_dir": work / "predicted" / member, "subnet": member}
        seconds[f"infer {member}"] = run(["inference"], bundle, where | predicted, log)
    images = len(list((work / "predicted" / "largest").glob("*.nii.gz")))
    described = about({**CPU, **setting, "seed": 0}, threads=THREADS)
    result = {"contender": arguments.setting, "seed": 0, **described} | {
        "plan": {key: family["plan"][key] for key in ("channels", "labels", "spacing", "patch_size", "intensity")},
        "seconds": seconds,
        "predicted_images": images,
        "members": {member.pop("name"): member for member in family["members"]},
        "evaluated": {member: evaluated(work / "eval" / member) for member in ("smallest", "largest")},
        "probes": family["progress"],
    }
    others = [run for run in records.read(arguments.results) if run["contender"] != arguments.setting]
    records.write([*others, result], arguments.results)


if __name__ == "__main__":
    main()
