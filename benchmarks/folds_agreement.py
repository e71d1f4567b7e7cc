"""How closely one file of several folds predicts what ``nnUNetv2_predict`` predicts with them.

Five folds of a narrow network are trained shortly by nnU-Net's own trainer, on splits that nnU-Net draws. Cases that none of
them has seen are predicted by ``nnUNetv2_predict_from_modelfolder -f 0 1 2 3 4 --disable_tta`` and by ``monai-prox predict``.

    python -m benchmarks.folds_agreement Task04_Hippocampus --work FOLDER --results benchmarks/results/folds
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from rich.console import Console

from benchmarks import records
from benchmarks.about import about
from benchmarks.agreement import agreement_of
from benchmarks.contenders import build
from benchmarks.prediction import call
from benchmarks.quantities import quantities, terminal
from benchmarks.task import prepare
from monai_prox.data.decathlon import DecathlonTask
from monai_prox.export.device_file import ENDINGS, export_file
from monai_prox.trained.nnunet_source import TrainedNNUNet

FEATURES = [8, 16, 32, 64]
FOLDS = ("0", "1", "2", "3", "4")
EPOCHS = 4
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--cases", type=int, default=60, help="that no fold has seen, the last by name")
    parser.add_argument("--steps", type=int, default=400, help="of the training of each fold")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    cut = {"features": FEATURES, "batch_size": 2, "held_out": 1, "left_out": arguments.cases}
    folder, plan = prepare(arguments.task.resolve(), work, **cut)
    for fold in FOLDS:
        trainer = build(nnUNetTrainer, folder, plan, fold=int(fold))
        model = Path(trainer.output_folder_base)
        if not (model / f"fold_{fold}" / "checkpoint_final.pth").is_file():
            trainer.num_epochs, trainer.num_iterations_per_epoch = EPOCHS, max(1, arguments.steps // EPOCHS)
            trainer.num_val_iterations_per_epoch = 1
            trainer.run_training()
    images = work / "images"
    images.mkdir(exist_ok=True)
    for case in DecathlonTask.read(arguments.task.resolve()).split(arguments.cases)[1]:
        link = images / case.image.name.replace(".nii.gz", "_0000.nii.gz")
        if not link.exists():
            link.symlink_to(case.image)
    programs = Path(sys.executable).parent
    theirs = [programs / "nnUNetv2_predict_from_modelfolder", "-m", model, "-f", *FOLDS, "-device", "cpu", "--disable_tta"]
    call([*theirs, "-i", images, "-o", work / "nnunet"], work, THREADS)
    source = TrainedNNUNet.open(model, fold=[f"fold_{fold}" for fold in FOLDS])
    settings = {"cases": arguments.cases, "steps": arguments.steps, "folds": len(FOLDS)}
    described = about(settings, threads=THREADS, packages=["onnxruntime", "openvino"])
    rows = []
    for format in ("onnx", "openvino"):
        file = work / f"folds{ENDINGS[format]}"
        export_file(source, "largest", file, format, overwrite=True)
        output = work / format
        call([programs / "monai-prox", "predict", file, "-i", images, "-o", output], work, THREADS)
        rows.append({"contender": format, **described} | agreement_of(work / "nnunet", output))
    records.write(rows, arguments.results)
    Console().print(terminal(quantities(rows), ["agreement", "worst_case"]))


if __name__ == "__main__":
    main()
