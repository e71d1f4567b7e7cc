"""Prediction end to end, from image files to label files: nnU-Net's command against members through ``monai-prox predict``.

Needs a model folder that a ProXTrainer left, and the raw dataset, of which cases that the training held out are taken. Each
contender is one command that predicts them all, so seconds a case hold their part of its start. Peak memory is that of its
largest process. Files in integers are calibrated on images of some of the same cases.

    python -m benchmarks.prediction MODEL --dataset nnUNet_raw/DATASET --work FOLDER --results benchmarks/results/prediction
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.about import about
from monai_prox.errors import ProXError
from monai_prox.export.device_file import ENDINGS, export_file
from monai_prox.export.nnunet import export_nnunet
from monai_prox.runtime.dice import dice_of
from monai_prox.surface_dice import surface_dice_of
from monai_prox.trained.nnunet_plans import surface_tolerance_of
from monai_prox.trained.nnunet_source import TrainedNNUNet

MEMBERS = ("largest", "middle", "smallest")
FORMATS, PRECISIONS = ("onnx", "openvino"), ("", "half", "int8")  # "" is float32


PARTS = {".xml": (".xml", ".bin"), ".onnx": (".onnx",), ".pth": (".pth",)}

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
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    work, threads = arguments.work.resolve(), arguments.threads
    source = TrainedNNUNet.open(arguments.model, dataset=arguments.dataset.resolve())
    model = source.model
    images, programs = work / "images", Path(sys.executable).parent
    shutil.rmtree(images, ignore_errors=True)  # of another number of cases
    images.mkdir(parents=True)
    tolerance = surface_tolerance_of(model.plans, model.configuration_name, None)
    truths = {}
    for labelled in source.held_out().labelled[: arguments.cases]:
        for file in labelled.case.files:
            (images / file.name).symlink_to(file.resolve())
        truths[labelled.labels.name] = labelled.labels
    stock = export_nnunet(source, "largest", work / "largest", overwrite=True)
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
        for precision, format in product(PRECISIONS, FORMATS):
            name = f"{member}, {format} {precision}".strip()
            file = work / f"{'_'.join(filter(None, (member, precision)))}{ENDINGS[format]}"
            asked = {"int8": precision == "int8", "half": precision == "half"}
            try:
                export_file(source, member, file, format, overwrite=True, **asked)
            except ProXError as error:  # integers that cost too much
                print(f"{name}: {error}", flush=True)
                continue
            command = [programs / "monai-prox", "predict", file, "--threads", threads, "-i", images]
            contenders[f"monai-prox predict, {name}"] = command, file
    settings = {"dataset": arguments.dataset.name, "cases": len(truths), "trainer": model.path.name, "fold": model.folds[0]}
    settings["surface_tolerance_mm"] = tolerance
    described = about(settings, threads=threads, packages=["onnxruntime", "openvino"])
    rows = []
    for number, (name, (command, file)) in enumerate(contenders.items()):
        output = work / "predicted" / str(number)
        measured = call([*command, "-o", output], work, threads)
        seconds = measured["seconds"] / len(truths)
        pairs = [[np.asarray(nib.load(file).dataobj) for file in (output / name, path)] for name, path in truths.items()]
        spacings = [nib.load(path).header.get_zooms()[:3] for path in truths.values()]
        surfaces = [
            surface_dice_of(*pair, model.dataset["labels"], spacing=spacing, tolerance=tolerance)
            for pair, spacing in zip(pairs, spacings, strict=True)
        ]
        rows.append(
            {
                "contender": name,
                **described,
                "seconds_a_case": seconds,
                "peak_memory_bytes": measured["peak_memory_bytes"],
                "file_bytes": sum(
                    part.stat().st_size for part in file.parent.glob(f"{file.stem}.*") if part.suffix in PARTS[file.suffix]
                ),
                "dice": float(np.nanmean([dice_of(*pair, model.dataset["labels"]) for pair in pairs])),
                "surface_dice": float(np.nanmean(surfaces)),
            }
        )
        print(name, f"{seconds:.2f} s", flush=True)
    records.write(rows, arguments.results)
    table = Table("contender", "s a case", "peak GB", "file MB", "Dice", "surface Dice")
    for row in rows:
        cells = f"{row['seconds_a_case']:.2f}", f"{row['peak_memory_bytes'] / 1e9:.2f}", f"{row['file_bytes'] / 1e6:.2f}"
        table.add_row(row["contender"], *cells, f"{row['dice']:.3f}", f"{row['surface_dice']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
