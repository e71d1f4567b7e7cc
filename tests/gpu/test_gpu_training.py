"""nnU-Net's command trains a family: with -num_gpus 2 if there are two GPUs."""

from pathlib import Path

import pytest
import torch
from helpers.commands import forked, fresh
from helpers.devices import SLOW_ON_CPU
from helpers.nnunet_task import (
    FULLRES,
    TWO_MEMBERS,
    Prepared,
    ProXTrainerTiny,
    cut_plans,
    write_trainers,
)
from helpers.validation_batches import PATCH

from monai_prox.trained.family_file import FamilyFile
from monai_prox.trained.nnunet_checkpoint import load_checkpoint
from monai_prox.trained.nnunet_folder import FINAL

pytest_plugins = ["helpers.nnunet_fixtures"]

PLANS = "nnUNetPlansOnDevices"


@SLOW_ON_CPU
def test_the_command_trains_and_validates_a_family(
    device: torch.device, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    phantom: Prepared = request.getfixturevalue("phantom")  # not where there is no GPU
    phantom.write_plans(cut_plans(phantom.plans(), FULLRES, PLANS, PATCH, prox={"space": TWO_MEMBERS}))
    trainers = write_trainers(tmp_path / "trainers", ProXTrainerTiny)
    environment = phantom.environment(nnUNet_results=tmp_path / "results", nnUNet_extTrainer=trainers)
    processes = max(1, min(2, torch.cuda.device_count()))
    words = ["nnUNetv2_train", phantom.identifier, FULLRES, 0, "-tr", "ProXTrainerTiny", "-p", PLANS]
    start = fresh if device.type == "cuda" else forked
    done = start([*words, "-device", device.type, "-num_gpus", processes], environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert (f"{processes} processes train together" in done.stdout) == (processes > 1)
    (fold,) = (tmp_path / "results").glob(f"*/ProXTrainerTiny__{PLANS}__{FULLRES}/fold_0")
    weights = load_checkpoint(fold / FINAL)["network_weights"]
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    members = FamilyFile.read(fold / "family.json").members
    assert {member.name for member in members} == {"smallest", "largest"} and all(member.scores for member in members)
