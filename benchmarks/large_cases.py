"""What a large CT costs beside the network: CPU seconds of every step of ``monai-prox predict``, and the peak of the memory.

    python -m benchmarks.large_cases Task211_CHAOSCT1 --work FOLDER --results benchmarks/results/large

The CT of the folder, mirrored until it has 512 x 512 voxels and as many slices as asked for, of 0.8 x 0.8 x 1 mm. The network's
spacing is 1.5 mm, its patch 128 x 128 x 128. It is no trained one, but a mean of 7 voxels an axis whose 14 classes are ranges
of it: 37 % of the voxels of the smaller CT are in cells with several classes. What it costs is not counted. Each size is done
in a process of its own, which then interpolates all logits, too, as a comparison, of the same labels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from benchmarks import records
from monai_prox.runtime.cases import Case, read_case
from monai_prox.runtime.description import Description, Normalisation, Resampling
from monai_prox.runtime.labels import labels, slabs
from monai_prox.runtime.memory import needed_for
from monai_prox.runtime.preprocessing import prepare
from monai_prox.runtime.resampling import Array, matrices
from monai_prox.runtime.sliding_window import sliding_window

CLASSES, SIDE = 14, 512
STATUS, PEAK, NOW = Path("/proc/self/status"), "VmHWM:", "VmRSS:"
DESCRIPTION = Description(
    member="mean",
    subnet={},
    task="large cases",
    source="benchmarks/large_cases.py",
    channels=("CT",),
    labels={"background": 0} | {f"class {value}": value for value in range(1, CLASSES)},
    regions=None,
    outputs=CLASSES,
    patch=(128, 128, 128),
    spacing=(1.5, 1.5, 1.5),
    transpose=(0, 1, 2),
    normalisation=(Normalisation(scheme="CTNormalization", lower=-150, upper=300, mean=40, std=90),),
    images=Resampling(order=3),
    logits=Resampling(order=1),
    reader="SimpleITKIO",
    file_ending=".nii.gz",
)


def network(x: Array) -> Array:
    """The class whose centre is nearest to the mean has the largest logit."""
    mean = ndimage.uniform_filter(x[0, 0], 7)
    logits = np.empty((1, CLASSES, *mean.shape), np.float32)
    for logit, centre in zip(logits[0], np.linspace(-1.8, 1.8, CLASSES, dtype=np.float32), strict=True):
        np.multiply(mean, 8 * centre, out=logit)
        logit -= 4 * centre**2
    return logits


def write_ct(folder: Path, slices: int, path: Path) -> None:
    (file,) = (folder / "imagesTr").glob("*.nii.gz")
    voxels = np.asarray(nib.load(file).dataobj)
    mirrored = [
        np.r_[:size, size - 1 : -1 : -1][np.arange(wanted) % (2 * size)]
        for wanted, size in zip((SIDE, SIDE, slices), voxels.shape, strict=True)
    ]
    nib.save(nib.Nifti1Image(voxels[np.ix_(*mirrored)], np.diag([-0.8, -0.8, 1, 1])), path)


def memory(what: str) -> int:
    """Bytes of this process."""
    return next(int(words[1]) * 1024 for words in map(str.split, STATUS.read_text().splitlines()) if words[0] == what)


def measure(path: Path, output: Path) -> dict[str, Any]:
    """As ``monai_prox.runtime.prediction.predict`` does it."""
    seconds: dict[str, float] = {}
    within = 0.0

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        result = call(*arguments)
        seconds[name] = time.process_time() - start
        return result

    def counted(x: Array) -> Array:
        nonlocal within
        start = time.process_time()
        result = network(x)
        within += time.process_time() - start
        return result

    image = timed("read", read_case, Case(path.name.removesuffix("_0000.nii.gz"), (path,)), DESCRIPTION)
    before, save = memory(NOW), image.save
    prepared, grid = timed("prepare", prepare, image, DESCRIPTION)
    del image
    logits = timed("windows", sliding_window, prepared, DESCRIPTION.patch, CLASSES, counted)
    seconds["windows"] -= within
    found = timed("labels", labels, logits, grid, DESCRIPTION)
    peak = memory(PEAK)
    timed("write", save, found, output)
    result = {f"{name}_cpu_seconds": value for name, value in seconds.items()} | {
        "beside_network_cpu_seconds": sum(seconds.values()),
        "peak_memory_bytes": max(peak, memory(PEAK)),
        "estimate": (before + needed_for(grid, DESCRIPTION)) / peak,
    }
    steps, differ = matrices(DESCRIPTION.logits, grid.shape, grid.cropped, grid.spacing, grid.image_spacing), 0
    start = time.process_time()
    for part, slab in slabs(logits, steps):
        differ += np.count_nonzero(found[grid.box][part] != slab.argmax(0))
    return result | {"all_logits_cpu_seconds": time.process_time() - start, "agreement": 1 - differ / found.size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slices", type=int, nargs="+", default=[160, 600])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.work / "labels.nii.gz")))
        return
    from benchmarks.about import about  # with torch, which is no part of what is measured

    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for slices in arguments.slices:
        path = arguments.work / f"ct_{slices}_0000.nii.gz"
        write_ct(arguments.folder, slices, path)
        command = [sys.executable, "-m", "benchmarks.large_cases", *sys.argv[1:], "--one", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        settings = {"classes": CLASSES, "patch": DESCRIPTION.patch, "spacing": DESCRIPTION.spacing}
        rows.append({"contender": f"{SIDE} x {SIDE} x {slices}", **about(settings, threads=2)} | json.loads(done.stdout))
    records.write(rows, arguments.results)
    names = [name for name in rows[0] if name.endswith("_seconds")]
    table = Table("voxels", *(name.removesuffix("_cpu_seconds") for name in names), "peak GB", "estimate", "alike")
    for row in rows:
        times = (f"{row[name]:.1f}" for name in names)
        table.add_row(
            row["contender"],
            *times,
            f"{row['peak_memory_bytes'] / 1e9:.2f}",
            f"{row['estimate']:.2f}",
            f"{row['agreement']:.7f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
