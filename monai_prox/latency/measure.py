"""Measures how long members of a family take on this device. Needs Python, numpy and onnxruntime, and nothing else.

python measure.py                    # writes device.json
python measure.py --threads 2 --output clinic.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

FORMAT = 1
LISTED = "members.json"
ROUNDS = 3  # over all members, so that other work of the machine affects all of them
SECONDS = 0.4  # minimum per member and round, unless MOST runs take less
LEAST, MOST = 3, 30  # runs per member and round

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


def profile(family: str, runtime: str, threads: int, members: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of a device's file.

    Args:
        family: fingerprint of the family.
        runtime: name and version of the runtime.
        threads: number of threads.
        members: for each member "subnet" and what ``measure`` returned.
    """
    return {
        "format": FORMAT,
        "family": family,
        "device": device(threads),
        "runtime": runtime,
        "date": date.today().isoformat(),
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
    arguments = parser.parse_args()
    temporary = arguments.output.with_name(arguments.output.name + ".part")
    temporary.touch()  # fails before the measurements if it cannot be written
    temporary.unlink()
    folder = Path(__file__).resolve().parent
    listed = json.loads((folder / LISTED).read_text(encoding="utf-8"))

    def opener(file: str) -> Callable[[], Run]:
        return lambda: onnx_run(folder / file, arguments.threads)

    def progress(text: str) -> None:
        print(f"\r{text}", end="", file=sys.stderr, flush=True)

    measured = measure([(opener(entry["file"]), tuple(entry["input"])) for entry in listed["members"]], progress)
    print(file=sys.stderr)
    members = [{"subnet": entry["subnet"], **times} for entry, times in zip(listed["members"], measured, strict=True)]
    runtime = f"onnxruntime {onnxruntime.__version__}"
    temporary.write_text(
        json.dumps(profile(listed["family"], runtime, arguments.threads, members), indent=2) + "\n", encoding="utf-8"
    )
    temporary.replace(arguments.output)
    print(f"{arguments.output}: {len(members)} members, {runtime}, {arguments.threads} threads")


if __name__ == "__main__":
    main()
