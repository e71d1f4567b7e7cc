"""How closely a member exported as a MONAI bundle predicts what stock nnU-Net predicts with the same member.

Needs a model folder that a ProXTrainer left. Both predict the last cases by name, without mirroring; counted are the voxels
that get the same label.

    python -m benchmarks.bundle_agreement MODEL --task TASK --work FOLDER --results benchmarks/results/agreement
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import records
from benchmarks.about import about
from benchmarks.agreement import agreement_of
from monai_prox.data.decathlon import DecathlonTask
from monai_prox.export.bundle import write_bundle
from monai_prox.export.from_nnunet import prediction_of
from monai_prox.export.nnunet import export_nnunet
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

MEMBERS = ("smallest", "middle", "largest")
THREADS = 1


def call(command: list[Any], folder: Path) -> None:
    variables = {name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), **variables}
    subprocess.run([*map(str, command)], check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def compare(name: str, model: ModelFolder, images: Path, work: Path) -> dict[str, Any]:
    source = TrainedNNUNet.of(model)
    stock = export_nnunet(source, name, work / "nnunet" / name, overwrite=True)
    bundle = write_bundle(prediction_of(source, name), work / "bundle" / name, overwrite=True)
    outputs = [work / "predicted" / kind / name for kind in ("nnunet", "bundle")]
    program = Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder"
    fold = model.folds[0].removeprefix("fold_")
    options = ["--disable_tta", "-device", "cpu", "-npp", 1, "-nps", 1]
    call([program, "-m", stock, "-f", fold, "-i", images, "-o", outputs[0], *options], work)
    config = ["--config_file", bundle / "configs" / "inference.json"]
    options = ["--bundle_root", bundle, "--dataset_dir", images, "--output_dir", outputs[1]]
    call([sys.executable, "-m", "monai.bundle", "run", *config, *options], work)
    return {"member": name} | agreement_of(*outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    work, model = arguments.work.resolve(), ModelFolder.open(arguments.model)
    images = work / "images"
    for former in (images, work / "predicted"):  # of another number of cases
        shutil.rmtree(former, ignore_errors=True)
    images.mkdir(parents=True)
    task = DecathlonTask.read(arguments.task.resolve())
    for case in task.split(arguments.cases)[1]:
        (images / case.image.name.replace(".nii.gz", "_0000.nii.gz")).symlink_to(case.image)
    compared = [compare(name, model, images, work) for name in track(MEMBERS, description="members")]
    settings = {"task": task.name, "cases": arguments.cases, "trainer": model.path.name, "fold": model.folds[0]}
    described = about(settings, threads=THREADS)
    records.write([{"contender": row["member"]} | described | row for row in compared], arguments.results)
    table = Table("member", "agreement", "worst case")
    for row in compared:
        table.add_row(row["member"], f"{row['agreement']:.5%}", f"{row['worst_case']:.5%}")
    Console().print(table)


if __name__ == "__main__":
    main()
