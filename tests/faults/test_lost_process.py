"""A process of several is killed, or fails: all end, say why, leave nothing running, and the training goes on from there."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.bundle_commands import TINY, arguments, copy_bundles, write_task
from helpers.equality import assert_equal
from helpers.nnunet_ranks import FAULT, LOST_IN, ProXTrainerOnCPU
from helpers.nnunet_task import FULLRES, TWO_MEMBERS, Prepared, cut_plans, folders, make_trainer
from helpers.ranks import together
from nnunetv2.run.run_training import maybe_load_checkpoint

from monai_prox.trained.nnunet_checkpoint import load_checkpoint

pytest_plugins = ["helpers.nnunet_fixtures"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="without /proc nobody knows what still runs"),
]

TESTS = Path(__file__).parents[1]
PLANS = "nnUNetPlansRanks"
FORK = multiprocessing.get_context("fork")
MARK = "MONAI_PROX_TEST_MARK"
SECONDS = 300  # that a command may take


# ---------------------------------------------------------------------- commands
def ended(command: Sequence[object], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of this Python until it and all that it has started have ended; what hangs says where."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    few = {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "PYTHONPATH": path}
    of_ours = {MARK: str(cwd), "PYTHONFAULTHANDLER": "1"}
    line, mark = [sys.executable, "-W", "ignore", *map(str, command)], f"{MARK}={cwd}"
    with (cwd / "out.txt").open("w+") as out, (cwd / "err.txt").open("w+") as err:
        process = subprocess.Popen(line, cwd=cwd, env=os.environ | few | of_ours | variables, stdout=out, stderr=err)
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            for number in reversed(running(mark)):  # what was started last first: who starts it would end it
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGABRT)
                    time.sleep(1)
            process.wait()
            raise AssertionError(f"no end after {SECONDS} s:\n{(cwd / 'err.txt').read_text()[-20_000:]}") from None
    for _ in range(60):
        if not running(mark):
            return subprocess.CompletedProcess(line, code, (cwd / "out.txt").read_text(), (cwd / "err.txt").read_text())
        time.sleep(1)
    raise AssertionError(f"{[Path(f'/proc/{number}/cmdline').read_text() for number in running(mark)]} still run")


def running(variable: str) -> list[int]:
    """The processes that have ``variable`` in their environment, in the order of their numbers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{variable}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:  # of somebody else, or gone
            continue
    return sorted(found)


# ---------------------------------------------------------------------- nnU-Net
@dataclass(frozen=True)
class Training:
    environment: dict[str, str]
    plans: dict[str, Any]
    dataset: dict[str, Any]

    @property
    def fold(self) -> Path:
        (fold,) = Path(self.environment["nnUNet_results"]).glob(f"*/*__{PLANS}__{FULLRES}/fold_0")
        return fold

    def copy(self, folder: Path) -> Training:
        """For processes without loaders of their own."""
        shutil.copytree(self.environment["nnUNet_results"], folder)
        changed = {"nnUNet_results": str(folder), "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"}
        return Training(self.environment | changed, self.plans, self.dataset)


class Killed(NamedTuple):
    training: Training
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def killed(phantom: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """nnU-Net's command, but for NCCL and the GPUs, whose second process was killed in the middle of an epoch."""
    root = tmp_path_factory.mktemp("killed")
    plans = cut_plans(phantom.plans(), FULLRES, PLANS, (16, 24, 16), prox={"space": TWO_MEMBERS}, batch_size=4)
    phantom.write_plans(plans)
    results = {"nnUNet_results": str(root / "results")}
    environment = {name: str(folder) for name, folder in folders(phantom.root).items()} | results
    training = Training(environment, plans, phantom.dataset())
    command = ["-m", "helpers.nnunet_ranks", 990, FULLRES, 0, "-p", PLANS, "-num_gpus", 2]
    return Killed(training, ended(command, root, **environment, **{FAULT: "kill"}))


def test_a_killed_process_ends_nnunets_training_with_a_message_and_a_whole_checkpoint(killed: Killed) -> None:
    training, done = killed
    assert done.returncode == 1
    assert "ProcessExitedException: process 1 terminated with signal SIGKILL" in done.stderr
    assert (
        "2 processes train together: if one ends, all do. The same command with --c, also with another -num_gpus" in done.stdout
    )
    latest = load_checkpoint(training.fold / "checkpoint_latest.pth")
    assert latest["current_epoch"] == LOST_IN[0]
    assert not list(training.fold.glob(".*"))


def go_on(rank: int, training: Training) -> dict[str, Any]:
    """What is there when the training continues, and when it has ended and validated whole cases."""
    os.environ.update(training.environment)
    multiprocessing.get_context = lambda _: FORK  # nnU-Net's pools start faster so
    trainer = make_trainer(training.plans, training.dataset, cls=ProXTrainerOnCPU, continue_training=True)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    start = {
        "epoch": trainer.current_epoch,
        "stage": trainer.engine.stage.name,
        "probes": list(trainer.progress),
        "monitor": trainer.engine.state_dict()["monitor"],
        "network": deepcopy(dict(trainer.supernet.network.state_dict())),
        "optimizer": deepcopy(trainer.optimizer.state_dict()),
    }
    trainer.run_training()
    trainer.perform_actual_validation()
    return {"start": start, "epoch": trainer.current_epoch, "weights": dict(trainer.supernet.state_dict())}


@pytest.mark.parametrize("processes", [1, 4])
def test_nnunets_training_goes_on_in_any_number_of_processes(processes: int, killed: Killed, tmp_path: Path) -> None:
    training = killed.training.copy(tmp_path / "results")
    checkpoint = load_checkpoint(training.fold / "checkpoint_latest.pth")
    ranks = together(processes, go_on, training)
    for rank in ranks:
        start = rank["start"]
        assert start["epoch"] == LOST_IN[0] and start["stage"] == "resolution"
        assert start["probes"] == checkpoint["prox"]["probes"] and len(start["probes"]) > 0
        assert start["monitor"] == checkpoint["prox"]["engine"]["monitor"] is not None
        assert_equal(start["network"], dict(checkpoint["network_weights"]))
        assert_equal(start["optimizer"], checkpoint["optimizer_state"])
        assert rank["epoch"] == 5
        assert_equal(rank["weights"], ranks[0]["weights"])
    log = max(training.fold.glob("training_log_*.txt")).read_text()
    assert log.count("Training done.") == 1
    family = json.loads((training.fold / "family.json").read_text())
    assert [entry["epoch"] for entry in family["progress"]] == [1, 2, 4]
    assert {member["name"] for member in family["members"] if member["dice"]} == {"smallest", "largest"}
    for folder in ("validation", "members/smallest/validation"):  # of all processes' cases
        assert len(json.loads((training.fold / folder / "summary.json").read_text())["metric_per_case"]) == 2


def test_an_error_of_one_process_is_what_nnunets_training_ends_with(killed: Killed, tmp_path: Path) -> None:
    training = killed.training.copy(tmp_path / "results")
    training.environment[FAULT] = "error"
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as error:
        together(2, go_on, training)
    assert str(error.value).rstrip().endswith("\nmonai_prox.errors.ProXError: case_7 is damaged")


# ---------------------------------------------------------------------- bundles
SETTINGS = TINY | {"iterations": 2, "batch_size": 1, "num_workers": 1, "validation_cases": 4}
KILL = [
    "$import os",
    "$import signal",
    "$from ignite.engine import Events",
    "$@train#trainer.add_event_handler(Events.ITERATION_STARTED(once=6), "
    "lambda: dist.get_rank() == 1 and os.kill(os.getpid(), signal.SIGKILL))",
]
LEAVE = "$torch.save(@prox.supernet.state_dict(), @ckpt_dir + f'/rank_{dist.get_rank()}.pt')"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder with the bundles and a task for hippocampus_prox."""
    copy_bundles(tmp_path)
    write_task(tmp_path, "hippocampus_prox", cases=8)
    return tmp_path


def torchrun(folder: Path, processes: int, run: Sequence[str], **overrides: Any) -> subprocess.CompletedProcess[str]:
    """Trains hippocampus_prox; ``run`` has the expressions that MONAI evaluates."""
    (folder / "run.json").write_text(json.dumps({"run": list(run)}))
    files = [*(f"bundles/hippocampus_prox/configs/{name}.json" for name in ("train", "multi_gpu_train")), "run.json"]
    places = {"dataset_dir": "Task990_Hippocampus", "ckpt_dir": "models", "output_dir": "eval"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "monai.bundle"]
    return ended([*launcher, "run", "--config_file", files, *arguments(SETTINGS | places | overrides)], folder)


def test_a_killed_process_ends_a_bundles_training_which_goes_on_with_more_processes(bundle: Path) -> None:
    """An epoch has as many iterations in four as in two."""
    done = torchrun(bundle, 2, [*KILL, "$@train#trainer.run()"])
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL) received by PID" in done.stderr.partition("Root Cause")[2]
    said = done.stdout + done.stderr
    assert said.count("2 processes train together: if one ends, all do. The same command with --ckpt and the last") == 1
    assert [path.name for path in (bundle / "models").glob("checkpoint*")] == ["checkpoint_epoch=2.pt"]
    start = torch.load(bundle / "models" / "checkpoint_epoch=2.pt", weights_only=True)
    assert start["expansion"]["engine"]["stage"] == 1

    # With a loader process each, they would be eight on two cores
    done = torchrun(bundle, 4, ["$@train#trainer.run()", LEAVE], ckpt="models/checkpoint_epoch=2.pt", num_workers=0)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "Epoch[2]" not in said and said.count("Epoch[3] Complete") == 1 and said.count("ProX stage 'width' opens") == 1
    ranks = [torch.load(bundle / "models" / f"rank_{rank}.pt", weights_only=True) for rank in range(4)]
    for rank in ranks:
        assert_equal(dict(rank), dict(ranks[0]))
    end = torch.load(bundle / "models" / "checkpoint_epoch=5.pt", weights_only=True)
    assert [of["expansion"]["trainer"]["epoch_length"] for of in (start, end)] == [2, 2]
    assert len(list((bundle / "eval").glob("events.out.tfevents.*"))) == 2  # of the two commands


def test_an_error_of_one_process_is_the_root_cause_that_torchrun_names(bundle: Path) -> None:
    image = next((bundle / "Task990_Hippocampus" / "labelsTr").iterdir())
    loaded = nib.load(image)
    nib.save(nib.Nifti1Image(np.full(loaded.shape, 7, np.uint8), loaded.affine), image)
    done = torchrun(bundle, 2, ["$@train#trainer.run()"], validation_cases=2)
    assert done.returncode == 1
    cause = done.stderr.partition("Root Cause")[2]
    assert "traceback : error: " in cause and image.name in cause, done.stderr[-3000:]
