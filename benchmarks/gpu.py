"""What a training takes on a GPU: the stock network, the family and the smallest network, and nnU-Net's loader beside them.

    python -m benchmarks.gpu --results gpu.json                                    at most 7 minutes and its start
    python -m benchmarks.gpu --results cpu.json --device cpu --size tiny           a few minutes, no figures of a GPU
    python -m benchmarks.gpu --table gpu.json --page docs/gpu.md

No dataset and no network are needed. The plans are nnU-Net's for MSD Task04 (Hippocampus) and Task01 (BrainTumour), cases are
synthetic, and training is nnU-Net's own and ProXTrainer's, with mixed precision as on any GPU. Hours are those of nnU-Net's
1000 epochs of 250 steps, without validation.

What is new in a family's training stands beside the old way: one update a batch and "fill" while nnU-Net's loader runs, and the
stock network with the same loader; the pool of random members, and an epoch that draws all of them anew; compiled members and
eager ones.

The tests of tests/gpu come first, if pytest is there, and take a quarter of the seconds at most. Each part gets a share of the
seconds that are left, and one that is stuck or far too slow ends, so that the others have their turn. Results are written after
each part, so a run that is cut short keeps what it has, and the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from benchmarks.about import about
from benchmarks.gpu_hours import EPOCHS, STEPS, hours
from benchmarks.gpu_parts import PARTS, measure
from benchmarks.gpu_table import put_into, table
from benchmarks.gpu_task import SIZES, SyntheticTask
from benchmarks.gpu_tests import run_tests, tests_line
from monai_prox.core import cost
from monai_prox.errors import ProXError, refusing
from monai_prox.files import make_folder, read_json, replacing, write_json

LONGEST = 86_400  # seconds that may be asked for: a day
SAME = ("settings", "machine", "versions", "commit")  # in all calls that add to one result
RESERVE = 0.05  # of the seconds: a part may take a little longer than its share
LONGER = (2, 0.1)  # a part ends after twice its share and a tenth of all seconds, so that the others have their turn
GRACE = 10  # seconds until a part that is stuck in native code ends with the process
TESTS = "tests"  # the name of tests/gpu among the parts
TESTS_SHARE = 0.25  # of the seconds, at most
REPEAT = 5  # seconds until the next OutOfTime, if a library has caught the first one


class OutOfTime(BaseException):
    """No Exception, which torch's compiler would take for an error of its own and go on."""


class PartOutOfTime(OutOfTime):
    """Of a part, and not of the others."""


@contextmanager
def deadline(seconds: float) -> Iterator[float]:
    """Yields when the time is up, on time.monotonic's clock; then it raises OutOfTime."""

    def end(*_: Any) -> None:
        raise OutOfTime

    former = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True)
    try:
        yield time.monotonic() + seconds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def limited(seconds: float, end: float) -> Iterator[None]:
    """Within a ``deadline`` that yielded ``end``: raises PartOutOfTime after so many seconds, if the deadline is not before."""

    def stop(*_: Any) -> None:
        raise PartOutOfTime

    if seconds >= end - time.monotonic():
        yield
        return
    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, former)
        signal.setitimer(signal.ITIMER_REAL, max(end - time.monotonic(), 0.001), REPEAT)  # 0 would switch it off


def begin(path: Path, described: dict[str, Any]) -> dict[str, Any]:
    """The result so far, or a new one. Raises ProXError if the file is something else or of other settings."""
    parts = (TESTS, "plans", "measured", "hours", "failures")
    new = described | {part: {} for part in parts}
    if not path.exists():
        return new
    found = read_json(path)
    whole = isinstance(found, dict) and set(found) == set(new) and all(isinstance(found[part], dict) for part in parts)
    if not whole or not all(isinstance(task, dict) for task in found["measured"].values()):
        raise ProXError(f"{path} is no result of this benchmark; give another --results")
    for key in SAME:
        if found[key] != described[key]:
            raise ProXError(
                f"{path} was made with other {key}: {found[key]}, and now they are {described[key]}; give another --results "
                "or remove it"
            )
    return found | {"failures": {}}


def describe(task: SyntheticTask) -> dict[str, Any]:
    """The plan's network."""
    of_largest = cost.member_cost(task.family, task.family.space.largest(), task.workload.patch)
    return task.workload._asdict() | {"parameters": of_largest.parameters, "macs": of_largest.macs}


def run(options: argparse.Namespace) -> int:
    """How many of the parts that were asked for are missing in the end."""
    torch.set_num_threads(1)  # as nnU-Net's command does for a GPU
    torch.backends.cudnn.benchmark = options.device == "cuda"
    settings = {"device": options.device, "size": options.size, "epochs": EPOCHS, "steps_per_epoch": STEPS, "seed": 0}
    make_folder(options.results.parent)
    result = begin(options.results, about(settings, threads=1))
    write_json(result, options.results)  # fails now rather than after the first part
    workloads = SIZES[options.size]
    missing = [(part, name) for part in options.parts for name in workloads if part not in result["measured"].get(name, {})]
    with tempfile.TemporaryDirectory(prefix="monai_prox_gpu_") as folder, deadline(options.seconds) as end:
        try:
            if options.tests and not result[TESTS].get("finished"):
                result[TESTS] = run_tests(options.device, TESTS_SHARE * options.seconds)
                print(tests_line(result[TESTS]), file=sys.stderr, flush=True)
                write_json(result, options.results)
            tasks = {
                name: SyntheticTask(name, workload, Path(folder), options.device, options.processes)
                for name, workload in workloads.items()
            }
            for name in dict.fromkeys(name for _, name in missing):
                tasks[name].write_cases()
                result["plans"][name] = describe(tasks[name])
            for number, (part, name) in enumerate(missing):
                left = end - time.monotonic() - RESERVE * options.seconds
                if left <= 0:
                    raise OutOfTime
                share = left * PARTS[part].share / sum(PARTS[other].share for other, _ in missing[number:])
                print(f"{name}, {part}: {share:.1f} of {left:.0f} seconds", file=sys.stderr, flush=True)
                add(result, part, tasks[name], share, LONGER[0] * share + LONGER[1] * options.seconds, end)
                write_json(result, options.results)
        except OutOfTime:
            print("the time is up", file=sys.stderr)
    return sum(part not in result["measured"].get(name, {}) for part, name in missing)


def add(result: dict[str, Any], part: str, task: SyntheticTask, seconds: float, most: float, end: float) -> None:
    """Measures a part; if it fails or takes longer than ``most``, notes why, so that the others are measured all the same."""
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), limited(most, end):  # nnU-Net prints a lot
            measured = measure(part, task, seconds)
    except PartOutOfTime:
        result["failures"][f"{task.name}, {part}"] = f"took more than {most:.0f} seconds; {seconds:.0f} were its share"
    except Exception as error:
        result["failures"][f"{task.name}, {part}"] = f"{type(error).__name__}: {' '.join(str(error).split()):.500}"
    else:
        result["measured"].setdefault(task.name, {})[part] = measured
        result["hours"][task.name] = hours(result["measured"][task.name])


def write_table(source: Path, page: Path | None) -> None:
    result = read_json(source)
    with refusing(f"{source} is no result of this benchmark"):
        text = table(result)
    print(text)
    if page is not None:
        changed = put_into(page.read_text(), text)
        with replacing(page) as temporary:
            temporary.write_text(changed)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--results", type=Path, help="file to write, or to go on with")
    what.add_argument("--table", type=Path, help="file with results to print as a table")
    parser.add_argument("--page", type=Path, help="document that gets the table between its markers")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="stock")
    parser.add_argument("--seconds", type=float, default=420, help="at most, without the imports; 420 by default")
    parser.add_argument("--parts", nargs="+", choices=(TESTS, *PARTS), help="all by default; tests are those of tests/gpu")
    parser.add_argument("--processes", type=int, help="of the process group; by default one a GPU, on a CPU one")
    options = parser.parse_args(arguments)
    if options.results is None:
        return options
    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --size tiny rehearses the run")
    if not 0 < options.seconds <= LONGEST:
        parser.error(f"--seconds must be positive and at most {LONGEST}, got {options.seconds:g}")
    if options.page is not None:
        parser.error("--page gets a table: give --table, the file with the results, and not --results")
    if options.processes is None:
        options.processes = torch.cuda.device_count() if cuda else 1
    if options.processes < 1:
        parser.error(f"--processes must be positive, got {options.processes}")
    possible = [name for name, part in PARTS.items() if cuda or not part.cuda_only]
    options.tests = options.parts is None or TESTS in options.parts
    options.parts = [name for name in possible if name in (options.parts or possible)]
    if not options.parts and not options.tests:
        parser.error(f"these parts need a GPU; on a CPU there are {', '.join(possible)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    try:
        if options.table is not None:
            write_table(options.table, options.page)
            return
        missing = run(options)
    except (ProXError, ValueError) as error:
        raise SystemExit(f"{error}") from None
    except OSError as error:
        raise SystemExit(f"cannot write {error.filename}: {error.strerror}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on") from None
    if missing:
        raise SystemExit(f"{missing} parts are missing; failures are noted in {options.results}; the same command goes on")


if __name__ == "__main__":
    main()
