"""Seconds and memory of a CT by every way to run one and the same nnU-Net on a processor, and by members of its family.

The CT of the folder, mirrored until it has 512 x 512 voxels and as many slices as asked for, of 0.8 x 0.8 x 1 mm. Networks have
nnU-Net's six levels for patches of 128 x 128 x 128 voxels of 1.5 mm, and 14 classes, which are ranges of the smoothed CT, so
that borders are many. A family of each is trained on some hundred small patches of it. What they segment is not judged.

Each command predicts one CT and then two copies of it. ``seconds`` are those of the first, with its start, and
``seconds_warm`` what the second takes more: programs that compute a case while they write another one gain from that. With
mirroring, which takes eight times as long, there is one CT only. ``network_seconds`` are those of the bare network in the same
runtime, on as many patches as the CT has, and ``beside_seconds`` what is left of the warm ones. Peak memory is that of the
command's largest process.

    python -m benchmarks.ct_prediction Task211_CHAOSCT1 --work FOLDER --results benchmarks/results/ct

Contenders whose results are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from rich.console import Console
from scipy import ndimage

from benchmarks import records
from benchmarks.about import about
from benchmarks.contenders import build
from benchmarks.large_cases import CLASSES, SIDE, write_ct
from benchmarks.nnunet_openvino import Compiled, predictor, write_network
from benchmarks.prediction import call
from benchmarks.quantities import quantities, terminal
from benchmarks.task import prepare
from monai_prox.export.device_file import ENDINGS, export_file
from monai_prox.export.nnunet import export_nnunet
from monai_prox.files import write_json
from monai_prox.nnunet.variants import ProXTrainerAdam
from monai_prox.runtime.model import Model
from monai_prox.runtime.sliding_window import STEP, number_of_starts
from monai_prox.trained.nnunet_source import TrainedNNUNet

NETWORKS = {"small": [8, 16, 32, 64, 64, 64], "stock": [32, 64, 128, 256, 320, 320]}
MEMBERS = ("largest", "middle", "smallest")
FORMATS = ("onnx", "openvino")
SPACING, PATCH, TRAINED_ON = 1.5, 128, 64  # mm, voxels an axis
CASES, SIZE = 2, 128  # of the training: voxels an axis
SMOOTHED = 7  # voxels an axis
EPOCHS = 10
NAMES = ("ct_1", "ct_2")
COLUMNS = ["seconds", "seconds_warm", "network_seconds", "beside_seconds", "peak_memory_bytes", "agreement"]


class Contender(NamedTuple):
    """command: less its images and its output. network: seconds of a patch in its runtime. once: predicts only one CT. judged:
    whether its labels are compared with those of nnUNetv2_predict --disable_tta.
    """

    command: list[Any]
    network: Callable[[], float]
    once: bool = False
    judged: bool = True


def write_task(folder: Path, ct: Path) -> None:
    """A Decathlon task of parts of the CT and the ranges of their smoothed voxels, of the network's spacing."""
    voxels = np.asarray(nib.load(ct).dataobj, np.float32)
    spacing = nib.load(ct).header.get_zooms()
    scaled = ndimage.zoom(voxels, [edge / SPACING for edge in spacing], order=1)
    scaled = np.pad(scaled, [(0, max(0, SIZE - size)) for size in scaled.shape], mode="symmetric")
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    edges = np.quantile(ndimage.uniform_filter(scaled, SMOOTHED), np.linspace(0, 1, CLASSES + 1)[1:-1])
    training = []
    for number in range(CASES):
        at = tuple(slice(start, start + SIZE) for start in (number * (size - SIZE) for size in scaled.shape))
        image = np.ascontiguousarray(scaled[at])
        labels = np.digitize(ndimage.uniform_filter(image, SMOOTHED), edges).astype(np.uint8)
        files = {"image": f"./imagesTr/ct_{number}.nii.gz", "label": f"./labelsTr/ct_{number}.nii.gz"}
        for file, array in zip(files.values(), (image, labels), strict=True):
            nib.save(nib.Nifti1Image(array, np.diag([-SPACING, -SPACING, SPACING, 1])), folder / file)
        training.append(files)
    write_json(
        {
            "name": "CT",
            "modality": {"0": "CT"},
            "labels": {"0": "background"} | {str(label): f"range {label}" for label in range(1, CLASSES)},
            "numTraining": CASES,
            "training": training,
            "numTest": 0,
            "test": [],
            "tensorImageSize": "3D",
        },
        folder / "dataset.json",
    )


def train(task: Path, work: Path, features: list[int], steps: int) -> Path:
    """The model folder of a family, whose patches are as large as nnU-Net plans them, whatever it was trained on."""
    folder, plan = prepare(task, work, features=features, batch_size=1, held_out=1, patch_size=[TRAINED_ON] * 3)
    trainer = build(ProXTrainerAdam, folder, plan)
    model = Path(trainer.output_folder_base)
    if not (model / "fold_0" / "checkpoint_final.pth").is_file():
        trainer.num_epochs, trainer.num_iterations_per_epoch = EPOCHS, max(1, steps // EPOCHS)
        trainer.num_val_iterations_per_epoch, trainer.validation_interval = 1, EPOCHS
        trainer.run_training()
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [PATCH] * 3
    write_json(plans, model / "plans.json")
    return model


def seconds_of(network: Callable[[], Any]) -> float:
    """Of a patch: the median of three, after a first one."""
    network()
    found = []
    for _ in range(3):
        start = time.perf_counter()
        network()
        found.append(time.perf_counter() - start)
    return median(found)


def in_torch(folder: Path, threads: int) -> float:
    torch.set_num_threads(threads)
    network, patch = predictor(folder, "0").network.eval(), torch.zeros(1, 1, PATCH, PATCH, PATCH)
    with torch.inference_mode():
        return seconds_of(lambda: network(patch))


def in_file(file: Path, threads: int) -> float:
    model, patch = Model(file, threads=threads), np.zeros((1, 1, PATCH, PATCH, PATCH), np.float32)
    return seconds_of(lambda: model(patch))


def in_openvino(file: Path) -> float:
    """By nnU-Net's predictor."""
    network, patch = Compiled(file), torch.zeros(1, 1, PATCH, PATCH, PATCH)
    return seconds_of(lambda: network(patch))


def contenders(model: Path, work: Path, threads: int) -> Iterator[tuple[str, Contender]]:
    """By name, each when it is its turn: what it needs is written then."""
    programs = Path(sys.executable).parent
    source = TrainedNNUNet.open(model)
    stock = work / "largest"
    export_nnunet(source, "largest", stock, overwrite=True)
    theirs = [programs / "nnUNetv2_predict_from_modelfolder", "-m", stock, "-f", "0", "-device", "cpu"]
    yield "nnUNetv2_predict --disable_tta", Contender([*theirs, "--disable_tta"], lambda: in_torch(stock, threads))
    network = work / "nnunet.xml"
    write_network(stock, "0", network)
    flare = [sys.executable, "-m", "benchmarks.nnunet_openvino", stock, network]
    yield "nnU-Net's predictor in OpenVINO", Contender(flare, lambda: in_openvino(network))
    for member in MEMBERS:
        for format in FORMATS:
            file = work / f"{member}{ENDINGS[format]}"
            export_file(source, member, file, format, overwrite=True)
            ours = [programs / "monai-prox", "predict", file, "--threads", threads]
            made = Contender(ours, lambda file=file: in_file(file, threads), judged=member == "largest")  # type: ignore[misc]
            yield f"monai-prox predict, {member}, {format}", made
    yield "nnUNetv2_predict", Contender(theirs, lambda: 8 * in_torch(stock, threads), once=True, judged=False)


def measured(contender: Contender, images: Path, output: Path, threads: int, patches: int) -> dict[str, float]:
    def predicted(given: str) -> dict[str, float]:
        shutil.rmtree(output, ignore_errors=True)
        return call([*contender.command, "-i", images / given, "-o", output], images.parent, threads)

    found, network = predicted("once"), patches * contender.network()
    row = found | {"network_seconds": network}
    if not contender.once:
        both = predicted("twice")
        warm = both["seconds"] - found["seconds"]
        row |= {"seconds_warm": warm, "beside_seconds": warm - network, "peak_memory_bytes": both["peak_memory_bytes"]}
    return {name: row[name] for name in COLUMNS if name in row}


def labels_in(folder: Path) -> np.ndarray:
    return np.asarray(nib.load(folder / f"{NAMES[0]}.nii.gz").dataobj)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--slices", type=int, default=160)
    parser.add_argument("--steps", type=int, default=200, help="of the training of each family")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-mirroring", action="store_true", help="leave out nnUNetv2_predict as it is by default")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    work, threads = arguments.work.resolve(), arguments.threads
    images = work / f"images_{arguments.slices}"
    for folder, names in (("once", NAMES[:1]), ("twice", NAMES)):
        (images / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (path := images / folder / f"{name}_0000.nii.gz").exists():
                write_ct(arguments.folder, arguments.slices, path)
    ct = images / "once" / f"{NAMES[0]}_0000.nii.gz"
    task = work / f"Task211_CT{arguments.slices}_{arguments.steps}"  # what nnU-Net makes of it is not taken up for another
    if not (task / "dataset.json").exists():
        write_task(task, ct)
    grid = [round(size * edge / SPACING) for size, edge in zip((SIDE, SIDE, arguments.slices), (0.8, 0.8, 1), strict=True)]
    patches = prod(number_of_starts(max(size, PATCH), PATCH, STEP) for size in grid)
    settings = {"slices": arguments.slices, "steps": arguments.steps, "patches": patches}
    rows = records.read(arguments.results)
    if any(row["settings"] != settings for row in rows):
        raise SystemExit(f"{arguments.results} has results with other settings; give another --results")
    for network in arguments.networks:
        folder = work / network
        folder.mkdir(exist_ok=True)
        model = train(task, work, NETWORKS[network], arguments.steps)
        for number, (name, contender) in enumerate(contenders(model, folder, threads)):
            full = f"{network}: {name}"
            if any(row["contender"] == full for row in rows) or (contender.once and arguments.no_mirroring):
                continue
            output = folder / f"predicted_{number}"
            found = measured(contender, images, output, threads, patches)
            if contender.judged:
                alike = labels_in(output) == labels_in(folder / "predicted_0")
                found["agreement"] = float(alike.mean())
            described = about(settings, threads=threads, packages=["onnxruntime", "openvino"])
            rows.append({"contender": full, **described} | found)
            records.write(rows, arguments.results)
            print(full, {key: round(value, 4) for key, value in found.items()}, flush=True)
        classes = np.unique(labels_in(folder / "predicted_0"))
        print(f"{network}: labels {classes.tolist()}", flush=True)
    Console().print(terminal(quantities(rows), COLUMNS))


if __name__ == "__main__":
    main()
