"""The main job from end to end: Decathlon task -> nnU-Net -> supernet -> members as stock models -> a table and a plot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from math import prod
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from monai_prox.data.decathlon import download
from monai_prox.data.phantom import write_phantom_task
from monai_prox.errors import ProXError
from monai_prox.export.folder import check_replaceable
from monai_prox.export.nnunet import export_nnunet
from monai_prox.files import read_json, write_json
from monai_prox.nnunet.task import check_task, convert_task, is_preprocessed, named_task, split
from monai_prox.report import Row, family_table, plot_family
from monai_prox.trained.door import open_trained
from monai_prox.trained.family_file import NamedMember
from monai_prox.trained.nnunet_dataset import named_scores

CONFIGURATIONS = ("3d_fullres", "2d")  # the first that nnU-Net plans for a task; images of a slice have no 3D one
PLANNED, PLANS = "nnUNetPlans", "nnUNetPlansDemo"
DEVICES = ("cpu", "cuda", "mps")  # as nnU-Net calls them
EXPORTED = ("smallest", "middle", "largest")
ERROR = re.compile(r"[\w.]*(error|exception)\b[^:]*:\s*\S", re.IGNORECASE)  # begins the line that says what was wrong
# The plan cut for a CPU: the first level's features, voxels per axis at most, patches per step.
CPU_FEATURES = 16
CPU_PATCH = {3: 64, 2: 256}  # by the number of axes
CPU_BATCH = 2


@dataclass(frozen=True)
class Demo:
    """task: a Decathlon task's folder, a name such as Task04_Hippocampus to download, or None for the phantom.

    work: folder for everything; what is there from an earlier run of the same files is used again, except the training.
    trainer, device (of DEVICES), cases (held-out cases predicted per exported member, at most).
    """

    task: str | None
    work: Path
    trainer: str = "ProXTrainerDemo"
    device: str = "cpu"
    cases: int = 8


def run_demo(demo: Demo, console: Console) -> list[Row]:
    """Runs the whole demo with progress bars on ``console``; writes table.json and family.png to ``demo.work``.

    Where the console is no terminal, a line a step. Raises ProXError where a step fails, with where its log is.
    """
    _check_device(demo.device)
    demo.work.mkdir(parents=True, exist_ok=True)
    work = demo.work.resolve()
    _set_variables(work)
    log = work / "demo.log"
    log.write_text("")
    columns = (TextColumn("{task.description:<44}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    bars = Progress(*columns, console=console, disable=not console.is_terminal)
    with bars:
        step = _Steps(bars, log)
        with step("Task into nnU-Net's raw format", 1):
            identifier, dataset = convert_task(_find_task(demo.task, work), replace=True)
        trained = work / "nnUNet_results" / dataset
        for name in EXPORTED:  # said now, and not after the training
            for planned in CONFIGURATIONS:
                check_replaceable(trained / f"nnUNetTrainer__{PLANS}-prox-{name}__{planned}")
        preprocessed = work / "nnUNet_preprocessed" / dataset
        with step("Plan and preprocess", 100) as bar:
            configuration = _prepare(step, identifier, dataset, bar)
        _write_demo_plans(preprocessed, configuration, demo.device)
        _write_split(preprocessed, dataset)
        with step(f"Train the supernet, {demo.trainer}", 100) as bar:
            command = ["nnUNetv2_train", str(identifier), configuration, "0", "-tr", demo.trainer, "-p", PLANS]
            step.run([*command, "-device", demo.device], _training_percent(demo.trainer, bar))
        source = open_trained(trained / f"{demo.trainer}__{PLANS}__{configuration}")
        members = {member.name: member for member in source.members()}
        exported = [name for name in EXPORTED if name in members]
        with step("Export members", len(exported)) as bar:
            folders = {}
            for done, name in enumerate(exported, 1):
                folders[name] = export_nnunet(source, name, overwrite=True, fine_tune=True)
                bar(done)
        images = _held_out_images(work, dataset, preprocessed, demo.cases)
        rows = []
        for name, folder in folders.items():
            output = work / "predictions" / name
            with step(f"nnUNetv2_predict, {name}", len(list(images.glob("*_0000.nii.gz")))) as bar:
                for old in output.glob("*.nii.gz"):
                    old.unlink()
                plans = read_json(folder / "plans.json")["plans_name"]
                where = ["-i", str(images), "-o", str(output), "-d", str(identifier), "-c", configuration]
                which = [
                    "-tr",
                    "nnUNetTrainer",
                    "-p",
                    plans,
                    "-f",
                    "0",
                    "-device",
                    demo.device,
                    "-npp",
                    "1",
                    "-nps",
                    "1",
                ]
                step.run(["nnUNetv2_predict", *where, *which], _counting(output, bar))
                rows.append(_row(step, members[name], output, preprocessed, folder))
    write_json([row.to_json() for row in rows], work / "table.json")
    plot_family(list(members.values()), work / "family.png", title=f"{dataset}: one training, {demo.trainer}")
    cases = len(list(images.glob("*_0000.nii.gz")))
    console.print(family_table(rows, "dice", f"{cases} held-out cases, by nnUNetv2_predict, which mirrors"))
    console.print(f"Plot: {work / 'family.png'}\nStock model folders:", soft_wrap=True, highlight=False, markup=False)
    for folder in folders.values():
        console.print(f"  {folder}", soft_wrap=True, highlight=False, markup=False)
    return rows


def _check_device(device: str) -> None:
    if device not in DEVICES:
        raise ProXError(
            f"--device is {device!r:.80}; allowed: {', '.join(DEVICES)}. Of several GPUs, choose by CUDA_VISIBLE_DEVICES"
        )
    if (device == "cuda" and not torch.cuda.is_available()) or (device == "mps" and not torch.backends.mps.is_available()):
        raise ProXError(f"--device is {device}, and torch finds none on this machine; leave it out")


def _prepare(step: _Steps, identifier: int, dataset: str, bar: Callable[[float | None], None]) -> str:
    """Has nnU-Net plan and preprocess, as far as it is not done; returns the configuration."""
    plans = Path(os.environ["nnUNet_preprocessed"], dataset, f"{PLANNED}.json")
    processes = {"nnUNet_n_proc_DA": "1"} if os.environ["nnUNet_n_proc_DA"] == "0" else {}  # nnU-Net cannot plan with none
    if not plans.is_file():
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(identifier), "-np", "2", "--no_pp", "--verify_dataset_integrity"]
        step.run(command, lambda _: None, **processes)
    planned = read_json(plans)["configurations"]
    configuration = next(one for one in CONFIGURATIONS if one in planned)
    if not is_preprocessed(dataset, f"{PLANNED}_{configuration}"):
        command = ["nnUNetv2_preprocess", "-d", str(identifier), "-c", configuration, "-np", "2"]
        step.run(command, lambda line: bar(_tqdm_percent(line)), **processes)
    return configuration


class _Steps:
    """Progress bars and subprocesses, whose output goes to one log file."""

    def __init__(self, bars: Progress, log: Path) -> None:
        self._bars, self._log = bars, log

    @contextmanager
    def __call__(self, name: str, total: int) -> Iterator[Callable[[float | None], None]]:
        console = self._bars.console
        if not console.is_terminal:  # which would see nothing of bars before the end
            console.print(name, soft_wrap=True, highlight=False, markup=False)
        task = self._bars.add_task(name, total=total)

        def update(done: float | None) -> None:
            if done is not None:
                self._bars.update(task, completed=done)

        yield update
        update(total)

    def run(self, command: list[str], on_line: Callable[[str], None], **variables: str) -> None:
        executable = Path(sys.executable).parent / command[0]
        if not executable.exists():
            raise ProXError(f"{executable} is missing; install nnunetv2 into this environment, then see: monai-prox doctor")
        with self._log.open("a") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            process = subprocess.Popen(
                [str(executable), *command[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | variables,
            )
            assert process.stdout is not None
            errors = []
            for line in process.stdout:
                log.write(line)
                log.flush()
                on_line(line)
                if ERROR.match(line):
                    errors.append(line.strip())
            if process.wait():
                why = f": {errors[0]:.400}" if errors else ""
                raise ProXError(f"{command[0]} failed with exit code {process.returncode}{why}; its output is in {self._log}")


def _set_variables(work: Path) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(work / variable)
        (work / variable).mkdir(exist_ok=True)
    processes = min(2, os.cpu_count() or 1)
    os.environ.setdefault("nnUNet_def_n_proc", str(processes))
    os.environ.setdefault("nnUNet_n_proc_DA", str(max(1, processes - 1)))
    # nnU-Net gives torch every core while its loader needs one: waiting threads must sleep then, not spin
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _find_task(task: str | None, work: Path) -> Path:
    if task is None:
        return write_phantom_task(work, cases=30)
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


def _write_split(preprocessed: Path, dataset: str) -> None:
    """Of a task with too few cases for nnU-Net's own."""
    labels = Path(os.environ["nnUNet_raw"], dataset, "labelsTr").glob("*.nii.gz")
    folds = split(sorted(file.name.removesuffix(".nii.gz") for file in labels))
    if folds is not None:
        write_json(folds, preprocessed / "splits_final.json")


def _tqdm_percent(line: str) -> float | None:
    head = line.rpartition("%|")[0].rpartition(":")[2].strip()
    return float(head) if head.isdigit() else None


def _training_percent(trainer: str, bar: Callable[[float | None], None]) -> Callable[[str], None]:
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


def _counting(folder: Path, bar: Callable[[float | None], None]) -> Callable[[str], None]:
    return lambda _: bar(len(list(folder.glob("*.nii.gz"))))


def _held_out_images(work: Path, dataset: str, preprocessed: Path, cases: int) -> Path:
    """A folder with links to the raw images of fold 0's validation cases."""
    folder = work / "held_out"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.is_symlink():
            old.unlink()
    for case in json.loads((preprocessed / "splits_final.json").read_text())[0]["val"][:cases]:
        for image in (work / "nnUNet_raw" / dataset / "imagesTr").glob(f"{escape(case)}_[0-9][0-9][0-9][0-9].nii.gz"):
            (folder / image.name).symlink_to(image)
    return folder


def _seconds_a_case(files: Iterable[Path]) -> float | None:
    """Time between finished cases, so that starting up does not count; None for a single case."""
    times = sorted(path.stat().st_mtime for path in files)
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


def _row(step: _Steps, member: NamedMember, output: Path, preprocessed: Path, folder: Path) -> Row:
    predictions = list(output.glob("*.nii.gz"))
    seconds = _seconds_a_case(predictions)
    truth = preprocessed / "gt_segmentations"
    files = ["-djfile", str(folder / "dataset.json"), "-pfile", str(folder / "plans.json")]
    step.run(["nnUNetv2_evaluate_folder", str(truth), str(output), *files, "-np", "2", "--chill"], lambda _: None)
    summary = read_json(output / "summary.json")
    dice = named_scores({key: of["Dice"] for key, of in summary["mean"].items()}, read_json(folder / "dataset.json")["labels"])
    return Row(member.name, member.parameters, member.macs, dice, seconds)


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
