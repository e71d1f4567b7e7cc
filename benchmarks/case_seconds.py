"""How well seconds and memory of whole cases are predicted, and measured with the code of ``monai-prox predict``.

    python -m benchmarks.case_seconds MODEL --images FOLDER --work FOLDER --results benchmarks/results/case-seconds

The device is measured as ``monai-prox profile measure`` does. The images are those of the folder, named as nnU-Net names them,
and the same mirrored until they are so many times as long along each axis (--times). Their sizes are others than the measured
ones. Each member predicts each case in a process of its own, whose seconds begin when the member's file is open.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from rich.console import Console
from rich.table import Table

from monai_prox.runtime.grid import ImageSize

STATUS, PEAK = Path("/proc/self/status"), "VmHWM:"
REPEATS = 3  # predictions of a case, of whose seconds the median counts


def measure(file: Path, case: Path, output: Path, threads: int) -> dict[str, float]:
    """Seconds and the peak of this process, in bytes."""
    from monai_prox.runtime.cases import find_cases
    from monai_prox.runtime.model import Model
    from monai_prox.runtime.prediction import predict

    model = Model(file, threads=threads)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _, problem in predict(model.description, model, find_cases(case, model.description), output):  # type: ignore[arg-type]
            assert problem is None, problem
        seconds.append(time.perf_counter() - start)
    peak = next(int(words[1]) * 1024 for words in map(str.split, STATUS.read_text().splitlines()) if words[0] == PEAK)
    return {"seconds": float(np.median(seconds)), "peak_memory_bytes": peak}


def write_case(file: Path, times: int, path: Path) -> ImageSize:
    """The image of a file, mirrored until it is so many times as long along each axis."""
    image = sitk.ReadImage(file)
    voxels = sitk.GetArrayFromImage(image)
    mirrored = [np.r_[:size, size - 1 : -1 : -1][np.arange(times * size) % (2 * size)] for size in voxels.shape]
    longer = sitk.GetImageFromArray(voxels[np.ix_(*mirrored)])
    longer.SetSpacing(image.GetSpacing())
    sitk.WriteImage(longer, path, useCompression=True)
    return ImageSize(longer.GetSize()[::-1], image.GetSpacing()[::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--members", nargs="+", default=["smallest", "middle", "largest"])
    parser.add_argument("--fitted", type=int, default=24, help="members that are measured")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.model, arguments.one, arguments.work, arguments.threads)))
        return
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    from benchmarks import records
    from benchmarks.about import about  # with torch, which is no part of what is measured
    from monai_prox.export.device_file import export_file
    from monai_prox.latency.case import CaseCosts
    from monai_prox.latency.device import Device
    from monai_prox.latency.pack import choose_members, measure_here
    from monai_prox.trained.door import open_trained

    source, work = open_trained(arguments.model), arguments.work
    work.mkdir(parents=True, exist_ok=True)
    cases: list[tuple[Path, ImageSize]] = []
    for file in sorted(arguments.images.glob("*_0000.nii.gz"))[: arguments.cases]:
        for times in arguments.times:
            path = work / f"{file.name.removesuffix('_0000.nii.gz')}_times_{times}_0000.nii.gz"
            cases.append((path, write_case(file, times, path)))
    fitted = choose_members(source.supernet.family, source.size, arguments.fitted)
    profile = measure_here(source, fitted, "onnxruntime", threads=arguments.threads, progress=lambda _: None)
    device = Device.from_json(profile, source.supernet.family, source.size, "the measurements")
    described = about({"model": source.path.name, "cases": len(cases), "fitted": len(fitted)}, threads=arguments.threads)
    rows: list[dict[str, Any]] = []
    for member in arguments.members:
        subnet, file = source.member(member)[1], work / f"{member}.onnx"
        export_file(source, member, file, "onnx", overwrite=True)
        pairs: dict[str, list[tuple[float, float]]] = {"seconds": [], "memory": []}
        for path, size in cases:
            words = [str(file), "--one", str(path), "--work", str(work / "labels"), "--threads", str(arguments.threads)]
            done = subprocess.run([sys.executable, "-m", "benchmarks.case_seconds", *words], check=True, stdout=subprocess.PIPE)
            found, costs = json.loads(done.stdout), CaseCosts.of(source, device, size)
            pairs["seconds"].append((costs.seconds(subnet), found["seconds"]))
            pairs["memory"].append((costs.ram_gb(subnet) or 0.0, found["peak_memory_bytes"] / 1e9))
        rows.append({"contender": member, **described, **_errors(pairs), "pairs": pairs})
    pairs = {name: [pair for row in rows for pair in row["pairs"][name]] for name in ("seconds", "memory")}
    held_out = {"left_out_error": device.parts.held_out_error if device.parts else None, "profile": profile}
    rows.append({"contender": "all", **described, **_errors(pairs), **held_out})
    records.write(rows, arguments.results)
    table = Table("member", "seconds", "median error", "9 in 10 below", "GB", "median error", "9 in 10 below")
    for row in rows:
        errors = [f"{row[f'{name}_{of}']:.1%}" for name in ("seconds", "memory") for of in ("error", "error_of_nine_in_ten")]
        spans = ["{:.2g} to {:.2g}".format(*row[f"{name}_measured"]) for name in ("seconds", "memory")]
        table.add_row(row["contender"], spans[0], *errors[:2], spans[1], *errors[2:])
    Console().print(table)


def _errors(pairs: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Of predicted and measured numbers: relative errors, and the span of what was measured."""
    found: dict[str, Any] = {}
    for name, of in pairs.items():
        errors, measured = [abs(predicted / real - 1) for predicted, real in of], [real for _, real in of]
        found |= {
            f"{name}_error": float(np.median(errors)),
            f"{name}_error_of_nine_in_ten": float(np.percentile(errors, 90)),
            f"{name}_measured": [min(measured), max(measured)],
        }
    return found


if __name__ == "__main__":
    main()
