"""Disks that are full and folders that are read-only: said in a line, and nothing that was there is lost."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from helpers.bundle_commands import ROOT, TINY, write_task
from helpers.nnunet_task import TWO_LEVELS, TWO_MEMBERS, bare_model, bare_plans, device_file, make_trainer, write_held_out
from helpers.searches import hurry

from monai_prox.cli import app as cli
from monai_prox.export.onnx_file import describe_again
from monai_prox.files import write_json
from monai_prox.runtime.description import write_description
from monai_prox.runtime.model import Model
from monai_prox.tensor_file import write_tensors
from monai_prox.trained.nnunet_checkpoint import load_checkpoint
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.training.engine import Engine

pytest_plugins = ["helpers.nnunet_fixtures"]

FEW = {"space": TWO_MEMBERS}
LIMIT = 6_000  # bytes


@contextmanager
def full_disk(most: int = LIMIT) -> Iterator[None]:
    """No file can grow beyond ``most`` bytes: like a full disk, this cuts a file off within a write, also for C++ code."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For all users, or, as root may write whatever the permissions say, as a mount."""
    if os.geteuid() != 0:
        mode = folder.stat().st_mode
        folder.chmod(0o555)
        yield
        folder.chmod(mode)
        return
    if subprocess.run(["mount", "--bind", folder, folder], check=False).returncode:
        pytest.skip("root can write to every folder, and may not mount one read-only here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def model(bare: Path) -> ModelFolder:
    return bare_model(bare_plans(prox=FEW, **TWO_LEVELS))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
        str(path.relative_to(folder)): b"" for path in folder.rglob("*") if path.is_dir()
    }


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[str]:
    """The lines that the command, which has to fail, says of its errors."""
    monkeypatch.setattr(sys, "argv", ["monai-prox", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[[line.startswith(("error:", "failed:")) for line in lines].index(True) :]  # others log, too


# ---------------------------------------------------------------------- single files
@pytest.mark.parametrize("write", [write_json, write_tensors])
def test_a_file_that_cannot_be_written_is_named_and_stays_as_it_was(write: Callable[[Any, Path], None], tmp_path: Path) -> None:
    path, large = tmp_path / "file", list(range(LIMIT))
    write([1], path)
    before = tree(tmp_path)
    for fault in (full_disk(), read_only(tmp_path)):
        with fault, pytest.raises(OSError) as error:
            write(large, path)
        assert error.value.filename == str(path)
        assert tree(tmp_path) == before


# ---------------------------------------------------------------------- trainings
def test_nnunets_training_stops_and_keeps_the_checkpoint_before(bare: Path) -> None:
    trainer = make_trainer(bare_plans(prox=FEW))
    trainer.initialize()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    path = Path(trainer.output_folder, "checkpoint_latest.pth")
    trainer.save_checkpoint(str(path))
    before = tree(path.parent)
    for fault, reason in (
        (full_disk(), "File too large"),
        (read_only(path.parent), "(Read-only file system|Permission denied)"),
    ):
        with fault, pytest.raises(OSError, match=rf"^\[Errno \d+\] {reason}: '{path}'$"):
            trainer.save_checkpoint(str(path))
        assert tree(path.parent) == before
    assert load_checkpoint(path)["current_epoch"] == 1


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_bundles_training_stops_and_keeps_the_checkpoint_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, models, begin = ROOT / "bundles" / "hippocampus_prox", tmp_path / "models", Engine.begin_epoch
    places = {"dataset_dir": str(write_task(tmp_path, bundle.name)), "ckpt_dir": str(models), "bundle_root": str(bundle)}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(engine: Engine, epoch: int) -> bool:
        if epoch == 2:  # with room for the weights, not for a checkpoint
            most = (models / "checkpoint_epoch=2.pt").stat().st_size * 3 // 4
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, unlimited[1]))
        return begin(engine, epoch)

    monkeypatch.setattr(Engine, "begin_epoch", fill_the_disk)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # which the bundle replaces
    settings = TINY | places | {"output_dir": str(tmp_path / "eval"), "val_interval": 2, "space": {"width": [0.5, 1.0]}}
    try:
        with pytest.raises(RuntimeError) as error:
            monai.bundle.run(config_file=str(bundle / "configs" / "train.json"), logging_file=False, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    sys.excepthook(error.type, error.value, error.tb)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"error: \[Errno \d+\] File too large: '{models}/checkpoint_epoch=3.pt'", last)
    assert {path.name for path in models.iterdir()} == {"checkpoint_epoch=2.pt", "family.json", "model.pt"}
    for name in ("checkpoint_epoch=2.pt", "model.pt"):
        torch.load(models / name, weights_only=True)


# ---------------------------------------------------------------------- exports
FORMATS = [
    ("nnunet", "member"),
    ("bundle", "member"),
    ("onnx", "member.onnx"),
    pytest.param("openvino", "member.xml", marks=[pytest.mark.alone, pytest.mark.slow]),
    ("torchscript", "member.ts"),
]


@pytest.mark.parametrize(("format", "output"), FORMATS)
def test_an_export_leaves_what_was_there(
    format: str,
    output: str,
    model: ModelFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    options = ["--format", format, "--output", str(folder / output), "--overwrite"]
    if format in ("nnunet", "bundle"):  # a folder that is replaced has to be one of these
        cli.app(["export", str(model.path), "--subnet", "largest", *options], standalone_mode=False)
    else:
        (folder / output).write_text("mine")
    before = tree(folder)
    for fault in (full_disk(), read_only(folder)):
        with fault:
            (error,) = said(capsys, monkeypatch, "export", model.path, "--subnet", "smallest", *options)
        assert re.fullmatch(rf"error: cannot write {folder / output}: .*; nothing was left behind", error)
        assert tree(folder) == before


@pytest.mark.slow
@pytest.mark.alone
def test_openvinos_own_error_says_what_it_may_be(model: ModelFolder, tmp_path: Path) -> None:
    """Where the ONNX file, which lies on another disk, could be written."""
    from monai_prox.export.openvino_file import write_openvino

    onnx = device_file(model, "smallest", tmp_path / "model.onnx")
    with full_disk(), pytest.raises(OSError, match="is the disk full"):
        write_openvino(onnx, "{}", tmp_path / "model.xml")


def test_a_pack_leaves_nothing(
    model: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packs"
    folder.mkdir()
    for fault in (full_disk(), read_only(folder)):
        with fault:
            (error,) = said(capsys, monkeypatch, "profile", "pack", model.path, "--members", 8, "-o", folder / "pack.zip")
        assert re.fullmatch(rf"error: cannot write {folder}/pack.zip: .*; nothing was left behind", error)
        assert not list(folder.iterdir())


# ---------------------------------------------------------------------- the search
def test_a_search_goes_on_when_there_is_room_again(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    model = bare_model(bare_plans(**TWO_LEVELS))
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["case_0", "case_1"]).parent))
    output = tmp_path / "search"
    journal = output / "study.journal"

    def command(trials: int) -> list[str]:
        return ["search", str(model.path), "--trials", str(trials), "--cases", "1", "--finalists", "1", "-o", str(output)]

    with read_only(tmp_path):
        (error,) = said(capsys, monkeypatch, *command(2))
    assert re.fullmatch(rf"error: cannot write to {output}: .*", error)
    cli.app(command(2), standalone_mode=False)
    known = journal.read_bytes()
    for fault in (full_disk(len(known) + 700), read_only(output)):
        with fault:
            (error,) = said(capsys, monkeypatch, *command(4))
        assert re.fullmatch(rf"error: .*{journal}.*: (File too large|Read-only file system|Permission denied).*", error)
    assert journal.read_bytes().startswith(known)
    assert not journal.read_bytes().endswith(b"\n"), "half a line has been written"
    cli.app(command(4), standalone_mode=False)
    assert journal.read_bytes().startswith(known)
    assert "4 members" in capsys.readouterr().out


# ---------------------------------------------------------------------- prediction
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", pytest.param(".mha", marks=pytest.mark.slow)])
def test_segmentations_that_cannot_be_written_are_named_and_the_others_done(
    ending: str, two_members: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(shutil.copy(two_members / "smallest.onnx", tmp_path))
    describe_again(file, write_description(replace(Model(file).description, file_ending=ending)))
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for case, size in (("large", 40), ("small", 12)):
        noise = np.random.default_rng(0).normal(size=(size, size, size)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(noise), images / f"{case}_0000{ending}")
    command = ["predict", file, "-i", images, "-o", output]
    with full_disk(3_000):
        _, large = said(capsys, monkeypatch, *command)
    assert large.startswith("large: ")
    assert [path.name for path in output.iterdir()] == [f"small{ending}"]
    before = tree(output)
    with read_only(output):
        _, large, small = said(capsys, monkeypatch, *command)
    assert large.startswith("large: ") and small.startswith("small: ")
    assert tree(output) == before
