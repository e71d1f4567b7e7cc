"""The main job from end to end: Decathlon task -> nnU-Net -> supernet -> members as stock models -> a table and a plot."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from glob import escape
from math import prod
from pathlib import Path
from time import perf_counter

import nibabel as nib
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.crossval_split import generate_crossval_split
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from monai_prox.cli.completion import DEVICES
from monai_prox.cli.steps import Steps
from monai_prox.cli.torch_device import check_device
from monai_prox.data.decathlon import download
from monai_prox.data.phantom import write_phantom_task
from monai_prox.errors import ProXError
from monai_prox.export.folder import check_replaceable
from monai_prox.export.nnunet import export_nnunet
from monai_prox.files import link, read_json, write_json
from monai_prox.nnunet.task import check_task, convert_task, is_preprocessed, named_task, split
from monai_prox.report import Row, family_table, plot_family, rows_of
from monai_prox.trained.door import open_trained
from monai_prox.trained.source import Trained

CONFIGURATIONS = ("3d_fullres", "2d")  # the first that nnU-Net plans for a task; images of a slice have no 3D one
PLANNED, PLANS = "nnUNetPlans", "nnUNetPlansDemo"
EXPORTED = ("smallest", "middle", "largest")
IMAGE = "_[0-9][0-9][0-9][0-9].nii.gz"  # the end of the names of nnU-Net's images, with the channel
# The plan cut for a CPU: the first level's features, voxels per axis at most, patches per step.
CPU_FEATURES = 16
CPU_PATCH = {3: 64, 2: 256}  # by the number of axes
CPU_BATCH = 2


@dataclass(frozen=True)
class Demo:
    """What to run.

    task: a Decathlon task's folder, a name such as Task04_Hippocampus to download, or None for the phantom.
    work: folder for everything; what is there from an earlier run of the same files is used again, except the training.
    trainer, device (of DEVICES), cases (held-out cases that members are validated and timed on, at most).
    quick: a training that learns nothing, of a few images, and no command of nnU-Net's predicts: it only shows that all works.
    """

    task: str | None
    work: Path
    trainer: str | None = None
    device: str = "cpu"
    cases: int = 8
    quick: bool = False


def run_demo(demo: Demo, console: Console) -> list[Row]:
    """Runs the whole demo with progress bars on ``console``; writes table.json and, unless quick, family.png to ``demo.work``.

    If the console is no terminal, a line a step. Raises ProXError if a step fails, with where its log is.
    """
    _check_device(demo.device)
    trainer = demo.trainer or ("ProXTrainerDemoQuick" if demo.quick else "ProXTrainerDemo")
    demo.work.mkdir(parents=True, exist_ok=True)
    work = demo.work.resolve()
    _set_variables(work, processes=1 if demo.quick else 2)
    log = work / "demo.log"
    log.write_text("", encoding="utf-8")
    columns = (TextColumn("{task.description:<44}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        step = Steps(bars, log)
        with step("Task into nnU-Net's raw format", 1):
            identifier, dataset = convert_task(_find_task(demo, work), replace=True)
        trained = work / "nnUNet_results" / dataset
        for name in EXPORTED:  # said now, and not after the training
            for planned in CONFIGURATIONS:
                check_replaceable(trained / f"nnUNetTrainer__{PLANS}-prox-{name}__{planned}")
        preprocessed = work / "nnUNet_preprocessed" / dataset
        with step("Plan and preprocess", 100) as bar:
            configuration = _prepare(step, identifier, dataset, bar)
        _write_demo_plans(preprocessed, configuration, demo.device)
        held_out = _write_split(preprocessed, dataset, demo.cases)
        with step(f"Train the supernet, {trainer}", 100) as bar:
            command = ["nnUNetv2_train", str(identifier), configuration, "0", "-tr", trainer, "-p", PLANS]
            step.run([*command, "-device", demo.device], _training_percent(bar))
        source = open_trained(trained / f"{trainer}__{PLANS}__{configuration}")
        members = {row.name: row for row in rows_of(source.members())}
        exported = [name for name in EXPORTED if name in members]
        with step("Export members as nnU-Net models", len(exported)) as bar:
            folders = {}
            for done, name in enumerate(exported, 1):
                folders[name] = export_nnunet(source, name, overwrite=True, fine_tune=True)
                bar(done)
        images = _held_out_images(work, dataset, held_out)
        rows = []
        with step("Predict with them, as nnU-Net does", len(exported)) as bar:
            for done, (name, folder) in enumerate(folders.items(), 1):
                seconds = step.capture(predict_seconds, folder, images, work / "predictions" / name, demo.device)
                rows.append(replace(members[name], seconds=seconds))
                bar(done)
        if not demo.quick:
            with step(f"nnUNetv2_predict with the member {exported[0]}", 100) as bar:
                same = _predict_again(step, demo.device, folders[exported[0]], images, work, exported[0])
    write_json([row.to_json() for row in rows], work / "table.json")
    console.print(family_table(rows, "dice", source.scored, width=console.width))
    say(console, "Seconds are those of nnU-Net's predictor on this machine, without its start and without mirroring.")
    if not demo.quick:
        say(console, f"nnUNetv2_predict, which knows nothing of the family, gives {same:.3%} of the voxels the same label.")
        plot_family(source.members(), work / "family.png", title=f"{dataset}: one training, {trainer}")
        say(console, f"Plot: {work / 'family.png'}")
    say(console, "Stock model folders:", *(f"  {folder}" for folder in folders.values()))
    say(console, "Next:", *(f"  {command}" for command in next_commands(source, work / "nnUNet_raw" / dataset)))
    return rows


def next_commands(source: Trained, raw: Path) -> list[str]:
    """What to do with a trained family, as a user types it where nnU-Net's variables are not set.

    raw: the dataset in nnU-Net's raw format.
    """
    model, members = shlex.quote(str(source.path)), source.members()
    commands = [
        f"monai-prox family {model}",
        f"monai-prox export {model} --subnet smallest --format onnx --output smallest.onnx",
    ]
    if any(member.scores for member in members):  # else the training has validated nothing that a search can score on
        sizes = [member.parameters for member in members]
        most = max(min(sizes), round(max(sizes) / 4))
        commands.append(f"monai-prox search {model} --dataset {shlex.quote(str(raw))} --max-params {most}")
    return commands


def say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _check_device(device: str) -> None:
    if device not in DEVICES:
        raise ProXError(
            f"--device is {device!r:.80}; allowed: {', '.join(DEVICES)}. Of several GPUs, choose by CUDA_VISIBLE_DEVICES"
        )
    check_device(device)


def _prepare(step: Steps, identifier: int, dataset: str, bar: Callable[[float | None], None]) -> str:
    """Has nnU-Net plan and preprocess, as far as it is not done; returns the configuration."""
    plans = Path(os.environ["nnUNet_preprocessed"], dataset, f"{PLANNED}.json")
    processes = {"nnUNet_n_proc_DA": "1"} if os.environ["nnUNet_n_proc_DA"] == "0" else {}  # nnU-Net cannot plan with none
    count = ("-np", os.environ["nnUNet_def_n_proc"])
    if not plans.is_file():
        few = ("-npfp", count[1])  # else it takes eight for the fingerprint, each of which starts for seconds
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(identifier), *count, *few, "--no_pp", "--verify_dataset_integrity"]
        step.run(command, lambda _: None, **processes)
    planned = read_json(plans)["configurations"]
    configuration = next(one for one in CONFIGURATIONS if one in planned)
    if not is_preprocessed(dataset, f"{PLANNED}_{configuration}"):
        command = ["nnUNetv2_preprocess", "-d", str(identifier), "-c", configuration, *count]
        step.run(command, lambda line: bar(_tqdm_percent(line)), **processes)
    return configuration


def _set_variables(work: Path, *, processes: int) -> None:
    """processes: of nnU-Net, each of which takes seconds to start."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(work / variable)
        (work / variable).mkdir(exist_ok=True)
    processes = min(processes, os.cpu_count() or 1)
    os.environ.setdefault("nnUNet_def_n_proc", str(processes))
    os.environ.setdefault("nnUNet_n_proc_DA", str(max(1, processes - 1)))
    # nnU-Net gives torch every core while its loader needs one: waiting threads must sleep then, not spin
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _find_task(demo: Demo, work: Path) -> Path:
    task = demo.task
    if task is None:
        return write_phantom_task(work / "quick" if demo.quick else work, cases=10 if demo.quick else 30)
    if Path(task).is_dir():
        found = named_task(task)
        check_task(found)
        return found
    return download(task, work)


def _write_demo_plans(preprocessed: Path, name: str, device: str) -> None:
    """nnU-Net's plan under the demo's name; on a CPU cut down to what two cores can train in minutes."""
    plans = read_json(preprocessed / f"{PLANNED}.json")
    plans["plans_name"] = PLANS
    if device == "cpu":
        configuration = plans["configurations"][name]
        kwargs = configuration["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [
            min(full, CPU_FEATURES * 2**level) for level, full in enumerate(kwargs["features_per_stage"])
        ]
        patch = configuration["patch_size"]
        lowest = [2 * prod(strides) for strides in zip(*kwargs["strides"], strict=True)]  # two voxels on the lowest level
        configuration["patch_size"] = [
            min(size, max(CPU_PATCH[len(patch)], least)) for size, least in zip(patch, lowest, strict=True)
        ]
        configuration["batch_size"] = CPU_BATCH
    write_json(plans, preprocessed / f"{PLANS}.json")


def _write_split(preprocessed: Path, dataset: str, most: int) -> list[str]:
    """nnU-Net's five folds, of fewer cases as many as there are; of the first one at most so many cases are held out.

    Returns them. The members are validated on them, five times in all, so they are few.
    """
    labels = Path(os.environ["nnUNet_raw"], dataset, "labelsTr").glob("*.nii.gz")
    cases = sorted(file.name.removesuffix(".nii.gz") for file in labels)
    folds = split(cases) or generate_crossval_split(cases, seed=12345, n_splits=5)
    held_out = [str(case) for case in folds[0]["val"]][:most]
    training = [str(case) for case in folds[0]["train"]]
    write_json([{"train": training, "val": held_out}], preprocessed / "splits_final.json")
    return held_out


def _tqdm_percent(line: str) -> float | None:
    head = line.rpartition("%|")[0].rpartition(":")[2].strip()
    return float(head) if head.isdigit() else None


def _training_percent(bar: Callable[[float | None], None]) -> Callable[[str], None]:
    """Training counts for nine tenths of the bar, the validation of the members for the rest."""
    epochs = 1

    def on_line(line: str) -> None:
        nonlocal epochs
        if "ProX schedule:" in line:
            epochs = int(line.rpartition(" epochs")[0].rpartition(" ")[2])
        elif " Epoch " in f" {line.strip()} " and line.strip().split()[-1].isdigit():
            bar(90 * int(line.split()[-1]) / epochs)
        elif "Validation" in line:
            bar(95)

    return on_line


def _held_out_images(work: Path, dataset: str, cases: Sequence[str]) -> Path:
    """A folder with links to the raw images of ``cases``."""
    folder = work / "held_out"
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"*{IMAGE}"):
        old.unlink()
    for case in cases:
        for image in (work / "nnUNet_raw" / dataset / "imagesTr").glob(f"{escape(case)}{IMAGE}"):
            link(folder / image.name, image)
    return folder


def predict_seconds(folder: Path, images: Path, output: Path, device: str) -> float:
    """Predicts all images with an exported member, by nnU-Net's own predictor; seconds a case, without its start."""
    shutil.rmtree(output, ignore_errors=True)  # an earlier run may have predicted other cases
    output.mkdir(parents=True)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    start = perf_counter()
    predictor.predict_from_files_sequential(str(images), str(output), overwrite=True)
    return (perf_counter() - start) / len(list(output.glob("*.nii.gz")))


def _predict_again(step: Steps, device: str, folder: Path, images: Path, work: Path, name: str) -> float:
    """Predicts with ``folder`` by nnU-Net's command; the share of voxels that have the same label as in the predictions."""
    output = work / "nnUNetv2_predict"
    shutil.rmtree(output, ignore_errors=True)
    where = ["-i", str(images), "-o", str(output), "-m", str(folder), "-f", "0", "-device", device]
    step.run(["nnUNetv2_predict_from_modelfolder", *where, "--disable_tta", "-npp", "1", "-nps", "1"], lambda _: None)
    same = voxels = 0
    for file in sorted(output.glob("*.nii.gz")):
        own, other = (np.asarray(nib.load(each).dataobj) for each in (file, work / "predictions" / name / file.name))
        same, voxels = same + int((own == other).sum()), voxels + own.size
    return same / voxels


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
