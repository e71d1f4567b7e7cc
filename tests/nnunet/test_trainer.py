"""ProXTrainer inside nnU-Net: what it trains, that it continues where it stopped, and that it loads nothing but its own."""

import errno
import gc
import json
import os
import pickle
import random
import re
import shlex
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import count as count_up
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from helpers.architectures import randomise_norms
from helpers.equality import equal
from helpers.made_once import made_once
from helpers.nnunet_task import (
    BARE_DATASET,
    CUT,
    FULLRES,
    SHALLOW,
    TWO_MEMBERS,
    Prepared,
    ProXTrainerTiny,
    bare_model,
    bare_plans,
    cut_plans,
    make_trainer,
    run,
    training_on,
    write_trainers,
)
from helpers.ranks import in_threads
from helpers.validation_batches import PATCH, SIX, images, validate
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.core import cost
from monai_prox.core.named_members import named_members
from monai_prox.core.slicing import fill
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.export.nnunet import export_nnunet
from monai_prox.nnunet import member_validation
from monai_prox.nnunet.loader_process import EndWithTraining
from monai_prox.nnunet.loss import AnyLevelsLoss
from monai_prox.nnunet.member_validation import pseudo_dice
from monai_prox.nnunet.planned_updates import updates_of
from monai_prox.nnunet.variants import ProgressiveShrinkingTrainer, ProXTrainerPaper
from monai_prox.report import count, plot_progress
from monai_prox.runtime.dice import dice_of
from monai_prox.surface_dice import mean_over_cases, surface_dice_by_class
from monai_prox.trained.family_file import FamilyFile
from monai_prox.trained.nnunet_checkpoint import load_checkpoint
from monai_prox.trained.nnunet_folder import FINAL, ModelFolder
from monai_prox.trained.nnunet_plans import surface_tolerance_of
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.trained.open_part import ENTRY
from monai_prox.training.monitor import verdicts_of
from monai_prox.training.updates_per_batch import UpdatesPerBatch

pytest_plugins = ["helpers.nnunet_fixtures"]

PAPER = {"space": "paper", "recipe": "prox_paper"}
LATEST = "checkpoint_latest.pth"
WHOLE = (40, 56, 40)  # a case of the phantom, where whole ones are validated, with mirroring
FEW = {"space": TWO_MEMBERS}  # members, where any will do: choosing those to watch takes seconds
DEPTH = {"space": {"depth": "all", "width": [1.0], "levels": 0, "resolution": [1.0]}}


# ---------------------------------------------------------------------- continuing
class SixEpochs(ProXTrainerTiny):
    epochs = 6  # so that the last stage of both recipes has two


class OtherSeed(SixEpochs):
    seed = 1


class BreakOffError(Exception):
    pass


def everything(trainer: Any) -> dict[str, Any]:
    """All that a training has made, apart from the time it took.

    And apart from nnU-Net's running mean of the Dice, which is summed up in as many digits as it has been saved with.
    """
    logged = trainer.logger.get_checkpoint()
    return {
        "network": trainer.network.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "engine": trainer.engine.state_dict(),
        "progress": trainer.progress,
        "members": trainer.named_members,
        "logged": {name: values for name, values in logged.items() if "timestamps" not in name and name != "ema_fg_dice"},
        "epoch": trainer.current_epoch,
    }


def stop_in(trainer: Any, epoch: int) -> None:
    """Makes the training break off within ``epoch``, after its first step."""
    step, steps = trainer.train_step, []

    def train_step(batch: Any) -> Any:
        if trainer.current_epoch == epoch:
            steps.append(batch)
            if len(steps) == 2:
                raise BreakOffError
        return step(batch)

    trainer.train_step = train_step


@pytest.fixture(scope="module", params=["prox", "prox_paper"])
def uninterrupted(request: pytest.FixtureRequest, phantom: Prepared) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plans that ask for a recipe, and all that a training by them makes."""
    asked = {"prox": PAPER} if request.param == "prox_paper" else {}
    plans = cut_plans(phantom.plans(), FULLRES, CUT, PATCH, **asked)

    def fill(folder: Path) -> None:
        with training_on(phantom, folder):
            trainer = make_trainer(plans, phantom.dataset(), cls=SixEpochs)
            torch.manual_seed(1)  # what was drawn before the training is nothing to it
            trainer.run_training()
        assert trainer.recipe_name == request.param
        torch.save(everything(trainer), folder / "everything.pt")

    return plans, torch.load(made_once(f"uninterrupted_{request.param}", fill) / "everything.pt", weights_only=False)


@pytest.mark.parametrize(
    ("uninterrupted", "epoch"),
    [
        ("prox", 2),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in (("prox", 4), ("prox", 5), ("prox_paper", 2), ("prox_paper", 4), ("prox_paper", 5))
        ),
    ],
    indirect=["uninterrupted"],
)
def test_a_continued_training_equals_an_uninterrupted_one(
    epoch: int, uninterrupted: tuple[dict[str, Any], dict[str, Any]], in_phantom: Prepared
) -> None:
    """Broken off in the first epoch of a stage, whose start is repeated, or within a stage, whose teacher has to come back."""
    plans, expected = uninterrupted
    first = make_trainer(plans, in_phantom.dataset(), cls=SixEpochs)
    torch.manual_seed(2)  # the trainer's own seed alone makes a training
    first.save_every = 1
    stop_in(first, epoch)
    with pytest.raises(BreakOffError):
        first.run_training()
    assert Path(first.output_folder, LATEST).is_file()

    second = make_trainer(plans, in_phantom.dataset(), cls=SixEpochs, continue_training=True)
    maybe_load_checkpoint(second, continue_training=True, validation_only=False)
    assert second.current_epoch == epoch
    second.run_training()
    actual = everything(second)
    for part, value in expected.items():
        assert equal(value, actual[part]), part


@pytest.mark.slow
def test_the_paper_s_last_stage_has_a_teacher(uninterrupted: tuple[dict[str, Any], dict[str, Any]]) -> None:
    plans, made = uninterrupted
    asks_for_paper = "prox" in plans["configurations"][FULLRES]
    assert (made["engine"]["teacher"] is not None) == asks_for_paper


@pytest.mark.parametrize("uninterrupted", ["prox", pytest.param("prox_paper", marks=pytest.mark.slow)], indirect=True)
def test_another_seed_makes_another_training(
    uninterrupted: tuple[dict[str, Any], dict[str, Any]], in_phantom: Prepared
) -> None:
    """From its first epoch on. That the same seed makes the same training is seen as one continues."""
    plans, expected = uninterrupted
    trainer = make_trainer(plans, in_phantom.dataset(), cls=OtherSeed)
    stop_in(trainer, 1)
    with pytest.raises(BreakOffError):
        trainer.run_training()
    for name in ("train_losses", "val_losses"):
        assert trainer.logger.get_value(name, step=0) != expected["logged"][name][0], name


@pytest.mark.parametrize("asked", [pytest.param(2, marks=pytest.mark.slow), "fill"])
def test_a_continued_training_makes_as_many_updates_with_each_batch(asked: int | str, in_phantom: Prepared) -> None:
    """With numbers that "fill" has fixed: what a loader's times would give is not repeated."""
    plans = cut_plans(in_phantom.plans(), FULLRES, CUT, PATCH, shallow=True, prox=FEW | {"members_per_batch": asked})
    fixed = [3, None, 2]

    def made(broken_off: bool) -> Any:
        trainer = make_trainer(plans, in_phantom.dataset())
        trainer.initialize()
        trainer.updates_per_batch.load_state_dict(fixed if asked == "fill" else None)
        trainer.save_every = 1
        if broken_off:
            stop_in(trainer, 4)
            with pytest.raises(BreakOffError):
                trainer.run_training()
            trainer = make_trainer(plans, in_phantom.dataset(), continue_training=True)
            maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
            assert trainer.current_epoch == 4
        trainer.run_training()
        return trainer

    actual, expected = (made(broken_off) for broken_off in (True, False))
    epochs = range(actual.num_epochs)
    starts, stages = actual.engine.schedule.starts, [fixed[actual.engine.schedule.index(epoch)] or 1 for epoch in epochs]
    assert len(starts) == 3 and actual.updates_per_batch.state_dict() == (fixed if asked == "fill" else [None] * 3)
    updates = sum(stages) if asked == "fill" else len(epochs) * asked
    assert actual.engine.state_dict()["updates"] == 2 * updates  # two batches an epoch
    for part, value in everything(expected).items():
        assert equal(value, everything(actual)[part]), part


# ---------------------------------------------------------------------- what it trains
def train(trainer: Any) -> None:
    """Trains, and checks what holds after any training."""
    trainer.initialize()
    before = deepcopy(trainer.network.state_dict())
    trainer.run_training()
    assert trainer.current_epoch == trainer.epochs
    losses = trainer.logger.get_value("train_losses", step=None)
    assert len(losses) == trainer.epochs and np.isfinite(losses).all()
    for name, weight in trainer.network.state_dict().items():
        # All members have trained, so nothing is as it was but for the lowest output, which has no weight in the loss
        if weight.ndim > 1 and not name.startswith("decoder.seg_layers.0"):
            assert not torch.equal(weight, before[name]), name
    assert set(trainer.progress[-1]["dice"]) == set(trainer.named_members) >= {"smallest", "largest"}


def test_trains_a_residual_encoder_plan(in_phantom: Prepared) -> None:
    plans = cut_plans(in_phantom.plans("nnUNetResEncUNetMPlans"), FULLRES, CUT, PATCH, (4, 8))
    trainer = make_trainer(plans, in_phantom.dataset())
    train(trainer)
    assert type(trainer.network).__name__ == "ResidualEncoderUNet"


def test_trains_the_2d_configuration(in_phantom: Prepared) -> None:
    trainer = make_trainer(cut_plans(in_phantom.plans(), "2d", CUT, (40, 32)), in_phantom.dataset())
    train(trainer)
    assert trainer.network(torch.zeros(1, 1, 40, 32))[0].shape == (1, 3, 40, 32)


@pytest.fixture(scope="module")
def regions(phantom: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The phantom with overlapping regions, and an ignore label on every voxel of the upper third."""
    root = tmp_path_factory.mktemp("regions")
    copy = Prepared(root, 991, "Dataset991_Regions")
    truth = copy.preprocessed / "gt_segmentations"
    truth.mkdir(parents=True)
    dataset = phantom.dataset() | {
        "labels": {"background": 0, "whole": [1, 2], "posterior": 2, "ignore": 3},
        "regions_class_order": [1, 2],
    }
    plans = cut_plans(phantom.plans(), FULLRES, "nnUNetPlans", PATCH, prox={"space": TWO_MEMBERS})
    plans["dataset_name"] = copy.name
    (copy.preprocessed / "dataset.json").write_text(json.dumps(dataset))
    copy.write_plans(plans)
    shutil.copyfile(phantom.preprocessed / "dataset_fingerprint.json", copy.preprocessed / "dataset_fingerprint.json")
    manager = PlansManager(plans)
    target = copy.preprocessed / f"nnUNetPlans_{FULLRES}"
    target.mkdir()
    for label in sorted((phantom.preprocessed / "gt_segmentations").glob("*.nii.gz")):
        volume = nib.load(label)
        values = np.asarray(volume.dataobj).copy()
        values[:, :, 2 * values.shape[2] // 3 :] = 3
        nib.save(nib.Nifti1Image(values, volume.affine), truth / label.name)
        case = label.name.removesuffix(".nii.gz")
        image = phantom.root / "nnUNet_raw" / phantom.name / "imagesTr" / f"{case}_0000.nii.gz"
        DefaultPreprocessor(verbose=False).run_case_save(
            str(target / case), [str(image)], str(truth / label.name), manager, manager.get_configuration(FULLRES), dataset
        )
    return copy


@pytest.mark.slow
def test_trains_and_validates_regions_with_an_ignore_label(
    regions: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.default_num_processes", 1)
    with training_on(regions, tmp_path):
        trainer = make_trainer(regions.plans(), regions.dataset())
        train(trainer)
        trainer.perform_actual_validation()
    assert trainer.network.decoder.seg_layers[-1].out_channels == 2  # a sigmoid per region, none for ignored voxels
    members = {m["name"]: m for m in json.loads(Path(trainer.output_folder, "family.json").read_text())["members"]}
    assert set(members) == {"smallest", "largest"}
    for member in members.values():
        assert set(member["dice"]) == set(member["surface_dice"]) == {"mean", "(1, 2)", "2"}


def test_the_second_step_of_a_cascade_is_refused(bare: Path) -> None:
    plans = bare_plans()
    plans["configurations"]["3d_lowres"] = deepcopy(plans["configurations"][FULLRES])
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": FULLRES, "previous_stage": "3d_lowres"}
    plans["continue_training"] = False
    with pytest.raises(ProXError, match=r"3d_cascade_fullres is the second step of a cascade.*train 3d_fullres"):
        ProXTrainerTiny(plans, "3d_cascade_fullres", 0, BARE_DATASET, torch.device("cpu"))


def test_the_lowest_output_has_no_weight_or_with_several_processes_next_to_none() -> None:
    """For members of any number of outputs: DistributedDataParallel waits for a gradient of each."""

    def weights(outputs: int, last: float) -> list[float]:
        nnunets = np.array([1, 0.5, last])  # for three targets
        loss = AnyLevelsLoss(DeepSupervisionWrapper(lambda output, _: output, nnunets / nnunets.sum()))
        return [float(loss(list(row), [0.0] * 3)) for row in np.eye(outputs)]

    assert weights(3, 0) == pytest.approx([2 / 3, 1 / 3, 0])
    assert weights(2, 0) == [1, 0]
    assert weights(3, 1e-6) == pytest.approx([2 / 3, 1 / 3, 1e-6 / 1.5], rel=1e-5)
    first, last = weights(2, 1e-6)
    assert 0 < last <= 1e-6 and first + last == pytest.approx(1, abs=1e-12)
    for epsilon in (0, 1e-6, np.nan):
        assert weights(1, epsilon) == [1]


def test_an_epoch_draws_by_its_number_seed_fold_and_rank(bare: Path) -> None:
    def drawn(*, epoch: int = 1, seed: int = 0, fold: int = 0, rank: int = 0) -> tuple[float, float, float]:
        trainer = make_trainer(bare_plans(prox=FEW), fold=fold)
        trainer.initialize()
        trainer.seed, trainer.local_rank, trainer.current_epoch = seed, rank, epoch
        trainer.on_train_epoch_start()
        return random.random(), np.random.random(), torch.rand(()).item()

    seen = [drawn(), *(drawn(**{name: 2}) for name in ("epoch", "seed", "fold", "rank"))]
    assert drawn() == seen[0]
    for numbers in zip(*seen, strict=True):
        assert len(set(numbers)) == len(seen)


def test_loaders_of_a_continued_training_begin_with_the_numbers_of_its_epoch(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of loaders inherit the generators' state as they start."""

    def drawn(epoch: int) -> list[float]:
        numbers: list[float] = []
        monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: numbers.extend((random.random(), np.random.random())))
        trainer = make_trainer(bare_plans(prox=FEW))
        trainer.initialize()
        trainer.current_epoch = epoch
        trainer.on_train_start()
        return numbers

    assert drawn(1) == drawn(1) and not {*drawn(1)} & {*drawn(2)}


def test_checkpoint_best_is_the_best_of_the_stage(bare: Path) -> None:
    """Each stage begins without one: the smaller family before is no candidate."""
    trainer = make_trainer(bare_plans(prox=FEW))
    trainer.initialize()
    best = []
    for epoch in range(trainer.num_epochs):
        trainer.current_epoch, trainer._best_ema = epoch, 0.9
        trainer.on_train_epoch_start()
        best.append(trainer._best_ema)
    assert trainer.engine.schedule.starts == (0, 2, 3)
    assert best == [None, 0.9, None, None, 0.9]


def parts(transform: Any) -> Iterator[Any]:
    """A transform and all those within it."""
    yield transform
    for inner in [*getattr(transform, "transforms", []), getattr(transform, "transform", None)]:
        if inner is not None:
            yield from parts(inner)


def test_transforms_are_nnunets_but_pick_nothing_by_timing(bare: Path) -> None:
    """No seed repeats it. The first of them ends a loader's process with its parent."""
    trainer = make_trainer(bare_plans(prox=FEW))
    rotation, dummy, _, mirrored = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    made = {}
    for cls in (nnUNetTrainer, type(trainer)):
        training = cls.get_training_transforms((16, 24, 16), rotation, [[1, 1, 1]], mirrored, dummy)
        made[cls] = [training, cls.get_validation_transforms([[1, 1, 1]])]
    for theirs, ours in zip(made[nnUNetTrainer], made[type(trainer)], strict=True):
        assert [type(one) for one in ours.transforms] == [EndWithTraining, *map(type, theirs.transforms)]
    (blur,) = [one for one in parts(made[type(trainer)][0]) if hasattr(one, "benchmark")]
    assert isinstance(blur, GaussianBlurTransform) and not blur.benchmark


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_all_members_are_measured_on_the_same_voxels(deep_supervision: bool, bare: Path) -> None:
    """nnU-Net's own step makes ignored voxels background, in the target that it is given."""
    dataset = BARE_DATASET | {"labels": {"background": 0, "anterior": 1, "posterior": 2, "ignore": 3}}
    trainer = make_trainer(bare_plans(patch=PATCH, prox=FEW), dataset)
    trainer.enable_deep_supervision = deep_supervision
    trainer.initialize()
    batch = images(["a", "b"])
    for target in batch["target"]:
        target[..., : target.shape[-1] // 2] = 3
    if not deep_supervision:
        batch["target"] = batch["target"][0]
    before = deepcopy(batch)
    validate(trainer, [batch])
    assert equal(batch, before)
    labelled = (before["target"][0] if deep_supervision else before["target"])[..., PATCH[-1] // 2 :]
    assert set(trainer.member_validation.outputs) == {"smallest", "largest"}
    for name, (result,) in trainer.member_validation.outputs.items():
        with torch.no_grad():
            logits = trainer.supernet.view(trainer.named_members[name]).eval()(batch["data"])
        predicted = logits.argmax(1, keepdim=True)[..., PATCH[-1] // 2 :]
        for label in (1, 2):
            tp, fp, fn = (result[key][label - 1] for key in ("tp_hard", "fp_hard", "fn_hard"))
            assert tp + fp == (predicted == label).sum() and tp + fn == (labelled == label).sum(), name


# ---------------------------------------------------------------------- pretrained weights
def open_all(trainer: Any) -> None:
    for epoch in range(trainer.epochs):
        trainer.engine.begin_epoch(epoch)


def pretrained(plans: dict[str, Any]) -> Path:
    """The checkpoint of another training by the same plans."""
    model = bare_model(plans)
    return model.path.rename(model.path.with_name("pretrained")) / "fold_0" / FINAL


def test_growing_keeps_pretrained_weights(bare: Path) -> None:
    file = pretrained(bare_plans())
    weights = torch.load(file, weights_only=True)["network_weights"]
    trainer = make_trainer(bare_plans())
    maybe_load_checkpoint(trainer, False, False, str(file))
    open_all(trainer)
    taken = {name for name, weight in trainer.network.state_dict().items() if torch.equal(weight, weights[name])}
    assert {name for name in weights if ".seg_layers." not in name} <= taken  # those nnU-Net never takes over


def test_a_continued_training_still_keeps_its_pretrained_weights(bare: Path) -> None:
    file = pretrained(bare_plans(prox=DEPTH))
    first = make_trainer(bare_plans(prox=DEPTH))
    maybe_load_checkpoint(first, False, False, str(file))
    first.engine.begin_epoch(0)
    first.save_checkpoint(str(bare / "checkpoint.pth"))
    second = make_trainer(bare_plans(prox=DEPTH))
    second.load_checkpoint(str(bare / "checkpoint.pth"))
    open_all(second)
    assert equal(first.network.state_dict(), second.network.state_dict())


def test_without_pretrained_weights_growing_sets_the_new_ones(bare: Path) -> None:
    """The counterpart of the two above: there is something that growing would erase, also after continuing."""
    first = make_trainer(bare_plans(prox=DEPTH))
    first.initialize()
    first.engine.begin_epoch(0)
    first.save_checkpoint(str(bare / "checkpoint.pth"))
    second = make_trainer(bare_plans(prox=DEPTH))
    second.load_checkpoint(str(bare / "checkpoint.pth"))
    open_all(second)
    assert not equal(first.network.state_dict(), second.network.state_dict())
    open_all(first)
    assert equal(first.network.state_dict(), second.network.state_dict())


# ---------------------------------------------------------------------- checkpoints
class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def truncated(file: Path) -> None:
    whole = bare_model(bare_plans(prox=FEW)).path / "fold_0" / FINAL
    file.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])


def of_nnunet(file: Path) -> None:
    trainer = make_trainer(bare_plans(prox=FEW), cls=nnUNetTrainer)
    trainer.initialize()
    trainer.logger.log("mean_fg_dice", np.float64(0.5), 0)  # NumPy's number, as after any epoch
    trainer.logger.log("ema_fg_dice", np.float64(0.5), 0)
    trainer.save_checkpoint(str(file))


def of_another_space(file: Path) -> None:
    model = bare_model(bare_plans())
    shutil.copyfile(model.path / "fold_0" / FINAL, file)


def of_another_recipe(file: Path) -> None:
    model = bare_model(bare_plans(prox=FEW | {"recipe": "prox_paper"}))
    shutil.copyfile(model.path / "fold_0" / FINAL, file)


def of_another_format(file: Path) -> None:
    checkpoint = torch.load(bare_model(bare_plans(prox=FEW)).path / "fold_0" / FINAL, weights_only=True)
    checkpoint["prox"]["engine"]["format"] = 1_000
    checkpoint["prox"]["stages"][0]["news"] = True  # of that format's recipes; the format is what is wrong
    torch.save(checkpoint, file)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (truncated, "is not a whole checkpoint of ProXTrainer"),
        (lambda file: file.write_bytes(b""), "is not a whole checkpoint of ProXTrainer"),
        (lambda file: file.write_text("weights"), "is not a whole checkpoint of ProXTrainer: it is no archive of torch.save"),
        (lambda file: torch.save([1, 2], file), "was written by the trainer unknown"),
        (lambda file: None, "there is no checkpoint"),
        (of_nnunet, "is not a whole checkpoint of ProXTrainer: it holds more than tensors and plain data: numpy"),
        (of_another_space, "trained with another search space"),
        (of_another_recipe, "trained with another recipe"),
        (of_another_format, "format 1000"),
    ],
    ids=["truncated", "empty", "text", "list", "missing", "stock", "other space", "other recipe", "other format"],
)
def test_what_is_no_checkpoint_of_this_training_changes_nothing(write: Callable[[Path], Any], message: str, bare: Path) -> None:
    file = bare / FINAL
    write(file)
    trainer = make_trainer(bare_plans(prox=FEW))
    trainer.initialize()
    randomise_norms(trainer.network)
    trainer.engine.begin_epoch(0)
    before = deepcopy(everything(trainer))
    with pytest.raises(ProXError, match=message):
        trainer.load_checkpoint(str(file))
    assert equal(before, everything(trainer))


@pytest.mark.parametrize(
    "write", [torch.save, lambda bomb, file: file.write_bytes(pickle.dumps(bomb, protocol=2))], ids=["zip", "pickle"]
)
def test_a_checkpoint_never_executes_anything(write: Callable[[Any, Path], Any], bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW))
    went_off = bare / "went_off"
    write({"network_weights": {}, "prox": {}, "trainer_name": Bomb(went_off)}, model.path / "fold_0" / FINAL)
    trainer = make_trainer(bare_plans(prox=FEW))
    for load in (
        lambda: model.checkpoint("fold_0"),
        lambda: maybe_load_checkpoint(trainer, continue_training=True, validation_only=False),
        lambda: maybe_load_checkpoint(trainer, continue_training=False, validation_only=True),
    ):
        with pytest.raises(ProXError, match=r"is not a whole checkpoint of (nnU-Net|ProXTrainer)"):
            load()
    assert not went_off.exists()
    with suppress(RuntimeError):  # what torch says of a plain pickle, once it has read it
        torch.load(model.path / "fold_0" / FINAL, weights_only=False)
    assert went_off.exists()  # it is one: who unpickles it has the file


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_checkpoint_is_whole_or_the_old_one(error: BaseException, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(bare_plans(prox=FEW))
    trainer.initialize()
    file = Path(trainer.output_folder, LATEST)
    trainer.save_checkpoint(str(file))
    old, beside = file.read_bytes(), set(file.parent.iterdir())

    def half(target: Path, content: bytes) -> None:
        with target.open("wb") as written:
            written.write(content[: len(content) // 2])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(type(error)):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == old
    assert set(file.parent.iterdir()) == beside


# ---------------------------------------------------------------------- plans
@pytest.mark.parametrize(
    ("prox", "message"),
    [
        ([], r"'prox' entry may have 'space', 'recipe', .*, 'validate_mirroring' and 'precision', got \[\]"),
        ({"spaces": "paper"}, "'prox' entry may have 'space', 'recipe', 'monitor', 'surface_tolerance_mm', .*, got .*spaces"),
        ({"surface_tolerance_mm": 0}, "the plan's 'surface_tolerance_mm' is in mm, above 0 and at most 1000; got 0"),
        ({"surface_tolerance_mm": "2"}, "the plan's 'surface_tolerance_mm' is in mm, above 0 and at most 1000; got '2'"),
        ({"space": "huge"}, "the search space 'huge' is not known; known by name: default, paper"),
        ({"space": ["paper"]}, r"a search space has the fields .* got \['paper'\]"),
        ({"space": {"breadth": [1.0]}}, "a search space has the fields .*width.*breadth"),
        ({"space": {"width": [1.0, 0.5]}}, "width must be ascending fractions that end in 1"),
        ({"space": {"width": 0.5}}, r"width must be ascending fractions that end in 1, got \[0.5\]"),
        ({"space": {"kernel": [2, 3]}}, "kernel sizes must be odd"),
        ({"space": {"levels": "one"}}, "a search space: levels must be of type int, got 'one'"),
        ({"space": {"levels": 0.5}}, "levels"),
        ({"recipe": "fast"}, "the recipe 'fast' is not known; known: prox, prox_paper"),
        ({"monitor": 1}, "the plan's 'monitor' is true, false, or may have 'threshold' and 'patience', got 1"),
        ({"monitor": None}, "the plan's 'monitor' is true, false, or may have .*got None"),
        ({"width": 0.5}, "'prox' entry may have 'space', .* got .*0.5}; 'width' belongs into 'space'"),
        ({"kernel": 3}, "'kernel' belongs into 'space'"),
        ({"space": {"kernel": True}}, "a search space: kernel must be of type .*, got True"),
        ({"space": {"kernel": 4}}, r"kernel sizes must be odd, got \[4\]"),
        ({"monitor": {"tolerance": 1}}, "'monitor' is true, false, or may have 'threshold' and 'patience', got .*tolerance"),
        ({"monitor": {"threshold": "low"}}, "threshold is a difference of scores such as 0.005, got 'low'"),
        ({"monitor": {"threshold": True}}, "threshold is a difference of scores such as 0.005, got True"),
        ({"monitor": {"patience": 0}}, "patience counts validations and is at least 1, got 0"),
        ({"monitor": {"patience": 1.5}}, "patience counts validations and is at least 1, got 1.5"),
        (FEW | {"validate": []}, r"'validate' lists members, of smallest, largest, and always 'largest', .* got \[\]"),
        (FEW | {"validate": ["middle", "largest"]}, r"of smallest, largest, .* got \['middle', 'largest'\]"),
        (FEW | {"validate": ["smallest"]}, r"and always 'largest', nnU-Net's own network, got \['smallest'\]"),
        (FEW | {"validate": "largest"}, "'validate' lists members, .* got 'largest'"),
        (FEW | {"validate": None}, "'validate' lists members, .* got None"),
        (FEW | {"validate": ["largest", ["smallest"]]}, "'validate' lists members, .* got .*'smallest'"),
        *(
            (
                FEW | {"members_per_batch": value},
                f"the plan's 'members_per_batch' is a whole number from 1 to 8, or 'fill', got {value!r}",
            )
            for value in (0, -1, True, 1.5, 2.0, "full", "2", 10**9, None)
        ),
        (FEW | {"validate_mirroring": 0}, "the plan's 'validate_mirroring' is true or false, got 0"),
        ({"precision": "fp32"}, "the plan's 'precision' is 'fp16' or 'bf16', got 'fp32'"),
        ({"precision": ["bf16"]}, r"the plan's 'precision' is 'fp16' or 'bf16', got \['bf16'\]"),
        ({"recipe": ["prox"]}, r"the recipe \['prox'\] is not known; known: prox, prox_paper"),
    ],
)
def test_a_malformed_entry_of_the_plans_is_named(prox: Any, message: str, bare: Path) -> None:
    with pytest.raises(ProXError, match=message):
        trainer = make_trainer(bare_plans(prox=prox))
        trainer.initialize()
        assert trainer.final_validation.members, "which a training and a validation begin with"


def test_the_surface_tolerance_is_the_longest_edge_of_a_voxel_of_the_full_resolution_or_what_is_asked_for(bare: Path) -> None:
    class Strict(ProXTrainerTiny):
        surface_tolerance_mm = 0.5

    thick = bare_plans(spacing=(3.6, 0.6, 0.6))
    flat = bare_plans(patch=(24, 16), spacing=(0.6, 0.6))["configurations"]["2d"]
    thick["configurations"] |= {"2d": flat, "3d_lowres": {"inherits_from": FULLRES, "spacing": [7.2, 1.2, 1.2]}}
    for configuration in (FULLRES, "2d", "3d_lowres"):  # of the same images
        assert surface_tolerance_of(thick, configuration, None) == 3.6
    assert surface_tolerance_of(bare_plans(patch=(24, 16), spacing=(0.6, 0.5)), "2d", None) == 0.6
    assert make_trainer(bare_plans(spacing=(3.6, 0.6, 0.6))).surface_tolerance == 3.6
    assert make_trainer(bare_plans(), cls=Strict).surface_tolerance == 0.5
    assert make_trainer(bare_plans(prox={"surface_tolerance_mm": 2}), cls=Strict).surface_tolerance == 2


def test_a_number_is_a_list_of_one_and_true_the_trainer_s_own_monitor(bare: Path) -> None:
    class Short(ProXTrainerTiny):
        monitored = False
        monitor_threshold = 0.25

    asked = {"space": {"kernel": 3, "resolution": 1, "width": [0.5, 1]}, "monitor": True}
    trainer = make_trainer(bare_plans(prox=asked), cls=Short)
    trainer.initialize()
    assert {slot.choices for slot in trainer.engine.final_space.dimensions["kernel"]} == {(3,)}
    assert trainer.engine.monitor is not None and trainer.engine.monitor.threshold == 0.25


# ---------------------------------------------------------------------- updates with each batch
@pytest.mark.parametrize("asked", [1, 2, 3])
def test_every_update_is_a_step_of_the_engine_and_its_own_update_of_the_weights(asked: int, bare: Path) -> None:
    """On the same batch, which stays as it is. With one it is what a step was before there were several, bit for bit."""
    batches = [images(["a", "b"], seed=seed) for seed in range(2)]
    untouched = deepcopy(batches)
    trainer, by_hand = (make_trainer(bare_plans(patch=PATCH, prox=FEW | {"members_per_batch": asked})) for _ in range(2))
    last, losses = trainer.epochs - 1, []
    for one in (trainer, by_hand):
        one.initialize()
        one.current_epoch = last  # whose stage draws members, and warms up
        one.on_train_epoch_start()
    outputs = [trainer.train_step(batch) for batch in batches]
    for step in range(2 * asked):
        batch = batches[step // asked]
        by_hand.optimizer.zero_grad()
        losses.append(by_hand.engine.step(batch["data"], batch["target"], epoch=last, step=step).loss)
        torch.nn.utils.clip_grad_norm_(by_hand.supernet.parameters(), 12)
        by_hand.optimizer.step()
    assert equal(everything(trainer), everything(by_hand)) and equal(batches, untouched)
    means = torch.stack(losses).reshape(2, asked).mean(1)
    assert [float(output["loss"]) for output in outputs] == means.tolist()
    assert all(output["updated"] is True and output["loss"].shape == () for output in outputs)


def test_a_batch_whose_loss_is_not_finite_is_counted_once(bare: Path) -> None:
    trainer = make_trainer(bare_plans(patch=PATCH, prox=FEW | {"members_per_batch": 4}))
    trainer.initialize()
    trainer.on_train_epoch_start()
    batch = images(["a", "b"])
    batch["data"][1] = torch.nan
    output = trainer.train_step(batch)
    assert output["updated"] is False and np.isnan(output["loss"])
    assert log_of(trainer).count("ProX skips an update, 1 so far: the loss is nan with b") == trainer.updates.skipped == 1


@pytest.mark.parametrize(
    ("device", "processes", "said"),
    [
        ("cpu", "3", "on a CPU the updates take the cores that load the batches"),
        ("cuda", "0", "with nnUNet_n_proc_DA=0 the process that trains loads the batches, and does not do both at once"),
        ("cuda", "3", None),
    ],
)
def test_fill_says_why_it_fills_nothing(
    device: str, processes: str, said: str | None, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Filled(ProXTrainerTiny):
        members_per_batch = "fill"

    monkeypatch.setenv("nnUNet_n_proc_DA", processes)
    trainer = make_trainer(bare_plans(prox=FEW), cls=Filled)
    trainer.initialize()
    trainer.device = torch.device(device)
    updates = updates_of(trainer, {}, stages=1)
    for _ in range(2):
        updates.begin_epoch(0, batches=1)
        assert updates.run(lambda step: (torch.zeros(()), True)) == (0, True) and updates.step == 1
    assert (updates.end_epoch() is None) == (said is not None)
    line = f"members_per_batch is 'fill', but each batch trains one member: {said}"
    assert (line in log_of(trainer).splitlines()[-1]) == (said is not None)


def test_the_log_says_what_fill_has_measured(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(bare_plans(patch=PATCH, prox=FEW))
    trainer.initialize()
    trainer.updates_per_batch = UpdatesPerBatch("fill", stages=3)
    monkeypatch.setattr("monai_prox.training.updates_per_batch.perf_counter", partial(next, count_up()))  # of equal times
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(images(["a", "b"])) for _ in range(4)])
    line = "ProX stage 'smallest' waited for batches in 50% of the time; updates with each batch from now on: 2"
    assert log_of(trainer).count(line) == log_of(trainer).count("waited for batches") == 1
    assert trainer.updates_per_batch.state_dict() == [2, None, None]


def _rank_with_two_members(rank: int, file: str, out: str, environment: dict[str, str]) -> None:
    os.environ.clear()  # the fork server has that of the test that started it
    os.environ.update(environment)
    trainer = closing(members_per_batch=2)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    trainer.is_ddp, trainer.local_rank = True, rank
    trainer.on_train_epoch_start()
    trainer.train_step(images(["case_0", "case_1"], seed=rank))
    torch.save([trainer.network.state_dict(), trainer.engine.state_dict()["updates"]], f"{out}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks_make_the_same_updates_with_each_batch(bare: Path) -> None:
    start_two(_rank_with_two_members, bare)
    first, second = (torch.load(bare / f"out.{rank}") for rank in (0, 1))
    assert equal(first, second) and first[1] == 2


def test_other_networks_are_refused(bare: Path) -> None:
    plans = bare_plans()
    name = "dynamic_network_architectures.architectures.primus.Primus"
    plans["configurations"][FULLRES]["architecture"]["network_class_name"] = name
    with pytest.raises(ProXError, match=f"{name}; supported are nnU-Net's PlainConvUNet, ResidualEncoderUNet"):
        make_trainer(plans).initialize()


def test_one_epoch_is_one_stage_with_all_that_is_open(bare: Path) -> None:
    class OneEpoch(ProXTrainerTiny):
        epochs = 1

    trainer = make_trainer(bare_plans(), cls=OneEpoch)
    trainer.initialize()
    (stage,) = trainer.engine.schedule.stages
    assert stage.space(trainer.engine.final_space) == trainer.engine.final_space


@pytest.mark.parametrize("kernel", [3, 5])
def test_inference_builds_the_largest_member(kernel: int) -> None:
    """The plan's own network, or where the choices go beyond it, as the paper's kernels do, the largest of them."""
    manager = PlansManager(bare_plans(patch=PATCH))
    configuration = manager.get_configuration(FULLRES)
    cls = ProXTrainerPaper if kernel == 5 else ProXTrainerTiny
    for deep in (False, True):
        network = cls.build_network_architecture(manager, configuration, 1, 3, enable_deep_supervision=deep)
        outputs = network(torch.zeros(1, 1, *PATCH))
        assert network.decoder.deep_supervision == deep == isinstance(outputs, list | tuple)
        convolutions = {name: w.shape for name, w in network.state_dict().items() if name.endswith("convs.0.conv.weight")}
        assert convolutions["encoder.stages.2.0.convs.0.conv.weight"] == (16, 8, kernel, kernel, kernel)
        assert len(network.encoder.stages) == 3


# ---------------------------------------------------------------------- the monitor
ELASTIC = {"depth": "full", "width": [0.5, 1.0], "kernel": [3, 5], "levels": 1, "resolution": [1.0]}
DIMENSIONS = ("levels", "width", "kernel")


class Closing(ProXTrainerTiny):
    """The last stage is of five epochs: trials begin, and two choices are closed, two epochs each."""

    epochs = 11
    validation_iterations_per_epoch = 8  # so that enough cases are drawn, of which nothing is compared while the family grows
    validation_interval = 1
    monitor_threshold = 10.0
    monitor_patience = 1

    def initialize(self) -> None:
        self.initial_lr = 1e-7  # so few steps would end at nothing but background, upon which nothing is closed
        super().initialize()

    def on_validation_epoch_start(self) -> None:
        self.num_val_iterations_per_epoch = 8 if self.current_epoch >= 6 else 1
        super().on_validation_epoch_start()


class Unmonitored(Closing):
    monitored = False


class Rarely(Closing):
    validation_interval = 1000


def closing(cls: type = Closing, **asked: Any) -> Any:
    trainer = make_trainer(bare_plans(patch=PATCH, prox={"space": ELASTIC} | asked, **SHALLOW), cls=cls)
    trainer.initialize()
    trainer.network.load_state_dict(trainer.network.state_dict())  # as if pretrained, so that members without a training differ
    return trainer


def until_judged(trainer: Any, batches: Sequence[dict[str, Any]] = SIX) -> None:
    """Validates until the next trial has ended. A trial's first validation is not judged, and the first trial has to begin."""
    known = len(verdicts_of(trainer.engine.comparisons))
    for _ in range(1 + 1 + trainer.engine.monitor.patience):
        if len(verdicts_of(trainer.engine.comparisons)) == known:
            validate(trainer, batches)
    assert len(verdicts_of(trainer.engine.comparisons)) == known + 1


def log_of(trainer: Any) -> str:
    return Path(trainer.log_file).read_text()


def case_dice(trainer: Any, subnet: Subnet, batches: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean Dice of both classes by case, image by image."""
    seen: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for batch in batches:
        for image, target, case in zip(batch["data"], batch["target"][0], batch["keys"], strict=True):
            with torch.no_grad():
                labels = trainer.supernet.view(subnet).eval()(image[None]).argmax(1)
            seen.setdefault(case, []).append((labels.numpy().ravel(), target.numpy().ravel()))
    pairs = {case: map(np.concatenate, zip(*of, strict=True)) for case, of in seen.items()}
    return {case: dice_of(*pair, {"one": 1, "two": 2}) for case, pair in pairs.items()}


def test_the_gain_of_a_choice_is_compared_case_by_case(bare: Path) -> None:
    """Of random networks on random images; a case may be drawn more than once, within a batch and in several."""
    trainer = closing(monitor={"threshold": -10})
    trainer.named_members = {}  # what is watched beside is not of interest
    batches = [images(["a", "b", "a"], seed=1), images(["c", "d"], seed=2), images(["b", "e", "f"], seed=3)]
    for _ in DIMENSIONS:
        until_judged(trainer, batches)
    space = trainer.engine.space
    assert trainer.engine.trial is None and trainer.engine.monitor.members(space) == []
    dice = case_dice(trainer, space.largest(), batches)
    assert set(dice) == set("abcdef")
    assert {comparison.dimension for comparison in trainer.engine.comparisons} == set(DIMENSIONS)
    for comparison in trainer.engine.comparisons:
        less = case_dice(trainer, space.without_last(comparison.dimension).largest(), batches)
        gains = [dice[case] - less[case] for case in dice]
        assert comparison.cases == 6 and comparison.choices == 2 and comparison.epoch == 10
        assert comparison.gain == pytest.approx(np.mean(gains))
        assert comparison.error == pytest.approx(np.std(gains, ddof=1) / 6**0.5)
        assert str(comparison) in log_of(trainer)


def test_what_is_not_worth_its_cost_is_closed(bare: Path) -> None:
    trainer = closing()
    trainer._best_ema = 0.9
    before, old = trainer.engine.final_space, trainer.named_members
    validate(trainer)
    assert trainer.engine.trial is not None and trainer.engine.trial == trainer.engine.monitor.trial(before)
    until_judged(trainer)
    assert trainer.engine.trial == trainer.engine.monitor.trial(trainer.engine.space)
    (closed,) = [comparison for comparison in trainer.engine.comparisons if comparison.verdict == "closed"]
    assert trainer.engine.closed == {closed.dimension: 1}
    space = trainer.engine.final_space
    assert space == before.restrict(dict.fromkeys(DIMENSIONS, 2) | {closed.dimension: 1})
    assert trainer.named_members == named_members(trainer.supernet.family, PATCH, space) != old
    assert trainer._best_ema is None
    macs = [count(cost.macs(trainer.supernet.family, largest, PATCH)) for largest in (space.largest(), before.largest())]
    assert macs[0] != macs[1] and (
        f"ProX closes the last choice of {closed.dimension}: {space.size():,} of {before.size():,} members stay open, the "
        f"largest has {macs[0]} MACs per input, it had {macs[1]}. Open: {space}"
    ) in log_of(trainer)
    (x,) = (batch["data"] for batch in SIX)
    with torch.no_grad():
        member = trainer.supernet.member(space.largest())(x)
        assert all(map(torch.equal, trainer.network(x), member))
        assert not torch.equal(member[0], trainer.supernet.member(before.largest())(x)[0])
    until_judged(trainer)  # the next
    assert len(trainer.engine.closed) == 2 and trainer.engine.comparisons[-1].dimension != closed.dimension


@pytest.mark.parametrize(
    ("cls", "asked", "epoch"),
    [
        (Closing, {"monitor": False}, None),
        (Unmonitored, {}, None),
        (Closing, {"recipe": "prox_paper"}, None),
        (Closing, {"recipe": "sandwich"}, None),
        (Closing, {}, 2),
        (Rarely, {}, 7),
    ],
    ids=["plan", "trainer", "paper", "sandwich", "growth", "not due"],
)
def test_where_nothing_is_monitored_nothing_is_compared(
    cls: type, asked: dict[str, Any], epoch: int | None, bare: Path
) -> None:
    trainer = closing(cls, **asked)
    trainer._best_ema = 0.9
    validate(trainer, epoch=epoch)
    validate(trainer, epoch=epoch)
    assert trainer.engine.comparisons == [] and trainer.engine.trial is None and trainer.engine.closed == {}
    assert trainer._best_ema == 0.9
    assert "ProX monitor" not in log_of(trainer) and "closes" not in log_of(trainer)


def test_a_plan_may_ask_for_the_monitor_and_its_settings(bare: Path) -> None:
    trainer = closing(Unmonitored, monitor={})
    trainer.named_members = {}  # what is watched beside is not of interest
    assert (trainer.engine.monitor.threshold, trainer.engine.monitor.patience) == (10.0, 1)
    until_judged(trainer)
    assert len(trainer.engine.comparisons) == 2 and trainer.engine.closed
    patient = closing(monitor={"patience": 2})
    patient.named_members = {}
    assert (patient.engine.monitor.threshold, patient.engine.monitor.patience) == (10.0, 2)
    until_judged(patient)
    assert len(patient.engine.comparisons) == 3 and patient.engine.closed
    assert make_trainer(bare_plans()).monitor_threshold == 0.005 and make_trainer(bare_plans()).monitor_patience == 3


def test_a_training_that_goes_on_without_its_monitor_has_no_trial(bare: Path) -> None:
    first = closing()
    validate(first)
    assert first.engine.trial is not None
    file = str(bare / "checkpoint.pth")
    first.save_checkpoint(file)
    with_it, without = closing(), closing(monitor=False)
    for trainer in (with_it, without):
        trainer.load_checkpoint(file)
    assert with_it.engine.trial == first.engine.trial
    assert without.engine.trial is None


def test_a_trial_ends_where_a_stage_opens(bare: Path) -> None:
    """And not in its other epochs: the choices that are compared have to be the same."""
    judged, trainer = closing(), closing()
    validate(judged)
    for epoch in range(3):
        trainer.engine.monitor.load_state_dict(judged.engine.monitor.state_dict())
        assert trainer.engine.monitor.state_dict()["trial"] is not None
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        opens = epoch in trainer.engine.schedule.starts
        assert (trainer.engine.monitor.state_dict()["trial"] is None) == opens


def test_a_training_that_goes_on_has_all_that_was_there(bare: Path) -> None:
    """Once a choice has been closed and the next one is on trial."""
    few = {"depth": "full", "width": [1.0], "levels": 1, "resolution": [0.75, 1.0]}
    first, second = closing(space=few), closing(space=few)
    until_judged(first)
    first._best_ema = 0.9
    file = str(bare / "checkpoint.pth")
    first.save_checkpoint(file)
    second.load_checkpoint(file)
    first.current_epoch += 1  # of which a checkpoint is the start
    assert len(first.engine.closed) == 1 and first.engine.trial is not None and first.progress
    assert equal(everything(second), everything(first))
    assert second.engine.trial == first.engine.trial and second.engine.space == first.engine.space
    assert second.network.open_part.closed == first.network.open_part.closed == first.engine.closed
    assert second._best_ema == 0.9


def test_a_few_cases_decide_nothing(bare: Path) -> None:
    trainer = closing()
    for _ in range(3):
        validate(trainer, [images(["a", "b", "c", "d", "a", "b"])])
    assert trainer.engine.comparisons == [] and trainer.engine.trial is None and trainer.engine.closed == {}


def test_the_monitor_changes_nothing_in_validation(bare: Path) -> None:
    """nnU-Net's own validation has the same results with it as without it."""
    results = {}
    for name, monitor in {"on": {"threshold": -10}, "off": False}.items():
        trainer = closing(monitor=monitor)
        results[name] = [validate(trainer) for _ in range(3)], everything(trainer)
    assert results["on"][1]["engine"].pop("monitor") != results["off"][1]["engine"].pop("monitor")
    assert equal(results["on"], results["off"])


@pytest.mark.parametrize("recipe", ["prox", "progressive_shrinking"])
def test_the_whole_network_is_validated_as_its_copy(recipe: str, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validated = closing(recipe=recipe)
    results = validate(validated)
    monkeypatch.setattr(member_validation, "member_of", SuperNet.member)
    copied = closing(recipe=recipe)
    assert equal(results, validate(copied))
    assert equal(validated.member_validation.outputs, copied.member_validation.outputs)
    assert validated.member_validation.dice_by_case() == copied.member_validation.dice_by_case()


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_copies_of_members_live_as_long_as_their_validation(closed: bool, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole network is not copied. After a choice was closed, the largest open member is another, and is."""
    trainer = closing()
    if closed:
        trainer.named_members = {}  # which a closing chooses anew
        until_judged(trainer)
        assert trainer.engine.closed
    copies, extract, whole = {}, trainer.supernet.extract, trainer.supernet.family.space.largest()

    def remember(subnet: Subnet) -> Any:
        network = extract(subnet)
        copies[subnet] = weakref.ref(network)
        return network

    monkeypatch.setattr(trainer.supernet, "extract", remember)
    validate(trainer)
    gc.collect()
    assert trainer.named_members["smallest"] in copies and whole not in copies
    assert (trainer.engine.space.largest() in copies) == closed
    assert not any(reference() for reference in copies.values())
    assert set(trainer.member_validation.outputs) == set(trainer.named_members)


def test_the_pseudo_dice_of_ranks_is_of_all_their_patches() -> None:
    """A third class neither occurs nor is predicted."""
    tp, fp, fn = ([[1, 0, 0], [3, 2, 0]], [[2, 0, 0], [0, 0, 0]], [[1, 4, 0], [0, 0, 0]])  # by rank
    parts = [
        [{"tp_hard": np.array(tp[rank]), "fp_hard": np.array(fp[rank]), "fn_hard": np.array(fn[rank])}] for rank in range(2)
    ]
    both = in_threads(2, lambda rank: pseudo_dice(parts[rank]))
    assert both == [pytest.approx((8 / 11 + 4 / 8) / 2)] * 2
    assert pseudo_dice(parts[0] + parts[1]) == both[0]


def test_ranks_close_by_the_cases_of_all(bare: Path) -> None:
    """Four cases of the first and three of the second, one of them the same; too few to decide by itself."""
    trainers, cases = [closing(**FEW) for _ in range(2)], [f"case_{number}" for number in range(6)]
    for trainer in trainers:
        trainer.named_members = {}  # what is watched beside is not of interest
    batches = [[images(cases[:4], seed=0)], [images(cases[3:], seed=1)]]
    in_threads(2, lambda rank: until_judged(trainers[rank], batches[rank]))
    first, second = trainers
    assert first.engine.monitor.state_dict() == second.engine.monitor.state_dict()
    assert all(comparison.cases == 6 for comparison in first.engine.monitor.history)
    assert first.engine.closed == second.engine.closed == {"resolution": 1}


def start_two(rank: Callable[..., None], folder: Path) -> None:
    arguments = str(folder / "rendezvous"), str(folder / "out"), dict(os.environ)
    torch.multiprocessing.start_processes(rank, arguments, nprocs=2, start_method="forkserver")


def _rank(rank: int, file: str, out: str, environment: dict[str, str]) -> None:
    os.environ.clear()  # the fork server has that of the test that started it
    os.environ.update(environment)
    trainer = closing()  # nnU-Net distributes over GPUs only
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    trainer.is_ddp, trainer.local_rank, loss = True, rank, trainer.loss
    calls = []

    def counted(outputs: Any, targets: Any) -> Any:
        calls.append(len(targets[0]))
        return loss(outputs, targets)

    trainer.loss = counted
    cases = [f"case_{number}" for number in range(6)]
    until_judged(trainer, [images(cases[:4] if rank == 0 else cases[3:], seed=rank)])  # the ranks may have unlike batches
    torch.save([trainer.engine.monitor.state_dict(), trainer.engine.closed, str(trainer.engine.trial), calls], f"{out}.{rank}")
    torch.distributed.destroy_process_group()


def _rank_with_a_bad_case(rank: int, file: str, out: str, environment: dict[str, str]) -> None:
    os.environ.clear()  # the fork server has that of the test that started it
    os.environ.update(environment)
    trainer = closing()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    trainer.is_ddp, trainer.local_rank = True, rank
    batches = [images(["case_0", "case_1"], seed=seed) for seed in (0, 1)]
    if rank == 1:
        batches[0]["data"].fill_(torch.nan)
    trainer.engine.begin_epoch(0)
    outputs = [trainer.train_step(batch) for batch in batches]
    trainer.on_train_epoch_end(outputs)
    torch.save([trainer.logger.get_value("train_losses", step=None), float(outputs[1]["loss"])], f"{out}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks_report_the_loss_of_the_same_updates(bare: Path) -> None:
    """One rank's loss of the first is not finite, so all have skipped it."""
    start_two(_rank_with_a_bad_case, bare)
    (losses, mine), (others, other) = (torch.load(bare / f"out.{rank}", weights_only=False) for rank in (0, 1))
    assert losses == others == [pytest.approx((mine + other) / 2)]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks_close_alike(bare: Path) -> None:
    """And call the loss equally often: nnU-Net's waits for all ranks."""
    start_two(_rank, bare)
    (*first, calls), (*second, other_calls) = (torch.load(bare / f"out.{rank}") for rank in (0, 1))
    assert first == second
    history, closed, trial = first
    assert len(closed) == 1 and trial != "None"
    assert all(comparison["cases"] == 6 for comparison in history["history"])
    assert len(calls) == len(other_calls) and set(calls) == {4} and set(other_calls) == {3}


def keep_latest(trainer: Any, folder: Path) -> None:
    """Makes the training keep its latest checkpoint of each epoch below ``folder``, as one that breaks off in it leaves it."""
    begin, trainer.kept, trainer.save_every = trainer.on_epoch_start, folder, 1

    def on_epoch_start() -> None:
        if trainer.current_epoch:
            shutil.copy(Path(trainer.output_folder, LATEST), folder / f"{trainer.current_epoch}.pth")
        begin()

    trainer.on_epoch_start = on_epoch_start


@pytest.fixture(scope="module")
def closed(phantom: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Plans, a trainer that has closed two choices of a training by them, and all that it has made."""
    plans = cut_plans(phantom.plans(), FULLRES, CUT, PATCH, shallow=True, prox={"space": ELASTIC})
    plotting = patch("monai_prox.nnunet.family_report.plot_progress")
    with training_on(phantom, tmp_path_factory.mktemp("closed")), plotting as plot:
        trainer = make_trainer(plans, phantom.dataset(), cls=Closing, fold="all")  # all eight cases are for validation, too
        keep_latest(trainer, tmp_path_factory.mktemp("broken_off"))
        trainer.run_training()
    plot_progress(*plot.call_args.args, **plot.call_args.kwargs)  # once, for it takes longer than an epoch here
    trainer.plotted = plot.call_args.kwargs
    return plans, trainer, everything(trainer)


def test_a_training_reports_what_it_has_closed(closed: tuple[dict[str, Any], Any, dict[str, Any]]) -> None:
    _, trainer, _ = closed
    assert [(epoch, verdict) for epoch, _, verdict in verdicts_of(trainer.engine.comparisons)] == [
        (8, "closed"),
        (10, "closed"),
    ]
    assert set(trainer.engine.closed) == {dimension for _, dimension, _ in verdicts_of(trainer.engine.comparisons)}
    folder = Path(trainer.output_folder)
    family = json.loads((folder / "family.json").read_text())
    space = trainer.engine.final_space
    assert family["closed"] == trainer.engine.closed and family["space"] == space.to_json()
    assert family["monitor"] == [comparison.to_json() for comparison in trainer.engine.comparisons]
    members = {member["name"]: Subnet.from_json(member["subnet"]) for member in family["members"]}
    assert members == named_members(trainer.supernet.family, PATCH, space) and members["largest"] == space.largest()
    assert log_of(trainer).count("ProX closes the last choice of") == 2
    assert (folder / "prox_progress.png").read_bytes().startswith(b"\x89PNG")
    assert trainer.plotted["verdicts"] == verdicts_of(trainer.engine.comparisons)


def test_what_is_closed_trains_no_more(closed: tuple[dict[str, Any], Any, dict[str, Any]]) -> None:
    _, trainer, _ = closed
    trained = dict.fromkeys(
        (dimension for epoch, dimension, _ in verdicts_of(trainer.engine.comparisons) if epoch < 10), 1
    )  # not after the last epoch
    used = trainer.supernet.regions(trainer.supernet.family.space.narrow(trained).largest())
    for name, parameter in trainer.network.named_parameters():
        stale = torch.ones_like(parameter, dtype=torch.bool)
        if name in used:
            fill(stale, used[name], False)
        if parameter.grad is not None:
            assert not parameter.grad[stale].any(), name
        assert not (stale.all() and parameter.requires_grad), name


@pytest.mark.parametrize(
    ("epoch", "closings"),
    [pytest.param(8, 0, marks=pytest.mark.slow), (9, 1), pytest.param(10, 1, marks=pytest.mark.slow)],
    ids=["trial", "closed", "next trial"],
)
def test_a_training_continues_across_a_closing(
    epoch: int, closings: int, closed: tuple[dict[str, Any], Any, dict[str, Any]], in_phantom: Prepared
) -> None:
    plans, first, expected = closed
    second = make_trainer(plans, in_phantom.dataset(), cls=Closing, fold="all", continue_training=True)
    Path(second.output_folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(first.kept / f"{epoch}.pth", Path(second.output_folder, LATEST))
    maybe_load_checkpoint(second, continue_training=True, validation_only=False)
    assert second.current_epoch == epoch and len(second.engine.closed) == closings and second.engine.trial is not None
    assert second.named_members == named_members(second.supernet.family, PATCH, second.engine.final_space)
    second.run_training()
    actual = everything(second)
    for part, value in expected.items():
        assert equal(value, actual[part]), part


def test_nnunet_predicts_with_the_largest_that_is_open(
    closed: tuple[dict[str, Any], Any, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trainer, _ = closed
    monkeypatch.setenv("nnUNet_extTrainer", str(write_trainers(tmp_path / "trainers", Closing)))
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, ("all",))
    model = ModelFolder.open(trainer.output_folder_base)
    checkpoint = torch.load(model.path / "fold_all" / FINAL, weights_only=True)
    x = torch.randn(2, 1, *PATCH, generator=torch.Generator().manual_seed(0))
    space = trainer.engine.final_space
    supernet = model.supernet(checkpoint)
    assert supernet.family.space == space
    with torch.no_grad():
        expected = trainer.supernet.view(space.largest()).eval()(x)
        assert torch.equal(predictor.network.eval()(x), expected)
        assert torch.equal(supernet(x, space.largest()), expected)
        smallest = trainer.supernet.view(space.smallest()).eval()(x)
        assert torch.equal(supernet(x, space.smallest()), smallest)


def test_pretrained_weights_of_a_training_that_closed_choices_open_all(bare: Path) -> None:
    first = closing()
    first.named_members = {}  # what is watched beside is not of interest
    until_judged(first)
    file = str(bare / "checkpoint.pth")
    first.save_checkpoint(file)
    second = closing()
    maybe_load_checkpoint(second, False, False, file)
    assert second.engine.closed == {} and second.network.open_part.closed == {}
    weights = first.network.state_dict()
    assert set(weights) - set(second.network.state_dict()) == {ENTRY}
    for name, weight in second.network.state_dict().items():
        assert ".seg_layers." in name or torch.equal(weight, weights[name]), name


# ---------------------------------------------------------------------- Progressive Shrinking
class Shrinking(ProXTrainerTiny, ProgressiveShrinkingTrainer):
    """As long as there are stages, with one epoch more for the first."""

    epochs = 5


@pytest.mark.slow
def test_progressive_shrinking_trains_its_kernels_transforms(in_phantom: Prepared) -> None:
    space = {"depth": "all", "width": [0.5, 1.0], "kernel": [3, 5], "levels": 0, "resolution": [1.0]}
    plans = cut_plans(in_phantom.plans(), FULLRES, CUT, PATCH, prox={"space": space})
    trainer = make_trainer(plans, in_phantom.dataset(), cls=Shrinking)
    trainer.save_every = 1
    stop_in(trainer, 3)
    with pytest.raises(BreakOffError):
        trainer.run_training()
    continued = make_trainer(plans, in_phantom.dataset(), cls=Shrinking, continue_training=True)
    maybe_load_checkpoint(continued, continue_training=True, validation_only=False)
    continued.run_training()
    trainer = make_trainer(plans, in_phantom.dataset(), cls=Shrinking, fold=1)
    trainer.fold = 0  # the same training, in another folder
    trainer.run_training()
    assert equal(everything(trainer), everything(continued))

    assert [stage.name for stage in trainer.engine.schedule.stages] == ["largest", "kernel", "depth", "width"]
    transforms = trainer.supernet.kernel_transforms
    assert transforms is not None and trainer.engine.comparisons == [] and trainer.engine.closed == {}
    for matrix in transforms.parameters():
        assert matrix.isfinite().all() and not torch.equal(matrix, torch.eye(len(matrix)))
    model = ModelFolder.open(continued.output_folder_base)
    _, subnet = model.member("smallest")
    exported = torch.load(export_nnunet(TrainedNNUNet.of(model), "smallest") / "fold_0" / FINAL, weights_only=True)[
        "network_weights"
    ]
    assert equal(dict(exported), dict(trainer.supernet.extract(subnet).state_dict()))
    crops = SuperNet(trainer.supernet.family, trainer.network).extract(subnet).state_dict()
    kernels = [name for name, weight in exported.items() if name.endswith("conv.weight")]
    assert kernels and all(exported[name].shape[2:] == (3, 3, 3) for name in kernels)
    assert not any(torch.equal(exported[name], crops[name]) for name in kernels)


# ---------------------------------------------------------------------- a whole training by nnU-Net's command
@pytest.fixture(scope="module")
def trained(phantom: Prepared, tiny_trainers: Path) -> Path:
    """The model folder after ``nnUNetv2_train``, whose family has two members. The demo, in the campaign, starts it anew."""
    plans = cut_plans(phantom.plans(), FULLRES, "nnUNetPlansTwo", WHOLE, (4, 8), shallow=True, prox={"space": TWO_MEMBERS})

    def fill(results: Path) -> None:
        phantom.write_plans(plans)
        env = phantom.environment(nnUNet_results=results, nnUNet_extTrainer=tiny_trainers)
        run(["nnUNetv2_train", 990, FULLRES, 0, "-tr", "ProXTrainerTiny", "-p", "nnUNetPlansTwo", "-device", "cpu"], env)

    return made_once("trained_by_nnunet", fill) / phantom.name / f"ProXTrainerTiny__nnUNetPlansTwo__{FULLRES}"


def test_the_log_says_what_opens(trained: Path) -> None:
    (log,) = (trained / "fold_0").glob("training_log_*.txt")
    text = log.read_text()
    opened = re.findall(r"Epoch (\d+) \n(?:.*\n)?.*ProX stage '(.+)' opens: (\d+) of (\d+) members", text)
    assert opened == [("0", "smallest", "1", "2"), ("2", "resolution", "2", "2"), ("3", "everyone", "2", "2")]
    assert re.search(r"Recipe prox: smallest from epoch 0, resolution from epoch 2, everyone from epoch 3", text)


def test_the_log_ends_with_a_table_of_the_members_and_the_next_command(trained: Path) -> None:
    """And not with the Dice of the member that was validated last."""
    (log,) = (trained / "fold_0").glob("training_log_*.txt")
    _, _, end = log.read_text().rpartition("Members of the family\n")
    head, smallest, largest, caption, *what, last = end.strip().splitlines()
    assert head.split() == ["member", "parameters", "MACs", "mean", "anterior", "posterior", "surface", "Dice"]
    members = json.loads((trained / "fold_0" / "family.json").read_text())["members"]
    for row, member in zip((smallest, largest), members, strict=True):
        assert row.split()[0] == member["name"]
        scores = [*(member["dice"][key] for key in ("mean", "1", "2")), member["surface_dice"]["mean"]]
        assert row.split()[-4:] == [f"{score:.3f}" for score in scores]
    assert "Dice by class, of whole cases that fold_0 held out, by nnU-Net's validation, which mirrors; surface" in caption
    assert caption.endswith("; surface Dice: within 1 mm.")
    assert [line.split(":")[0] for line in what] == ["smallest", "largest"]
    assert "predicts as the member largest" in last and f"monai-prox export {shlex.quote(str(trained))} --subnet" in last


def test_a_training_leaves_plots_validations_and_the_family(trained: Path) -> None:
    fold = trained / "fold_0"
    for picture in ("prox_progress.png", "progress.png"):
        assert (fold / picture).read_bytes().startswith(b"\x89PNG")
    family = json.loads((fold / "family.json").read_text())
    members = {member["name"]: member for member in family["members"]}
    assert set(members) == {"smallest", "largest"}
    assert members["smallest"]["parameters"] == members["largest"]["parameters"] == parameters_of(trained)
    assert 0 < members["smallest"]["macs"] < members["largest"]["macs"]
    for name, folder in {"largest": fold, "smallest": fold / "members" / "smallest"}.items():
        assert len(list((folder / "validation").glob("phantom_*.nii.gz"))) == 2  # of fold 0's eight cases
        summary = json.loads((folder / "validation" / "summary.json").read_text())
        assert members[name]["dice"]["mean"] == pytest.approx(summary["foreground_mean"]["Dice"], nan_ok=True)
        assert set(members[name]["dice"]) == {"mean", "1", "2"}
    assert [entry["epoch"] for entry in family["progress"]][-1] == 4
    assert not list(trained.rglob(".*"))  # no temporary file is left


def test_the_surface_dice_is_of_the_files_that_the_validation_wrote(trained: Path, phantom: Prepared) -> None:
    """Read here by nibabel, with the spacing of their headers."""
    family = json.loads((trained / "fold_0" / "family.json").read_text())
    assert family["surface_tolerance_mm"] == 1  # the phantom's voxels
    for member in family["members"]:
        folder = trained / "fold_0" / ("." if member["name"] == "largest" else f"members/{member['name']}") / "validation"
        cases = []
        for file in sorted(folder.glob("*.nii.gz")):
            predicted, truth = nib.load(file), nib.load(phantom.preprocessed / "gt_segmentations" / file.name)
            arrays = (np.asarray(volume.dataobj).astype(int) for volume in (predicted, truth))
            given = {"spacing": truth.header.get_zooms(), "tolerance": 1.0}
            cases.append(surface_dice_by_class(*arrays, {"1": 1, "2": 2}, **given))
        assert len(cases) == 2 and member["surface_dice"] == pytest.approx(mean_over_cases(cases), abs=1e-6)


def test_the_final_validation_is_of_the_members_that_the_plan_asks_for(trained: Path, in_phantom: Prepared) -> None:
    """Of a training that has validated both members, with mirroring, as ``--val`` does it after the plan has changed."""
    entry = {"space": TWO_MEMBERS, "validate": ["largest"], "validate_mirroring": False}
    plans = cut_plans(in_phantom.plans(), FULLRES, "nnUNetPlansTwo", WHOLE, (4, 8), shallow=True, prox=entry)
    trainer = make_trainer(plans, in_phantom.dataset())
    model = Path(trainer.output_folder_base)
    shutil.copytree(trained, model, dirs_exist_ok=True)
    of_smallest = model / "fold_0" / "members" / "smallest" / "validation" / "summary.json"
    of_smallest.write_text("of another validation")
    replace(FamilyFile.read(model / "fold_0" / "family.json"), license="CC0, Our Clinic").write(model / "fold_0")
    trainer.load_checkpoint(str(model / "fold_0" / FINAL))
    axes, known = [], nnUNetPredictor.manual_initialization

    def initialise(self: nnUNetPredictor, *arguments: Any) -> None:
        axes.append(arguments[-1])
        known(self, *arguments)

    with patch.object(nnUNetPredictor, "manual_initialization", initialise):
        trainer.perform_actual_validation()
    assert axes == [None] and trainer.inference_allowed_mirroring_axes == (0, 1, 2)
    assert of_smallest.read_text() == "of another validation"
    folder = ModelFolder.open(model)
    smallest, largest = folder.family().members
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert largest.scores is not None and largest.scores["mean"] == pytest.approx(summary["foreground_mean"]["Dice"])
    assert largest.surface_dice is not None and smallest.scores is None and smallest.surface_dice is None
    assert folder.family().mirroring is None and folder.family().license == "CC0, Our Clinic", "the weights are the same"
    assert "by nnU-Net's validation, without mirroring; surface" in folder.scored()
    assert "by nnU-Net's validation, without mirroring; surface" in log_of(trainer)
    summaries = [folder.validation_summary("fold_0", member.subnet, 5) for member in (smallest, largest)]
    assert summaries == [None, model / "fold_0" / "validation" / "summary.json"]
    (model / "fold_0" / "family.json").unlink()
    assert folder.family().mirroring == (0, 1, 2), "the folder's plan is that of the training"


def test_the_final_validation_is_of_members_that_remain(bare: Path) -> None:
    trainer = closing(validate=["small", "largest"])
    assert [*trainer.final_validation.members] == ["small", "largest"]
    trainer.named_members = {name: trainer.named_members[name] for name in ("smallest", "largest")}  # as after closing
    assert [*trainer.final_validation.members] == ["largest"]


def test_members_that_have_other_names_after_closing_are_validated(bare: Path) -> None:
    """They can be asked for, too, which is known once a checkpoint is loaded."""
    plans = bare_plans(prox={"space": {"width": [0.125, 0.25, 0.5, 1.0]}})
    configuration = plans["configurations"][FULLRES]
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 16, 32]

    def closed(**asked: Any) -> Any:
        configuration["prox"] |= asked
        trainer = make_trainer(plans)
        trainer.initialize()
        trainer.engine.begin_epoch(trainer.num_epochs - 1)
        assert [*trainer.named_members] == ["smallest", "small", "large", "largest"]
        trainer.engine.close("width")
        trainer._apply_closed()
        assert [*trainer.named_members] == ["smallest", "middle", "largest"]
        return trainer

    trainer = closed()
    assert trainer.final_validation.members == trainer.named_members
    assert [*closed(validate=["middle", "largest"]).final_validation.members] == ["middle", "largest"]
    assert [*closed(validate=["small", "largest"]).final_validation.members] == ["largest"], "it began with this entry"


def test_members_that_are_not_there_are_refused_before_anything_is_trained_or_validated(bare: Path) -> None:
    trainer = make_trainer(bare_plans(prox=FEW | {"validate": ["middle", "largest"]}))
    trainer.initialize()
    for begin in (trainer.on_train_start, trainer.perform_actual_validation):
        with pytest.raises(ProXError, match=r"of smallest, largest, .* got \['middle', 'largest'\]"):
            begin()
    assert not Path(trainer.output_folder, "validation").exists()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"validate": "largest"}, "the trainer's 'validate' lists members, .* got 'largest'"),
        ({"validate": ("smallest",)}, r"the trainer's 'validate' lists members, .* got \['smallest'\]"),
        ({"validate_mirroring": None}, "the trainer's 'validate_mirroring' is true or false, got None"),
        ({"members_per_batch": 0}, "the trainer's 'members_per_batch' is a whole number from 1 to 8, or 'fill', got 0"),
        ({"precision": "fp32"}, "the trainer's 'precision' is 'fp16' or 'bf16', got 'fp32'"),
        ({"surface_tolerance_mm": 0}, "the trainer's 'surface_tolerance_mm' is in mm, above 0 and at most 1000; got 0"),
    ],
)
def test_a_trainer_s_own_setting_is_named_where_it_is_wrong(attributes: dict[str, Any], message: str, bare: Path) -> None:
    with pytest.raises(ProXError, match=message):
        trainer = make_trainer(bare_plans(prox=FEW), cls=type("Mine", (ProXTrainerTiny,), attributes))
        trainer.initialize()
        assert trainer.final_validation.members


def parameters_of(trained: Path) -> int:
    return sum(weight.numel() for name, weight in weights_of(trained).items() if not name.startswith("decoder.encoder."))


def weights_of(trained: Path) -> dict[str, torch.Tensor]:
    """By name, each tensor once: a U-Net's encoder is registered in its decoder too, and its layers in a list of all."""
    weights = torch.load(trained / "fold_0" / FINAL, weights_only=True)["network_weights"]
    return {name: weight for name, weight in weights.items() if ".all_modules." not in name}


def test_a_checkpoint_is_plain_data(trained: Path) -> None:
    checkpoint = torch.load(trained / "fold_0" / FINAL, weights_only=True)
    assert checkpoint["trainer_name"] == "ProXTrainerTiny" and checkpoint["init_args"]["configuration"] == FULLRES
    assert checkpoint["current_epoch"] == 5
    assert equal(checkpoint, load_checkpoint(trained / "fold_0" / FINAL))


def test_nnunet_predicts_with_the_largest(trained: Path, tiny_trainers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(tiny_trainers))
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(trained), None)
    model = ModelFolder.open(trained)
    supernet = model.supernet(model.checkpoint("fold_0"))
    x = torch.randn(2, 1, *PATCH, generator=torch.Generator().manual_seed(0))
    largest = supernet.family.space.largest()
    assert model.member("largest") == ("largest", largest)
    assert isinstance(largest, Subnet)
    assert torch.equal(predictor.network.eval()(x), supernet(x, largest))
