"""Killed at any point: what is there is whole, and the next start goes on as if nothing had been."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import onnx
import pytest
import torch
from helpers.bundle_commands import ROOT, TINY, write_task
from helpers.equality import equal
from helpers.nnunet_task import (
    CUT,
    FULLRES,
    SHALLOW,
    TWO_MEMBERS,
    Prepared,
    ProXTrainerQuick,
    ProXTrainerTiny,
    bare_model,
    bare_plans,
    cut_plans,
    make_trainer,
    run,
    training_on,
    write_held_out,
    write_trainers,
)
from nnunetv2.run.run_training import maybe_load_checkpoint
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from monai_prox.cli.app import app
from monai_prox.export.folder import LISTING
from monai_prox.files import UNFINISHED
from monai_prox.search.storage import open_storage
from monai_prox.search.study import Search
from monai_prox.training.engine import Engine
from monai_prox.training.expansion import Expansion

pytest_plugins = ["helpers.nnunet_fixtures"]
# Forks of a process of its own: no other test has left threads behind, nor has a fixture been made twice
pytestmark = [pytest.mark.slow, pytest.mark.alone]


def half_of_a_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(bytes(content)[: len(content) // 2])


def half_of_a_text(path: Path, text: str) -> None:
    half_of_a_file(path, text.encode())


def half_of_tensors(data: Any, file: Any, save: Callable[..., None] = torch.save) -> None:
    save(data, buffer := io.BytesIO())
    if isinstance(file, str | Path):
        half_of_a_file(Path(file), buffer.getvalue())


def half_of_a_line(journal: Any, logs: list[dict[str, Any]]) -> None:
    journal.lock.acquire()
    with journal.path.open("a") as file:
        file.write(json.dumps(logs[0])[:20])


HALVES: Mapping[Any, Callable[..., None]] = {
    Path.write_bytes: half_of_a_file,
    Path.write_text: half_of_a_text,
    torch.save: half_of_tensors,
    JournalFileBackend.append_logs: half_of_a_line,
}
Points = Mapping[str, tuple[Any, str]]  # by name, the functions at whose calls a process may be killed
WRITES: Points = {
    "half of a file": (Path, "write_bytes"),
    "half of a text": (Path, "write_text"),
    "half of the tensors": (torch, "save"),
    "a flush": (os, "fsync"),
    "a replacement": (Path, "replace"),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


# ---------------------------------------------------------------------- killing
@dataclass(frozen=True)
class Kill:
    """At the call ``number`` of a point, from 1, or after so many seconds."""

    point: str | None
    number: float
    signal: signal.Signals


def fork(work: Callable[[], object], points: Points, kill: Kill | None, counts: Path | None = None) -> int:
    """Exit code of a process that does ``work``, negative where a signal has ended it; writes how often it came by points."""
    child = os.fork()
    if child == 0:
        try:
            passed = arm(points, kill)
            work()
            if counts is not None:
                counts.write_text(json.dumps(passed))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if kill is not None and kill.point is None:
        end = time.monotonic() + kill.number
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, kill.signal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def arm(points: Points, kill: Kill | None) -> Counter[str]:
    """Makes this process count the calls of ``points``, and die at one."""
    passed: Counter[str] = Counter()

    def watch(point: str, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def watched(*args: Any, **keywords: Any) -> Any:
            passed[point] += 1
            if kill is not None and (point, passed[point]) == (kill.point, kill.number):
                if function in HALVES:
                    HALVES[function](*args)
                os.kill(os.getpid(), kill.signal)
            return function(*args, **keywords)

        setattr(owner, name, watched)

    for point, (owner, name) in points.items():
        watch(point, owner, name)
    return passed


@dataclass(frozen=True)
class Training:
    """A training that can go on.

    run: trains in a folder, from the newest checkpoint there. results: what has to come out of it, however often it was killed.
    epochs: how many it has. points: where it is killed, beside the writing of files.
    """

    run: Callable[[Path], object]
    results: Callable[[Path], dict[str, Any]]
    epochs: int
    points: Points

    def survives(self, kills: int, folder: Path, seed: int) -> None:
        generator, points = random.Random(seed), {**WRITES, **self.points}
        start = time.monotonic()
        assert fork(partial(self.run, folder / "undisturbed"), points, None, folder / "counts") == 0
        seconds = time.monotonic() - start
        passed, expected = json.loads((folder / "counts").read_text()), self.results(folder / "undisturbed")
        assert set(passed) == set(points), "each point is passed"
        places, signals = itertools.cycle([*points, None]), itertools.cycle(SIGNALS)
        folders = (folder / f"training {number}" for number in itertools.count())
        training, killed = next(folders), 0
        while killed < kills:
            point = next(places)
            if point is None:
                kill = Kill(None, generator.uniform(0, seconds), next(signals))
            else:  # within the next two epochs
                kill = Kill(point, generator.randint(1, 2 * passed[point] // self.epochs or 1), next(signals))
            code = fork(partial(self.run, training), points, kill)
            contents(training, without=NNUNETS)
            if code:
                assert code == -kill.signal, kill
                killed += 1
            else:  # it was done before; the next kills are another training's
                assert equal(self.results(training), expected), kill
                training = next(folders)
        assert fork(partial(self.run, training), points, None) == 0
        assert equal(self.results(training), expected)
        assert not unfinished(training)


def unfinished(folder: Path) -> list[Path]:
    return list(folder.rglob(f"*{UNFINISHED}"))


def onnx_model(path: Path) -> bytes:
    onnx.checker.check_model(onnx.load(path))
    return path.read_bytes()


def json_data(path: Path) -> Any:
    """Of the list of a folder's files the names: a TorchScript file's digest changes with the second it was written in."""
    data = json.loads(path.read_text())
    return sorted(data["files"]) if path.name == LISTING else data


READERS: Mapping[str, Callable[[Path], Any]] = {
    ".pth": lambda path: torch.load(path, weights_only=True),
    ".pt": lambda path: torch.load(path, weights_only=True),
    ".ts": lambda path: torch.jit.load(str(path)).state_dict(),
    ".json": json_data,
    ".onnx": onnx_model,
}
# Which nnU-Net writes, in place, and every time that a training starts or ends
NNUNETS = {"plans.json", "dataset.json", "dataset_fingerprint.json", "debug.json", "summary.json"}


def contents(path: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """What is in the files of a folder, or in a file; those that can be read are whole."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and file.name not in without]
    finished = [file for file in files if not any(part.endswith(UNFINISHED) for part in file.parts)]
    return {str(file.relative_to(path)): READERS.get(file.suffix, Path.read_bytes)(file) for file in finished}


# ---------------------------------------------------------------------- trainings
class Often(ProXTrainerTiny):
    epochs = 6

    def initialize(self) -> None:
        super().initialize()
        self.save_every = 2


def train(prepared: Prepared, plans: Mapping[str, Any], cls: type, results: Path) -> None:
    with training_on(prepared, results):
        trainer = make_trainer(plans, prepared.dataset(), cls=cls, continue_training=True)
        maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
        trainer.run_training()


def test_a_training_by_nnunet(phantom: Prepared, tmp_path: Path) -> None:
    plans = cut_plans(phantom.plans(), FULLRES, CUT, (20, 24, 20))

    def results(folder: Path) -> dict[str, Any]:
        (fold,) = folder.rglob("fold_0")
        final = torch.load(fold / "checkpoint_final.pth", weights_only=True)
        # But the time it took, and nnU-Net's running mean of the Dice, summed up in as many digits as it has been saved with
        mean = final.pop("_best_ema"), final["logging"].pop("ema_fg_dice")
        assert np.isfinite(mean[0]) and len(mean[1]) == Often.epochs
        final["logging"] = {name: of for name, of in final["logging"].items() if "timestamps" not in name}
        return {"final": final, "family": json.loads((fold / "family.json").read_text())}

    points: Points = {
        "a step": (Engine, "step"),
        "a stage": (Expansion, "_enter"),
        "validation": (Often, "validation_step"),
        "the end of an epoch": (Often, "on_epoch_end"),
    }
    Training(partial(train, phantom, plans, Often), results, Often.epochs, points).survives(20, tmp_path, seed=1)


def test_a_training_by_nnunets_command(phantom: Prepared, tmp_path: Path) -> None:
    """Killed within an epoch, and within the validation after the last one."""
    name = "nnUNetPlansKilled"
    plans = cut_plans(phantom.plans(), FULLRES, name, (20, 24, 20), prox={"space": TWO_MEMBERS})
    phantom.write_plans(plans)
    assert fork(partial(train, phantom, plans, ProXTrainerQuick, tmp_path / "undisturbed"), {}, None) == 0
    trainers = write_trainers(tmp_path / "trainers", ProXTrainerQuick)
    env = phantom.environment(nnUNet_extTrainer=trainers, nnUNet_results=tmp_path / "killed", nnUNet_n_proc_DA="0")
    command = ["nnUNetv2_train", phantom.identifier, FULLRES, 0, "-tr", "ProXTrainerQuick", "-p", name, "-device", "cpu", "--c"]
    fold = Path(phantom.name, f"ProXTrainerQuick__{name}__{FULLRES}", "fold_0")
    killed, undisturbed = tmp_path / "killed" / fold, tmp_path / "undisturbed" / fold
    for until, kill in zip(("checkpoint_best.pth", "checkpoint_final.pth"), SIGNALS, strict=True):
        process = subprocess.Popen([Path(sys.executable).parent / command[0], *map(str, command[1:])], env=env)
        while not (killed / until).is_file():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(kill)
        assert process.wait() == -kill
    run(command, env)
    made = [torch.load(of / "checkpoint_final.pth", weights_only=True)["network_weights"] for of in (killed, undisturbed)]
    assert equal(*made)
    assert all(member["dice"]["mean"] is not None for member in json.loads((killed / "family.json").read_text())["members"])


def test_a_training_of_a_bundle(tmp_path: Path) -> None:
    task, epochs = write_task(tmp_path, "hippocampus_prox"), 6

    def run(folder: Path) -> None:
        models = folder / "models"
        saved = sorted(models.glob("checkpoint_epoch=*.pt"), key=lambda path: int(path.stem.partition("=")[2]))
        places = {"dataset_dir": str(task), "ckpt_dir": str(models), "output_dir": str(folder / "eval")}
        places |= {"bundle_root": str(ROOT / "bundles" / "hippocampus_prox")}
        settings = TINY | places | {"epochs": epochs, "val_interval": 2} | ({"ckpt": str(saved[-1])} if saved else {})
        config = ROOT / "bundles/hippocampus_prox/configs/train.json"
        monai.bundle.run(config_file=str(config), logging_file=False, **settings)

    def results(folder: Path) -> dict[str, Any]:
        files = {
            name: torch.load(folder / "models" / name, weights_only=True)
            for name in ("model.pt", f"checkpoint_epoch={epochs}.pt")
        }
        return files | {"family": json.loads((folder / "models" / "family.json").read_text())}

    points: Points = {
        "a step": (Engine, "step"),
        "a stage": (Expansion, "_enter"),
        "validation": (monai.engines.SupervisedEvaluator, "_iteration"),
    }
    Training(run, results, epochs, points).survives(14, tmp_path, seed=2)


# ---------------------------------------------------------------------- exports
@pytest.mark.parametrize(
    ("format", "output"), [("nnunet", "member"), ("bundle", "member"), ("onnx", "member.onnx"), ("torchscript", "member.ts")]
)
def test_an_export(format: str, output: str, bare: Path, tmp_path: Path) -> None:
    """In place of another: there is the old one, or the new one, or, between two names, none."""
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))
    generator, points = random.Random(format), {**WRITES, "a new name": (Path, "rename")}

    def run(member: str, folder: str) -> Callable[[], object]:
        (tmp_path / folder).mkdir(exist_ok=True)
        where = ["--subnet", member, "--format", format, "--output", str(tmp_path / folder / output), "--overwrite"]
        return lambda: app(["export", str(model.path), *where], standalone_mode=False)

    run("largest", "largest")()  # in this process: what a first export makes, its forks have
    assert fork(run("smallest", "smallest"), points, None, tmp_path / "counts") == 0
    made = {member: contents(tmp_path / member / output) for member in ("largest", "smallest")}
    passed = json.loads((tmp_path / "counts").read_text())
    for number in range(2):
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        shutil.copytree(tmp_path / "largest", tmp_path / "here")
        point = generator.choice(sorted(passed))
        kill = Kill(point, generator.randint(1, passed[point]), SIGNALS[number])
        assert fork(run("smallest", "here"), points, kill) == -kill.signal
        now = contents(tmp_path / "here" / output)
        assert any(equal(now, whole) for whole in ({}, *made.values())), kill
        assert fork(run("smallest", "here"), points, None) == 0
        assert equal(contents(tmp_path / "here" / output), made["smallest"])
        assert not unfinished(tmp_path / "here")


# ---------------------------------------------------------------------- the search
def test_a_search(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been scored is not lost; a killed process costs its running trial."""
    model = bare_model(bare_plans())
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["case_0", "case_1"]).parent))
    # Of Optuna's lock: else each start after a kill that left one waits half a minute
    monkeypatch.setattr(JournalFileSymlinkLock.__init__, "__defaults__", (3,))
    points: Points = {
        "half of a line": (JournalFileBackend, "append_logs"),
        "a score": (Search, "_scores"),
        "a flush": (os, "fsync"),
        "a replacement": (Path, "replace"),
    }
    output, generator, few = tmp_path / "search", random.Random(3), ["--cases", "1", "--finalists", "2"]

    def run(trials: int) -> None:
        app(["search", str(model.path), *few, "--trials", str(trials), "-o", str(output)], standalone_mode=False)

    def scored() -> dict[int, Any]:
        """By number of the trial; and how many trials are not finished."""
        if not (output / "study.journal").is_file():
            return {}
        storage = open_storage(str(output / "study.journal"))
        trials = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
        assert sum(trial.state == TrialState.RUNNING for trial in trials) <= kills
        return {trial.number: trial.user_attrs for trial in trials if trial.state == TrialState.COMPLETE}

    before = dict[int, Any]()
    for kills, point in enumerate(itertools.islice(itertools.cycle(points), 8), 1):
        kill = Kill(point, generator.randint(1, 3), SIGNALS[kills % 2])
        assert fork(partial(run, len(before) + 3), points, kill) == -kill.signal, kill
        contents(output)
        now = scored()
        assert before.items() <= now.items()
        before = now
    trials = len(before) + 3
    assert fork(partial(run, trials), points, None) == 0
    assert before.items() <= scored().items()
    (found,) = output.glob("*/front.json")
    front = json.loads(found.read_text())
    assert len(front["members"]) == trials and len(front["finalists"]) == 2
