"""Fixtures around nnunet_task, a plugin: a module that uses them says ``pytest_plugins = ["helpers.nnunet_fixtures"]``."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from helpers.architectures import FOUR_DIMENSIONS
from helpers.commands import fresh
from helpers.in_process import prox
from helpers.made_once import made_once
from helpers.nnunet_task import (
    CUT,
    FULLRES,
    SHALLOW,
    STOCK_IMAGE,
    STOCK_KEPT,
    TWO_LEVELS,
    TWO_MEMBERS,
    Prepared,
    ProXTrainerDemoShort,
    ProXTrainerTiny,
    bare_folders,
    bare_model,
    bare_plans,
    cut_plans,
    device_file,
    environment,
    make_trainer,
    nnUNetTrainerTiny,
    prepare,
    run,
    training_on,
    write_held_out,
    write_trainers,
)
from helpers.searches import NAMES
from monai_prox.data.phantom import write_phantom_task
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """See ``bare_folders``."""
    bare_folders(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def source(bare: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedNNUNet:
    """A family with random weights, and held-out cases whose labels are what the largest member says of them."""

    def fill(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            bare_folders(folder, patch)
            write_held_out(bare_model(bare_plans(prox={"space": FOUR_DIMENSIONS})), NAMES)

    shutil.copytree(made_once("held_out", fill), bare, dirs_exist_ok=True)
    monkeypatch.setenv("nnUNet_raw", str(bare / "raw"))
    monkeypatch.setattr("monai_prox.search.budget.LOOKED_AT", 20)  # members at the start of every search
    (model,) = (bare / "nnUNet_results" / "Dataset990_Phantom").iterdir()
    return TrainedNNUNet.open(model)


@pytest.fixture(scope="session")
def phantom() -> Prepared:
    """Eight phantom cases for 3d_fullres and 2d, with the plans of both planners; nothing may be changed in it."""

    def fill(root: Path) -> None:
        prepared = prepare(write_phantom_task(root, cases=8, test_cases=1), root, (FULLRES, "2d"))
        run(["nnUNetv2_plan_experiment", "-d", prepared.identifier, "-pl", "nnUNetPlannerResEncM"], prepared.environment())

    return Prepared(made_once("phantom", fill), 990, "Dataset990_Phantom")


@pytest.fixture(scope="session")
def stock_model(phantom: Prepared) -> Path:
    """A model folder that nnU-Net's own code has trained, of two folds, of which the first was validated."""

    def fill(folder: Path) -> None:
        plans = cut_plans(phantom.plans(), FULLRES, CUT, (32, 40, 32), shallow=True)
        with training_on(phantom, folder):
            for fold in (0, 1):
                torch.manual_seed(fold)
                np.random.seed(fold)
                random.seed(fold)
                trainer = make_trainer(plans, phantom.dataset(), cls=nnUNetTrainerTiny, fold=fold)
                trainer.run_training()
                if fold == 0:
                    trainer.perform_actual_validation()

    folder = made_once("stock_model", fill)
    return folder / phantom.name / f"{nnUNetTrainerTiny.__name__}__{CUT}__{FULLRES}"


@pytest.fixture(scope="session")
def stock() -> Path:
    """A folder with an untrained stock model, its file ``model.onnx``, and ``STOCK_IMAGE``."""

    def fill(folder: Path) -> None:
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch:
            bare_folders(folder, patch)
            model = bare_model(bare_plans(spacing=(1.0, 1.1, 0.9), **SHALLOW), cls=nnUNetTrainer)
            model.path.rename(folder / "model")
        (folder / "model" / "crossval_results_folds_0").mkdir()
        named = "remove_all_but_largest_component_from_segmentation"
        found = {"postprocessing_fns": [named] * 2, "postprocessing_kwargs": [{"labels_or_regions": of} for of in STOCK_KEPT]}
        (folder / "model" / "crossval_results_folds_0" / "postprocessing.json").write_text(json.dumps(found))
        voxels = np.random.default_rng(0).normal(480, 130, (20, 40, 30)).astype(np.float32)
        voxels = sitk.GetArrayFromImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(voxels), 2.0))
        voxels[:, :3] = 0
        image = sitk.GetImageFromArray(voxels)
        image.SetDirection((0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
        (folder / STOCK_IMAGE).parent.mkdir()
        sitk.WriteImage(image, folder / STOCK_IMAGE)
        done = prox("export", folder / "model", "--format", "onnx", "-o", folder / "model.onnx")
        assert done.code == 0, done.err

    return made_once("stock_untrained", fill)


@pytest.fixture(scope="session")
def two_members() -> Path:
    """A folder with the untrained family ``model``, and its members as the files ``smallest.onnx`` and ``largest.onnx``."""

    def fill(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            bare_folders(folder, patch)
            wide = TWO_LEVELS | {"features": (8, 16)}  # so wide that integers make a smaller file
            bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **wide)).path.rename(folder / "model")
        for which in ("smallest", "largest"):
            device_file(ModelFolder.open(folder / "model"), which, folder / f"{which}.onnx")

    return made_once("two_members", fill)


@pytest.fixture(scope="session")
def any_patch() -> Path:
    """A folder with an untrained residual family ``model``, and its largest member for any patch as ``largest.onnx``."""

    def fill(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            bare_folders(folder, patch)
            bare_model(bare_plans("ResidualEncoderUNet", **TWO_LEVELS)).path.rename(folder / "model")
        device_file(ModelFolder.open(folder / "model"), "largest", folder / "largest.onnx", any_patch=True)

    return made_once("any_patch", fill)


@pytest.fixture(scope="session")
def tiny_trainers() -> Path:
    """A folder for nnUNet_extTrainer in which nnU-Net's commands find ProXTrainerTiny."""
    return made_once("tiny_trainers", lambda folder: write_trainers(folder, ProXTrainerTiny))


@pytest.fixture(scope="session")
def demonstrated() -> Path:
    """A folder in which the demo has run, in a new Python, with what it has printed in ``said``. It takes minutes."""

    def fill(folder: Path) -> None:
        stale = folder / "prox_demo" / "predictions" / "smallest" / "another_case.nii.gz"  # of an earlier run
        stale.parent.mkdir(parents=True)
        stale.touch()
        trainers = write_trainers(folder / "trainers", ProXTrainerDemoShort)
        command = ["monai-prox", "demo", "--trainer", "ProXTrainerDemoShort", "--device", "cpu", "--cases", "2"]
        said = run(command, environment(nnUNet_extTrainer=trainers), cwd=folder, start=fresh)
        (folder / "said").write_text(said, encoding="utf-8")

    return made_once("demonstrated", fill)


@pytest.fixture
def in_phantom(phantom: Prepared, tmp_path: Path) -> Iterator[Prepared]:
    """The phantom, with this process set to train on it; results go below ``tmp_path``."""
    with training_on(phantom, tmp_path / "nnUNet_results"):
        yield phantom
