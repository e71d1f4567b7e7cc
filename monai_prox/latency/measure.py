"""Measures how long members of a family take on this device, and what a case takes beside them.

It needs Python, numpy and onnxruntime. For what a case takes beside the network it needs scipy and SimpleITK, too, which the
prediction needs as well, and monai_prox/ beside this script, which a pack has.

python measure.py                    # writes device.json
python measure.py --threads 2 --output clinic.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

FORMAT = 1
LISTED = "members.json"
ROUNDS = 3  # over all members, so that other work of the machine affects all of them
SECONDS = 0.4  # minimum per member and round, unless MOST runs take less
LEAST, MOST = 3, 30  # runs per member and round
SESSIONS = 6  # members whose memory is measured, each in a process of its own
RUN = 3  # times that each of them runs: from the second on ONNX Runtime allocates at once what a run takes, beside what it has
LOADED = (  # what a prediction imports beside numpy and a runtime; nibabel where it is there, for some families are read by it
    *("scipy.ndimage", "SimpleITK", "nibabel", "typer", "rich.progress"),
    *("monai_prox.runtime.model", "monai_prox.runtime.prediction", "monai_prox.cli.predict_command"),
)
STATUS = Path("/proc/self/status")  # of Linux

Run = Callable[[Any], Any]


class CannotMeasureError(RuntimeError):
    """Something is missing on this device, or is too old."""


def measure(
    members: list[tuple[Callable[[], Run], tuple[int, ...]]], progress: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Measures the latency of members.

    Args:
        members: for each member a function that opens it, and the shape of its input.
        progress: called with a text before each measurement.

    Returns:
        For each member the median and the quartiles in milliseconds, and the number of runs.
    """
    import numpy as np  # imported here, so that main can say that it is missing

    times: list[list[float]] = [[] for _ in members]
    for turn in range(ROUNDS):
        for number, (opened, shape) in enumerate(members):
            progress(f"round {turn + 1} of {ROUNDS}, member {number + 1} of {len(members)}")
            run, x = opened(), np.random.default_rng(0).normal(size=shape).astype(np.float32)
            run(x)  # the first run allocates
            start = time.perf_counter()
            for done in range(1, MOST + 1):
                begin = time.perf_counter()
                run(x)
                end = time.perf_counter()
                times[number].append(1e3 * (end - begin))
                if done >= LEAST and end - start >= SECONDS:
                    break
    return [
        {
            "milliseconds": float(np.median(milliseconds)),
            "quartiles": [float(np.percentile(milliseconds, percent)) for percent in (25, 75)],
            "runs": len(milliseconds),
        }
        for milliseconds in times
    ]


def device(threads: int) -> dict[str, Any]:
    """A description of this machine, without its host name.

    Args:
        threads: number of threads that members run with.
    """
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model")))
    except (OSError, StopIteration):
        pass
    return {"processor": name, "system": platform.system(), "cores": os.cpu_count() or 1, "threads": threads}


def profile(
    family: str,
    runtime: str,
    threads: int,
    members: list[dict[str, Any]],
    pipeline: dict[str, Any] | None = None,
    process_mb: float | None = None,
) -> dict[str, Any]:
    """The content of a device's file.

    Args:
        family: fingerprint of the family.
        runtime: name and version of the runtime.
        threads: number of threads.
        members: for each member "subnet" and what ``measure`` returned, for some also "session_mb".
        pipeline: what a case takes beside the network, see ``monai_prox.latency.parts``, or None if it was not measured.
        process_mb: megabytes of a process before it opens a member, or None if they were not measured.
    """
    return {
        "format": FORMAT,
        "family": family,
        "device": device(threads),
        "runtime": runtime,
        "date": date.today().isoformat(),
        "pipeline": pipeline,
        "process_mb": process_mb,
        "members": members,
    }


def onnx_run(path: Path, threads: int) -> Run:
    """Opens an ONNX file.

    Args:
        path: path of the file.
        threads: number of threads.

    Returns:
        A function that runs the network on an array.

    Raises:
        CannotMeasureError: this version of onnxruntime cannot read the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise CannotMeasureError(
            f"onnxruntime {onnxruntime.__version__} cannot read {path.name}: {' '.join(str(error).split())[-120:]}; "
            "with a newer one it can: pip install --upgrade onnxruntime"
        ) from None
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def openvino_run(path: Path, threads: int) -> Run:
    """Opens a file by OpenVINO.

    Args:
        path: path of the file.
        threads: number of threads.

    Returns:
        A function that runs the network on an array.
    """
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled: Run = openvino.Core().compile_model(path, "CPU", settings)
    return compiled


RUNS: dict[str, Callable[[Path, int], Run]] = {"onnxruntime": onnx_run, "openvino": openvino_run}


def add_memory(
    members: Sequence[dict[str, Any]],
    files: Sequence[tuple[Path, Sequence[int]]],
    runtime: str,
    threads: int,
    progress: Callable[[str], object],
) -> float | None:
    """Measures the memory of some members, evenly spaced, and adds it to them as "session_mb".

    Args:
        members: what ``profile`` takes, changed.
        files: path and shape of the input of each member.
        runtime: one of RUNS.
        threads: number of threads.
        progress: called with a text before each measurement.

    Returns:
        Megabytes of a process before it opens a member; None where the system does not tell, as Windows.
    """
    count, processes = min(SESSIONS, len(members)), list[float]()
    for number in range(count):
        progress(f"memory of member {number + 1} of {count}")
        index = number * (len(members) - 1) // max(count - 1, 1)
        file, shape = files[index]
        words = ["--memory-of", str(file), "--runtime", runtime, "--threads", str(threads), "--shape", *map(str, shape)]
        done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.splitlines()
        found = json.loads(lines[-1]) if done.returncode == 0 and lines else None
        if found is None:
            return None
        processes.append(found["process_mb"])
        members[index]["session_mb"] = found["session_mb"]
    return median(processes)


def _memory_of(file: Path, shape: Sequence[int], runtime: str, threads: int) -> dict[str, float] | None:
    """Megabytes of this process before it opens a member, and what the member adds to its peak. None where nothing tells."""
    import numpy as np

    import_module(runtime)
    for name in LOADED:
        with suppress(ImportError):
            import_module(name)
    with suppress(ImportError):
        _read_and_write()
    x = np.zeros(shape, np.float32)
    before = _megabytes("VmRSS")
    run = RUNS[runtime](file, threads)
    for _ in range(RUN):
        run(x)
    peak = _megabytes("VmHWM")
    if before is None or peak is None:
        return None
    return {"process_mb": before, "session_mb": max(peak - before, 0.1)}


def _read_and_write() -> None:
    """A tiny image, for a library takes more once it has been used."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813 (as everybody writes it)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tiny.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 8), np.int16)), file)
        sitk.ReadImage(file)


def _megabytes(which: str) -> float | None:
    """Of this process: VmRSS, what it has now, or VmHWM, the most that it had."""
    try:
        lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines())
        return int(lines[which].split()[0]) * 1024 / 1e6
    except (OSError, KeyError, ValueError):
        return None


def main() -> None:
    """Measures, and ends with one line if something is wrong with this device."""
    try:
        _main()
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed: pip install {error.name}"
    except OSError as error:
        problem = f"{error.filename or 'a file'}: {error.strerror or error}"
    except CannotMeasureError as error:
        problem = str(error)
    else:
        return
    sys.exit(f"error: {problem}")


def _main() -> None:
    import numpy  # noqa: F401 (first: without it onnxruntime fails in many lines)
    import onnxruntime

    parser = argparse.ArgumentParser(description="Measures the members beside this script on this device.")
    parser.add_argument("-o", "--output", type=Path, default=Path("device.json"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the processor; all by default")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)  # see add_memory
    parser.add_argument("--runtime", choices=RUNS, default="onnxruntime", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of is not None:
        print(json.dumps(_memory_of(arguments.memory_of, arguments.shape, arguments.runtime, arguments.threads)))
        return
    temporary = arguments.output.with_name(arguments.output.name + ".part")
    temporary.touch()  # fails before the measurements if it cannot be written
    temporary.unlink()
    folder = Path(__file__).resolve().parent
    listed = json.loads((folder / LISTED).read_text(encoding="utf-8"))
    files = [(folder / entry["file"], tuple(entry["input"])) for entry in listed["members"]]

    def opener(file: Path) -> Callable[[], Run]:
        return lambda: onnx_run(file, arguments.threads)

    def progress(text: str) -> None:
        print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)

    measured = measure([(opener(file), shape) for file, shape in files], progress)
    members = [{"subnet": entry["subnet"], **times} for entry, times in zip(listed["members"], measured, strict=True)]
    process_mb = add_memory(members, files, "onnxruntime", arguments.threads, progress)
    pipeline, said = _beside(listed, [files[0][0], files[-1][0]], progress)
    print(file=sys.stderr)
    runtime = f"onnxruntime {onnxruntime.__version__}"
    contents = profile(listed["family"], runtime, arguments.threads, members, pipeline, process_mb)
    temporary.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    temporary.replace(arguments.output)
    print(f"{arguments.output}: {len(members)} members, {runtime}, {arguments.threads} threads", *said, sep="\n")


def _beside(listed: dict[str, Any], ends: list[Path], progress: Callable[[str], object]) -> tuple[Any, list[str]]:
    """What a case takes beside the network as plain data, None if it cannot be measured, and lines that say it.

    ends: the files of the smallest member and the largest.
    """
    try:
        from monai_prox.latency import parts, synthetic
        from monai_prox.runtime.description import Description
        from monai_prox.runtime.grid import ImageSize
        from monai_prox.runtime.model import Model
    except ModuleNotFoundError as error:
        return None, [
            f"the network alone was measured, for {error.name} is not installed; for the seconds of a case: "
            "pip install scipy SimpleITK nibabel"
        ]
    descriptions = [Model(file).description for file in ends]
    smallest, largest = descriptions
    if not isinstance(smallest, Description) or not isinstance(largest, Description):
        return None, []
    case = listed.get("case")
    size = None if case is None else ImageSize(tuple(case["shape"]), tuple(case["spacing"]))
    try:
        found = synthetic.measure_parts([smallest, largest], size, progress)
    except ModuleNotFoundError as error:
        return None, [f"the network alone was measured, for {error.name} is not installed: pip install {error.name}"]
    except ValueError as error:  # ProXError, of an image that the network is not for
        return None, [f"the network alone was measured: {error}"]
    if found is None:
        return None, []
    return found.to_json(), [] if size is None else parts.in_words(found, size, largest)


if __name__ == "__main__":
    main()
