"""Prediction end to end, from image files to label files: nnU-Net's command against members through ``monai-prox predict``.

Needs a model folder that a ProXTrainer left; the last cases by name should have been held out. Each contender is one
command that predicts them all, so seconds a case hold their part of its start. Peak memory is that of its largest process.

    python benchmarks/prediction.py MODEL --task TASK --work FOLDER --results benchmarks/results/prediction
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from about import about
from rich.console import Console
from rich.table import Table

from monai_prox.decathlon import DecathlonTask
from monai_prox.export.int8 import dice_of
from monai_prox.export.nnunet import export_nnunet
from monai_prox.export.onnx_file import export_onnx
from monai_prox.files import write_json
from monai_prox.nnunet.model_folder import ModelFolder

MEMBERS = ("largest", "middle", "smallest")


# In a small process of its own: a child's peak memory counts from that of its parent
MEASURED = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps({"status": status, "seconds": time.perf_counter() - start, "peak_memory_bytes": usage.ru_maxrss * 1024}))
"""


def call(command: list[Any], work: Path, threads: int) -> dict[str, float]:
    """Seconds and peak memory of a command."""
    variables = {name: str(work) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **variables}
    measuring = [sys.executable, "-c", MEASURED, *map(str, command)]
    done = subprocess.run(measuring, check=True, cwd=work, env=environment, stdout=subprocess.PIPE)
    measured: dict[str, float] = json.loads(done.stdout)
    if measured["status"]:
        raise SystemExit(f"{command[0]} failed")
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    work, model, threads = arguments.work.resolve(), ModelFolder.open(arguments.model), arguments.threads
    images, programs = work / "images", Path(sys.executable).parent
    shutil.rmtree(images, ignore_errors=True)  # of another number of cases
    images.mkdir(parents=True)
    task, truths = DecathlonTask.read(arguments.task.resolve()), {}
    for case in task.split(arguments.cases)[1]:
        link = images / case.image.name.replace(".nii.gz", "_0000.nii.gz")
        link.symlink_to(case.image)
        truths[case.image.name] = case.label
    stock = export_nnunet(model, "largest", work / "largest", overwrite=True)
    fold = model.folds[0].removeprefix("fold_")
    theirs = [programs / "nnUNetv2_predict_from_modelfolder", "-m", stock, "-f", fold, "-device", "cpu", "-i", images]
    contenders: dict[str, tuple[list[Any], Path]] = {
        "nnUNetv2_predict, largest": (theirs, stock / model.folds[0] / "checkpoint_final.pth"),
        "nnUNetv2_predict --disable_tta, largest": (
            [*theirs, "--disable_tta"],
            stock / model.folds[0] / "checkpoint_final.pth",
        ),
    }
    for member in MEMBERS:
        file = export_onnx(model, member, work / f"{member}.onnx", overwrite=True)
        command = [programs / "monai-prox", "predict", file, "--threads", threads, "-i", images]
        contenders[f"monai-prox predict, {member}"] = command, file
    rows = []
    for number, (name, (command, file)) in enumerate(contenders.items()):
        output = work / "predicted" / str(number)
        measured = call([*command, "-o", output], work, threads)
        seconds = measured["seconds"] / len(truths)
        pairs = [[np.asarray(nib.load(file).dataobj) for file in (output / name, path)] for name, path in truths.items()]
        rows.append(
            {
                "contender": name,
                "seconds_a_case": seconds,
                "peak_memory_bytes": measured["peak_memory_bytes"],
                "file_bytes": file.stat().st_size,
                "dice": float(np.mean([dice_of(*pair, model.dataset["labels"]) for pair in pairs])),
            }
        )
        print(name, f"{seconds:.2f} s", flush=True)
    settings = {"task": task.name, "cases": len(truths), "trainer": model.path.name, "fold": model.folds[0]}
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(about(settings, threads=threads) | {"rows": rows}, arguments.results / "summary.json")
    table = Table("contender", "s a case", "peak GB", "file MB", "Dice")
    for row in rows:
        cells = f"{row['seconds_a_case']:.2f}", f"{row['peak_memory_bytes'] / 1e9:.2f}", f"{row['file_bytes'] / 1e6:.2f}"
        table.add_row(row["contender"], *cells, f"{row['dice']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
