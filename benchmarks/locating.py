"""What a large member takes, and how well it segments, if a small one says where it runs.

A family is trained shortly by ProXTrainer. Its largest member segments cases that the training has not seen: everywhere, in the
box around what the smallest finds (``--locate``), the same without its specks (``--specks``), and on the tiles in which that is
unsure (``--unsure``). Seconds are those of the whole prediction of a case, one after the other in one process. Agreement is the
part of the voxels that have the label of the largest member everywhere.

With ``--placed`` each image lies in a volume so many times as long along each axis, of smooth noise with the image's mean and
deviation, at a place that is drawn; so do those of the training. Then the truth is known in all of a large volume.
With ``--left-out 0`` the cases are those of the training, as where there are too few: then Dice says no more than that
something was learnt.

    python -m benchmarks.locating Task04_Hippocampus --placed 4 --work FOLDER --results benchmarks/results/locating
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage

from benchmarks import records
from benchmarks.about import about
from benchmarks.quantities import quantities, terminal
from benchmarks.short_training import EPOCHS, trained
from benchmarks.task import prepare
from monai_prox.export.device_file import export_file
from monai_prox.files import write_json
from monai_prox.runtime.calibrate import labelled_cases
from monai_prox.runtime.cases import read_labels
from monai_prox.runtime.description import Description
from monai_prox.runtime.dice import dice_of
from monai_prox.runtime.locating import Locator
from monai_prox.runtime.model import Model
from monai_prox.runtime.options import Options
from monai_prox.runtime.prediction import predict
from monai_prox.trained.nnunet_source import TrainedNNUNet

SMOOTH = 2.0  # voxels, of the noise
THREADS = 2
COLUMNS = ("seconds_a_case", "agreement", "dice_with_everywhere", "dice")


def placed(task: Path, times: int, cases: int, folder: Path) -> Path:
    """A task whose images are the last ones of a task by name, each in a volume that is ``times`` as long along each axis."""
    made = folder / task.name
    if not made.is_dir():
        part = folder / f"{task.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (part / name).mkdir(parents=True)
        names = sorted(path.name for path in (task / "labelsTr").glob("[!.]*.nii.gz"))[-cases:]
        for seed, name in enumerate(names):
            place(task, name, times, seed, part)
        listed = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
        described = json.loads((task / "dataset.json").read_text())
        write_json(described | {"training": listed, "test": [], "numTraining": len(names), "numTest": 0}, part / "dataset.json")
        part.rename(made)
    return made


def place(task: Path, name: str, times: int, seed: int, folder: Path) -> None:
    """Writes an image and its label into a volume that is ``times`` as long along each axis."""
    image, label = task / "imagesTr" / name, task / "labelsTr" / name
    generator, opened = np.random.default_rng(seed), nib.load(image)
    voxels, truth = (np.asarray(file.dataobj) for file in (opened, nib.load(label)))
    sides = [times * side for side in voxels.shape]
    volume = ndimage.gaussian_filter(generator.normal(size=sides).astype(np.float32), SMOOTH)
    volume = volume / volume.std() * voxels.std() + voxels.mean()
    at = [int(generator.integers(whole - side + 1)) for whole, side in zip(sides, voxels.shape, strict=True)]
    box = tuple(slice(start, start + side) for start, side in zip(at, voxels.shape, strict=True))
    where = np.zeros(sides, np.uint8)
    volume[box], where[box] = voxels, truth
    nib.save(nib.Nifti1Image(volume, opened.affine), folder / "imagesTr" / name)
    nib.save(nib.Nifti1Image(where, opened.affine), folder / "labelsTr" / name)


def ways(small: Model, margin: float, specks: float, unsure: float) -> Iterator[tuple[str, Options]]:
    yield "everywhere", Options()
    asked: dict[str, Any] = {"network": small, "description": small.description}
    yield f"located, {margin:g} mm", Options(locator=Locator(**asked, margin=margin))
    without = Locator(**asked, margin=margin, specks=specks)
    yield f"located, {margin:g} mm, without specks", Options(locator=without)
    yield f"where unsure, {unsure:g}", Options(locator=Locator(**asked, unsure=unsure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--patch-size", type=int, nargs=3, help="the plan's own by default")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--spacing", type=float, nargs=3, help="in mm; the plan's own by default")
    parser.add_argument("--left-out", type=int, default=0, help="cases that the training does not see, the last by name")
    parser.add_argument("--cases", type=int, default=8, help="that are predicted, the last by name")
    parser.add_argument("--placed", type=int, help="how many times as long along each axis the volume is; images as they are")
    parser.add_argument("--of", type=int, default=68, help="cases that are placed, the last by name")
    parser.add_argument("--margin", type=float, default=20.0, help="mm")
    parser.add_argument("--specks", type=float, default=0.1, help="share of the largest part")
    parser.add_argument("--unsure", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    task, work = arguments.task.resolve(), arguments.work.resolve() / arguments.task.name
    where = task.name
    if arguments.placed:
        where += f", placed in {arguments.placed} times the sides"
        work = work.with_name(f"{work.name}_placed_{arguments.placed}")
        task = placed(task, arguments.placed, arguments.of, work)
    cut = {name: getattr(arguments, name) for name in ("features", "batch_size", "patch_size", "spacing", "left_out")}
    folder, plan = prepare(task, work, **cut, held_out=1 if arguments.left_out else 0)
    torch.set_num_threads(1)
    model = trained(folder, plan, steps=arguments.steps, seed=arguments.seed)
    source, raw = TrainedNNUNet.open(model), work / "nnUNet_raw" / folder.name
    files = {name: work / f"{name}.onnx" for name in ("largest", "smallest")}
    for name, file in files.items():
        export_file(source, name, file, "onnx", overwrite=True)
    large, small = (Model(file, threads=THREADS) for file in files.values())
    description = large.description
    assert isinstance(description, Description)
    cases = labelled_cases(raw / "imagesTr", raw / "labelsTr", description)[-arguments.cases :]
    names = ("features", "patch_size", "spacing", "steps", "left_out", "placed", "of", "margin", "specks", "unsure")
    settings = {"task": task.name, "epochs": EPOCHS, "cases": len(cases), **{name: getattr(arguments, name) for name in names}}
    described = about(settings, threads=THREADS, packages=["onnxruntime"])
    everywhere: dict[str, NDArray[Any]] = {}
    rows = []
    for way, options in ways(small, arguments.margin, arguments.specks, arguments.unsure):
        found: dict[str, list[float]] = {column: [] for column in COLUMNS}
        for case in cases:
            output, start = work / "labels", time.perf_counter()
            ((_, problem),) = predict(description, large, [case.case], output, options)
            found["seconds_a_case"].append(time.perf_counter() - start)
            assert problem is None, problem
            segmented = read_labels(output / f"{case.case.name}{description.file_ending}", description)
            whole = everywhere.setdefault(case.case.name, segmented)
            found["agreement"].append(float((segmented == whole).mean()))
            found["dice_with_everywhere"].append(dice_of(segmented, whole, description.labels))
            found["dice"].append(dice_of(segmented, read_labels(case.labels, description), description.labels))
        means = {column: float(np.nanmean(values)) for column, values in found.items()}
        rows.append({"contender": f"{where}: {way}", "seed": arguments.seed, **described, **means})
        records.add(rows[-1], arguments.results)
    Console(width=160).print(terminal(quantities(rows), COLUMNS))


if __name__ == "__main__":
    main()
