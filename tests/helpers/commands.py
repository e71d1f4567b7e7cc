"""Commands as a shell runs them, without their start-up.

A command is a process of its own, with its own environment, folder, standard streams and exit code. But it is forked from a
process that has imported what the commands import, which takes longer than most of what they do. ``fresh`` starts a new Python
instead, so that a few tests show that the start works, too. Windows has no forks: there every command imports for itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import entry_points
from multiprocessing.context import BaseContext
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SECONDS = 600  # that a command may take
IMPORTED = [
    "fire",
    "ignite.metrics",
    "matplotlib.pyplot",
    "monai.bundle.scripts",
    "monai.handlers",
    "monai_prox.bundle.family_writer",
    "monai_prox.bundle.pipeline",
    "monai_prox.bundle.summary",
    "monai_prox.cli.app",
    "monai_prox.export.bundle",
    "monai_prox.export.device_file",
    "monai_prox.export.nnunet",
    "monai_prox.export.onnx_file",
    "monai_prox.families.monai_networks",
    "monai_prox.nnunet.trainer",
    "monai_prox.trained.door",
    "nibabel",
    "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints",
    "nnunetv2.inference.predict_from_raw_data",
    "nnunetv2.run.run_training",
    "onnxruntime",
    "onnxscript",
    "scipy.ndimage",
    "skimage.transform",
    "torch.onnx._internal.exporter._core",
    "torch.utils.tensorboard",
]
OFFLINE = (
    "NewConnectionError",
    "Temporary failure in name resolution",
    "Network is unreachable",
)
FORKS = "fork" in multiprocessing.get_all_start_methods()
APART = multiprocessing.get_context("forkserver" if FORKS else "spawn")
APART.set_forkserver_preload(IMPORTED)


def fresh(
    words: Sequence[object],
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    python: Path | str = sys.executable,
    launcher: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """A command in a new Python: a console script that lies beside ``python``, or what ``launcher`` starts, e.g. ("-m",)."""
    started = [python, *launcher, *words] if launcher else [Path(python).parent / str(words[0]), *words[1:]]
    line = list(map(str, started))
    return subprocess.run(line, cwd=cwd, env=dict(environment), capture_output=True, text=True, timeout=SECONDS, check=False)


def pip(python: Path | str, *words: object) -> None:
    """pip of an environment, which has to succeed; without a package index the test is skipped."""
    done = fresh(["pip", *words, "--quiet", "--disable-pip-version-check"], os.environ, python=python, launcher=["-m"])
    if done.returncode and any(word in done.stderr for word in OFFLINE):
        pytest.skip(f"the package index cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def forked(
    words: Sequence[object],
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    module: bool = False,
    without: Collection[str] = (),
) -> subprocess.CompletedProcess[str]:
    """A console script, or with ``module`` what ``python -m`` runs.

    without: packages that the command does not find, as if they were not installed.
    """
    line = [str(word) for word in words]
    return _apart(line, partial(_main, line, module, tuple(without)), environment, cwd)


def call(function: Callable[..., object], *arguments: Any, environment: Mapping[str, str]) -> None:
    """Calls a function of a module in a process of its own, which has to succeed."""
    done = _apart([function.__name__], partial(function, *arguments), environment, None)
    assert done.returncode == 0, f"{function.__name__} failed:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"


def _apart(
    line: list[str], main: Callable[[], object], environment: Mapping[str, str], cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        process = APART.Process(target=_run, args=(main, dict(environment), cwd or Path.cwd(), Path(folder)))
        process.start()
        try:
            process.join(SECONDS)
        finally:
            if late := process.is_alive():  # or this one is interrupted
                if FORKS:
                    with suppress(ProcessLookupError):  # it has no group of its own yet
                        os.killpg(process.ident or 0, signal.SIGKILL)
                process.kill()
                process.join()
        out, err = (Path(folder, name).read_text(errors="replace") for name in ("stdout", "stderr"))
        if late:
            raise subprocess.TimeoutExpired(line, SECONDS, out, err)
        assert process.exitcode is not None
        return subprocess.CompletedProcess(line, process.exitcode, out, err)


def _run(main: Callable[[], object], environment: dict[str, str], cwd: Path, folder: Path) -> None:
    if FORKS:
        gc.freeze()  # what was imported before the fork, as in conftest.py
        os.setsid()  # what it starts ends with it
    for stream, name in ((1, "stdout"), (2, "stderr")):
        with Path(folder, name).open("wb") as file:
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # of that environment
    os.chdir(cwd)
    if "PYTHONWARNINGS" in environment:
        warnings.simplefilter(environment["PYTHONWARNINGS"])  # type: ignore[arg-type]
    torch.set_num_threads(1)
    torch.set_num_threads = lambda _: None  # nnU-Net's commands take all cores, and on tiny layers threads wait for each other
    random.seed()  # a new Python draws others than the last one
    np.random.seed()
    os.fsync = lambda file: None  # as in conftest.py
    if FORKS:
        fork = multiprocessing.get_context("fork")
        multiprocessing.set_start_method("fork", force=True)  # nnU-Net's processes, which ask for either, start in no time so
        multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment, misc, return-value]
    BaseContext.Pool = _threads  # type: ignore[assignment, method-assign]
    try:
        main()
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # multiprocessing would leave out one that was replaced
        sys.exit(1)


def _threads(
    _context: BaseContext, processes: int | None = None, *initial: Any, maxtasksperchild: int | None = None
) -> ThreadPool:
    """In the place of a pool of processes. Forking one takes longer than what it does for a few tiny images."""
    return ThreadPool(processes, *initial)


def _main(line: list[str], module: bool, without: Collection[str]) -> None:
    for name in [*sys.modules, *without]:
        if name.partition(".")[0] in without:
            sys.modules[name] = None  # type: ignore[assignment]
    sys.argv = line
    if module:
        runpy.run_module(line[0], run_name="__main__", alter_sys=True)
    else:
        (script,) = entry_points(group="console_scripts", name=line[0])
        sys.exit(script.load()())
