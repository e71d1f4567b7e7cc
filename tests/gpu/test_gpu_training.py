"""nnU-Net's command trains a family: with -num_gpus 2 if there are two GPUs."""

from pathlib import Path

import pytest
import torch
from helpers.commands import fresh
from helpers.devices import SLOW_ON_CPU
from helpers.nnunet_task import (
    CUT,
    FULLRES,
    TWO_MEMBERS,
    Prepared,
    ProXTrainerTiny,
    cut_plans,
    prepare,
    write_trainers,
)
from helpers.validation_batches import PATCH

from monai_prox.data.phantom import write_phantom_task
from monai_prox.trained.family_file import FamilyFile
from monai_prox.trained.nnunet_checkpoint import load_checkpoint
from monai_prox.trained.nnunet_folder import FINAL


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Five phantom cases, planned and preprocessed."""
    root = tmp_path_factory.mktemp("prepared")
    return prepare(write_phantom_task(root, cases=5, test_cases=1), root)


@SLOW_ON_CPU
def test_the_command_trains_and_validates_a_family(
    device: torch.device, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    prepared: Prepared = request.getfixturevalue("prepared")  # not where there is no GPU
    prepared.write_plans(cut_plans(prepared.plans(), FULLRES, CUT, PATCH, prox={"space": TWO_MEMBERS}))
    trainers = write_trainers(tmp_path / "trainers", ProXTrainerTiny)
    environment = prepared.environment(nnUNet_results=tmp_path / "results", nnUNet_extTrainer=trainers)
    processes = max(1, min(2, torch.cuda.device_count()))
    words = ["nnunetv2.run.run_training", prepared.identifier, FULLRES, 0, "-tr", "ProXTrainerTiny", "-p", CUT]
    done = fresh([*words, "-device", device.type, "-num_gpus", processes], environment, launcher=("-m",))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert (f"{processes} processes train together" in done.stdout) == (processes > 1)
    (fold,) = (tmp_path / "results").glob(f"*/ProXTrainerTiny__{CUT}__{FULLRES}/fold_0")
    weights = load_checkpoint(fold / FINAL)["network_weights"]
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    members = FamilyFile.read(fold / "family.json").members
    assert {member.name for member in members} == {"smallest", "largest"} and all(member.scores for member in members)
