"""The one door to what a training left: folds, checkpoints, and members by name, whoever ran the loop."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architectures import unet_architecture
from helpers.hostile import write_bundle
from helpers.nnunet_task import SHALLOW, TWO_MEMBERS, bare_model, bare_plans
from helpers.refusals import refused

from monai_prox import export_nnunet, open_trained
from monai_prox.data.decathlon_plan import Plan
from monai_prox.runtime.kinds import SEGMENTATION
from monai_prox.trained.nnunet_folder import CHECKPOINTS, FINAL
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.trained.source import Trained

pytest_plugins = ["helpers.nnunet_fixtures"]

PLAN = Plan(
    task="Task",
    channels=("MRI",),
    labels=("background", "organ"),
    spacing=(1.0, 1.0, 2.0),
    patch_size=(32, 32, 32),
    intensity={"kind": "z-score"},
    architecture=unet_architecture(axes=3),
)
CHOICES = {"depth": "full", "width": [0.5, 1.0], "levels": 0}


@pytest.fixture
def folders(bare: Path, tmp_path: Path) -> dict[str, Path]:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW), folds=(0, 2))
    return {"nnunet": model.path, "bundle": write_bundle(tmp_path / "bundle", PLAN, CHOICES)}


@pytest.mark.parametrize("host", ["nnunet", "bundle"])
def test_a_member_is_given_by_its_name_or_as_a_subnet(host: str, folders: dict[str, Path]) -> None:
    source = open_trained(folders[host])
    assert source.formats[0] == host and source.measure == "dice" and source.kind is SEGMENTATION
    assert source.origins(every=True) == [], "the end of a training"
    for member in source.members():
        name, subnet = source.member(member.name)
        assert (name, subnet) == (member.name, member.subnet)
        assert source.describe(name) == source.describe(subnet, name=name) and source.describe(subnet).member == "member"
        by_name, by_subnet = source.network(name).state_dict(), source.network(subnet).state_dict()
        assert all(tensor.equal(by_subnet[key]) for key, tensor in by_name.items()) and list(by_name) == list(by_subnet)


def test_folds_are_all_that_have_finished_or_those_asked_for(folders: dict[str, Path]) -> None:
    both = ("fold_0", "fold_2")
    for asked, folds, used in (
        (None, both, ["0"]),
        ("fold_2", ("fold_2",), ["2"]),
        (both[::-1], both[::-1], ["2", "0"]),
        ("fold_every", both, ["0", "2"]),
    ):
        source: Any = open_trained(folders["nnunet"], fold=asked)
        assert isinstance(source, TrainedNNUNet) and source.folds == folds and source.fold == folds[0]
        assert source.arguments == ["--fold", *used]
    refused("has no finished fold_1; finished are fold_0, fold_2", open_trained, folders["nnunet"], fold=("fold_0", "fold_1"))


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_the_logits_of_several_folds_are_averaged(which: str, folders: dict[str, Path]) -> None:
    """Before softmax or sigmoid, as nnU-Net does. A fold that trains on all cases is not one of every."""
    shutil.copytree(folders["nnunet"] / "fold_2", folders["nnunet"] / "fold_all")
    alone = [open_trained(folders["nnunet"], fold=fold) for fold in ("fold_0", "fold_2")]
    x = torch.randn(2, 1, *alone[0].describe(which).patch)
    for asked, said in (
        (["fold_0", "fold_2"], "fold_0, fold_2"),
        (["fold_every"], "fold_0, fold_2"),
        (["fold_2", "fold_every"], "fold_2, fold_0"),
    ):
        source = open_trained(folders["nnunet"], fold=asked)
        network = source.network(which)
        with torch.inference_mode():
            expected = torch.stack([one.network(which)(x) for one in alone]).mean(0)
            torch.testing.assert_close(network(x), expected)
        assert not network.training
        assert source.describe(which).source.endswith(f"the mean of {said}")
        assert replace(source.describe(which), source="") == replace(alone[0].describe(which), source="")
    for fold in ("fold_0", "fold_2"):
        shutil.rmtree(folders["nnunet"] / fold)
    refused("has no finished fold with a number; finished are fold_all", open_trained, folders["nnunet"], fold="fold_every")


def test_a_checkpoint_says_how_far_each_fold_had_come(folders: dict[str, Path]) -> None:
    for fold in ("fold_0", "fold_2"):
        (folders["nnunet"] / fold / FINAL).rename(folders["nnunet"] / fold / CHECKPOINTS["best"])
    source: Trained = open_trained(folders["nnunet"], checkpoint="best")
    (used,), every = source.origins(), source.origins(every=True)
    assert used.startswith("checkpoint_best.pth of fold_0: after 1 epochs, in stage 1 of 3") and every[0] == used
    assert [line.partition(":")[0] for line in every] == ["checkpoint_best.pth of fold_0", "checkpoint_best.pth of fold_2"]


def test_a_bundle_has_neither_folds_nor_checkpoints(folders: dict[str, Path]) -> None:
    refused("--fold is for nnU-Net's model folders; ", open_trained, folders["bundle"], fold="fold_0")
    refused("--checkpoint is for nnU-Net's model folders; ", open_trained, folders["bundle"], checkpoint="best")
    words = "a bundle's members become bundle, onnx, openvino, torchscript, not nnunet"
    refused(words, export_nnunet, open_trained(folders["bundle"]), "smallest")
