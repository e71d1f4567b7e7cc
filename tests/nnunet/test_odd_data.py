"""Data as it should not be, or seldom is: both pipelines train on it, validate on it, and leave a family."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.bundle_commands import TINY, arguments, copy_bundles, monai, write_ellipsoids
from helpers.nnunet_task import CUT, FULLRES, TWO_MEMBERS, ProXTrainerQuick, cut_plans, make_trainer, prepare, training_on

SMALL = (14, 18, 12)  # every edge less than those of PATCH
PATCH = (16, 24, 20)
THICK = (28, 30, 6)


def labelled(*names: str) -> Sequence[str]:
    return "background", *names


def channels(count: int) -> Sequence[str]:
    return [f"channel {number}" for number in range(count)]


def write_sparse(root: Path) -> Path:
    """Four channels. Case 0 has no foreground, cases 1 and 2 lack a class; only case 3 is whole; case 4 has none again."""
    absent = {0: (1, 2), 1: (2,), 2: (2,), 4: (1, 2)}
    return write_ellipsoids(
        root / "Task991_Sparse", channels(4), labelled("common", "rare"), SMALL, (1.0, 1.0, 1.0), cases=5, absent=absent
    )


def write_thick(root: Path, cases: int) -> Path:
    """Twenty channels and slices ten times as thick as their pixels."""
    labels = labelled("one", "two", "three")
    return write_ellipsoids(root / "Task992_Thick", channels(20), labels, THICK, (0.5, 0.5, 5.0), cases=cases)


def ignore(task: Path, case: int) -> None:
    """Makes all of a case's labels 3."""
    file = task / "labelsTr" / f"case_{case}.nii.gz"
    label = nib.load(file)
    nib.save(nib.Nifti1Image(np.full(label.shape, 3, np.uint8), label.affine), file)


# ---------------------------------------------------------------------- nnU-Net
def train(
    task: Path,
    root: Path,
    configuration: str,
    patch: Sequence[int],
    *,
    fold: Any = 0,
    split: tuple[Sequence[int], Sequence[int]] | None = None,
    features: Sequence[int] = (4, 8, 16),
    **entries: Any,
) -> tuple[Any, dict[str, dict[str, float]]]:
    """A trainer that has trained and validated on the cases that ``split`` says, and the Dice of its members."""
    prepared = prepare(task, root, (configuration,), **entries)
    if split is not None:
        parts = [[f"case_{number}" for number in part] for part in split]
        splits = [dict(zip(("train", "val"), parts, strict=True))]
        (prepared.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    plans = cut_plans(prepared.plans(), configuration, CUT, patch, features, shallow=True, prox={"space": TWO_MEMBERS})
    with training_on(prepared, root / "nnUNet_results"):
        trainer = make_trainer(plans, prepared.dataset(), cls=ProXTrainerQuick, fold=fold)
        trainer.initialize()
        trainer.run_training()
        trainer.perform_actual_validation()
    assert trainer.updates.skipped == 0
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    family = json.loads(Path(trainer.output_folder, "family.json").read_text())
    return trainer, {member["name"]: member["dice"] for member in family["members"]}


@pytest.fixture(autouse=True)
def few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.default_num_processes", 1)


def test_nnunet_without_foreground_or_a_class_and_smaller_than_the_patch(tmp_path: Path) -> None:
    """Training never sees the rare class; of the two validated cases one has no class at all. Two levels are planned."""
    task = write_sparse(tmp_path)
    trainer, dice = train(task, tmp_path, FULLRES, PATCH, split=((0, 1, 2), (3, 4)), features=(4, 8))
    assert trainer.num_input_channels == 4
    assert dice.keys() == {"smallest", "largest"} and all(scores.keys() == {"mean", "1", "2"} for scores in dice.values())


def test_nnunet_with_thick_slices_twenty_channels_regions_and_a_case_that_is_all_ignored(tmp_path: Path) -> None:
    task = write_thick(tmp_path, cases=3)
    ignore(task, 0)
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    trainer, dice = train(task, tmp_path, FULLRES, (4, 16, 16), split=((0, 1), (2,)), labels=labels, regions_class_order=[1, 2])
    kernels = trainer.configuration_manager.configuration["architecture"]["arch_kwargs"]["kernel_sizes"]
    assert list(kernels[0]) == [1, 3, 3]
    assert trainer.num_input_channels == 20
    assert all(scores.keys() == {"mean", "(1, 2)", "2"} for scores in dice.values())


def test_nnunet_with_one_case_of_one_slice(tmp_path: Path) -> None:
    task = write_ellipsoids(
        tmp_path / "Task993_One", channels(1), labelled("one", "two"), (40, 32, 1), (1.0, 1.0, 1.0), cases=1
    )
    trainer, dice = train(task, tmp_path, "2d", (16, 24), fold="all")
    assert trainer.network.encoder.stages[0][0].convs[0].conv.kernel_size == (3, 3)
    assert dice.keys() == {"smallest", "largest"}


# ---------------------------------------------------------------------- MONAI
def members_of(bundle: Path, task: Path, **overrides: Any) -> dict[str, Any]:
    """What family.json says of its members after a training by MONAI's command and an evaluation."""
    overrides = {**TINY, "dataset_dir": task, "task": task.name, **overrides}
    run = ["run", "--config_file", bundle / "configs" / "train.json", *arguments(overrides)]
    monai(run, cwd=bundle)
    family = json.loads((bundle / "models" / "family.json").read_text())
    return {member["name"]: member for member in family["members"]}


@pytest.mark.parametrize("write", [write_sparse, lambda root: write_thick(root, cases=2)], ids=["sparse", "thick, one case"])
def test_bundle(write: Any, tmp_path: Path) -> None:
    bundle = copy_bundles(tmp_path) / "msd_prox"
    members = members_of(bundle, write(tmp_path))
    assert {"smallest", "largest"} <= members.keys()
