"""What the tests of bundles share: small tasks for each bundle, and MONAI's commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from helpers.architectures import FOUR_DIMENSIONS
from helpers.commands import forked, fresh
from helpers.made_once import made_once
from helpers.programs import Programs

ROOT = Path(__file__).parents[2]
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
BRATS = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
# by bundle: channels, labels, shape and spacing of a task that is like its own but small
TASKS: dict[str, tuple[Sequence[str], Sequence[str], tuple[int, ...], tuple[float, ...]]] = {
    "brats_prox": (("FLAIR", "t1gd"), BRATS, (20, 24, 18), (1.0, 1.0, 1.0)),
    "hippocampus_prox": (("MRI",), ("background", "Anterior", "Posterior"), (18, 24, 17), (1.0, 1.0, 1.0)),
    "msd_prox": (("CT",), ("background", "spleen"), (30, 28, 8), (0.8, 0.8, 5.0)),
}
BUNDLES = sorted(TASKS)  # for segmentation
# overrides for a training of a few seconds: every stage of the recipe has its epoch
TINY = {"epochs": 5, "iterations": 1, "batch_size": 2, "samples_per_image": 1, "num_workers": 0, "val_interval": 100}
TINY |= {"plan#features": 4, "space": FOUR_DIMENSIONS}


def write_task(folder: Path, bundle: str, *, cases: int = 3, seed: int = 0) -> Path:
    """A small task like the bundle's own."""
    channels, labels, shape, spacing = TASKS[bundle]
    task = folder / f"Task990_{bundle.partition('_')[0].capitalize()}"
    return write_ellipsoids(task, channels, labels, shape, spacing, cases=cases, seed=seed)


def write_ellipsoids(
    task: Path,
    channels: Sequence[str],
    labels: Sequence[str],
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    cases: int = 3,
    seed: int = 0,
    absent: Mapping[int, Collection[int]] | None = None,
) -> Path:
    """A task whose labels are nested ellipsoids, brighter than what is around them.

    absent: by case, labels that are background in it.
    """
    generator = np.random.default_rng(seed)
    entries = []
    for number in range(cases):
        centre = generator.uniform(0.4, 0.6, 3) * shape
        distance = np.sqrt(
            sum(((grid + 0.5 - c) / (n / 2)) ** 2 for grid, c, n in zip(np.indices(shape), centre, shape, strict=True))
        )
        label = sum((distance < 0.8 / level).astype(np.uint8) for level in range(1, len(labels)))
        label[np.isin(label, list((absent or {}).get(number, ())))] = 0
        image = 100 * label[..., None] + generator.normal(0, 20, (*shape, len(channels))) + 50
        entry = {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"}
        image = image[..., 0] if len(channels) == 1 else image
        for array, path in ((image.astype(np.float32), entry["image"]), (label, entry["label"])):
            (task / path).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), task / path)
        entries.append(entry)
    numbered = [{str(number): name for number, name in enumerate(names)} for names in (channels, labels)]
    description = {"modality": numbered[0], "labels": numbered[1], "training": entries, "numTraining": cases}
    description["licence"] = "none, synthetic"
    (task / "dataset.json").write_text(json.dumps(description))
    return task


def cases_of(task: Path) -> list[dict[str, str]]:
    """The cases of a small task, as applications list them."""
    names = [path.name for path in sorted((task / "imagesTr").glob("case*"))]
    return [{"image": str(task / "imagesTr" / name), "label": str(task / "labelsTr" / name)} for name in names]


def copy_bundles(folder: Path) -> Path:
    """The bundles, as a checkout has them, below ``folder``."""
    shutil.copytree(ROOT / "bundles", folder / "bundles", ignore=shutil.ignore_patterns("models", "eval"))
    return folder / "bundles"


def arguments(overrides: dict[str, Any]) -> list[str]:
    return [argument for key, value in overrides.items() for argument in (f"--{key}", str(value))]


def monai(
    command: Sequence[str | Path], *, cwd: Path, without: Sequence[str] = (), check: bool = True, new: bool = False
) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle`` with ``command``. without: packages that it shall not find. new: in a new Python."""
    if new:
        done = fresh(["monai.bundle", *command], os.environ | QUIET, cwd=cwd, launcher=["-m"])
    else:
        done = forked(["monai.bundle", *command], os.environ | QUIET, cwd=cwd, module=True, without=without)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def torchrun(processes: int, command: Sequence[str | Path], *, cwd: Path, programs: Programs) -> str:
    """``monai`` in several processes; returns its standard output."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "monai.bundle"]
    done = programs([*launcher, *command], os.environ | QUIET, cwd=cwd, module=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@dataclass(frozen=True)
class Trained:
    root: Path  # with bundles/ in it
    bundle: Path
    task: Path

    @property
    def command(self) -> list[str]:
        """What trained it, after ``python -m monai.bundle``, without the overrides."""
        return ["run", "--config_file", f"bundles/{self.bundle.name}/configs/train.json"]


def trained_once(name: str, bundle: str, cases: int = 3, new: bool = False, **overrides: Any) -> Trained:
    """A copy of the bundle, trained by MONAI's command from the folder that has ``bundles`` in it. new: in a new Python."""

    def made(root: Path, task: Path) -> Trained:
        return Trained(root, root / "bundles" / bundle, task)

    def fill(root: Path) -> None:
        copy_bundles(root)
        task = write_task(root, bundle, cases=cases)
        command = [*made(root, task).command, *arguments(TINY | {"dataset_dir": task} | overrides)]
        done = monai(command, cwd=root, new=new)
        (root / "said").write_text(done.stdout + done.stderr)

    root = made_once(name, fill)
    (task,) = root.glob("Task990_*")
    return made(root, task)
