"""Families that are listed and exported from checkpoints alone: family.json is lost, or the training has not finished."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.in_process import output_of, prox
from helpers.nnunet_task import (
    FULLRES,
    SHALLOW,
    TWO_MEMBERS,
    ProXTrainerTiny,
    bare_model,
    bare_plans,
    make_trainer,
    write_held_out,
)
from helpers.searches import hurry
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file

from monai_prox.errors import ProXError
from monai_prox.export.from_nnunet import prediction_of
from monai_prox.export.nnunet import export_nnunet
from monai_prox.nnunet.family_report import write_family
from monai_prox.nnunet.variants import ProgressiveShrinkingTrainer
from monai_prox.tensor_file import write_tensors
from monai_prox.trained.family_file import FamilyFile, NamedMember
from monai_prox.trained.nnunet_folder import CHECKPOINTS, FINAL, ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]

FEW = {"space": TWO_MEMBERS}
WIDTHS = {"space": {"depth": "full", "width": [0.5, 1.0], "levels": 0, "resolution": [0.75, 1.0]}}  # stages of two kinds


def made(family: FamilyFile) -> list[NamedMember]:
    """Its members without their scores."""
    return [replace(member, scores=None) for member in family.members]


def validated(model: ModelFolder, dice: float = 0.8) -> dict[str, Any]:
    """As if nnU-Net had validated the largest member of fold 0."""
    scores = {"mean": {"1": {"Dice": dice}, "2": {"Dice": float("nan")}}, "foreground_mean": {"Dice": dice}}
    file = model.path / "fold_0" / "validation" / "summary.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(scores | {"metric_per_case": []}))
    return scores


# ---------------------------------------------------------------------- family.json is lost
@pytest.mark.parametrize(
    ("closed", "entry"),
    [({}, {}), ({"width": 1}, {}), ({}, {"validate_mirroring": False})],
    ids=["whole", "closed", "validated without mirroring"],
)
def test_a_family_is_rebuilt_from_its_checkpoint(closed: dict[str, int], entry: dict[str, Any], bare: Path) -> None:
    trainer = make_trainer(bare_plans(prox=WIDTHS | entry))
    trainer.initialize()
    for epoch in range(trainer.num_epochs):
        trainer.engine.begin_epoch(epoch)
    for dimension in closed:
        trainer.engine.close(dimension)
    trainer._apply_closed()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    trainer.current_epoch = trainer.num_epochs - 1
    folder = Path(trainer.output_folder)
    trainer.save_checkpoint(str(folder / FINAL))
    write_family(trainer, {})
    for name, data in (("plans", trainer.plans_manager.plans), ("dataset", trainer.dataset_json)):
        (folder.parent / f"{name}.json").write_text(json.dumps(data))
    model = ModelFolder.open(folder.parent)
    written = FamilyFile.read(folder / "family.json")
    (folder / "family.json").unlink()
    rebuilt = model.family()
    assert made(rebuilt) == made(written)
    assert rebuilt.mirroring == (None if entry else (0, 1, 2))
    for key in ("trainer", "epochs", "patch_size", "space", "closed", "orientations", "mirroring", "validated_epoch"):
        assert getattr(rebuilt, key) == getattr(written, key), key
    assert {member.scores for member in rebuilt.members} == {None}


def test_the_largest_has_the_dice_of_nnunet_s_summary(bare: Path) -> None:
    """Which is None where a class is in no case; a member that is exported with it has the summary, too."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    validated(model)
    (model.path / "fold_0" / "family.json").unlink()
    dice = {member.name: member.scores for member in model.family().members}
    assert dice == {"smallest": None, "largest": {"mean": 0.8, "anterior": 0.8, "posterior": None}}
    exported = {name: export_nnunet(TrainedNNUNet.of(model), name) / "fold_0" / "validation" / "summary.json" for name in dice}
    assert json.loads(exported["largest"].read_text())["foreground_mean"] == {"Dice": 0.8}
    assert json.loads(exported["smallest"].read_text())["foreground_mean"] == {}


def test_a_model_that_nnunet_has_shared_as_a_zip_is_a_family(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the data that it was trained on are not: the orientation of its images comes with it."""
    monkeypatch.setattr("monai_prox.nnunet.trainer.stored_orientations", lambda dataset: {"LPS": 8})
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    validated(model)
    before = made(model.family())
    (model.path / "fold_0" / "progress.png").touch()
    (model.path / "dataset_fingerprint.json").write_text("{}")
    where = {"trainer": "ProXTrainerTiny", "plans_identifier": model.plans["plans_name"], "configurations": (FULLRES,)}
    export_pretrained_model("Dataset990_Phantom", str(bare / "shared.zip"), folds=(0,), **where)
    shutil.rmtree(model.path)
    install_model_from_zip_file(str(bare / "shared.zip"))
    assert not (model.path / "fold_0" / "family.json").exists()
    installed = ModelFolder.open(model.path)
    assert made(installed.family()) == before
    assert (installed.family().members[-1].scores or {})["mean"] == 0.8
    assert prediction_of(TrainedNNUNet.of(installed), "smallest").orientation == "LPS"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda prox: prox.update(orientations={"LPS": "all"}), "'orientations' must be of type"),
        (lambda prox: prox["engine"].update(closed={"breadth": 1}), "no dimension 'breadth'"),
        (lambda prox: prox["engine"].update(closed=[1]), "cannot be used|closed"),
        (
            lambda prox: prox["choices"].update(width=tuple((n + 1) / 16 for n in range(16)), kernel=tuple(range(1, 33, 2))),
            "1 to|kernel|choices",
        ),
    ],
    ids=["orientations", "dimension", "list", "many"],
)
def test_nonsense_in_a_checkpoint_is_one_line(spoil: Callable[[Any], object], message: str, bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    (model.path / "fold_0" / "family.json").unlink()
    checkpoint = torch.load(model.path / "fold_0" / FINAL, weights_only=True)
    spoil(checkpoint["prox"])
    write_tensors(checkpoint, model.path / "fold_0" / FINAL)
    with pytest.raises(ProXError, match=message):
        model.family()


@pytest.mark.parametrize(
    "summary",
    [
        "[]",
        '{"mean": {"1": 0.5}, "foreground_mean": {"Dice": 1}}',
        '{"mean": {}}',
        '{"mean": {"1": {"Dice": []}}, "foreground_mean": {}}',
    ],
)
def test_nonsense_in_a_summary_is_one_line(summary: str, bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    validated(model)
    (model.path / "fold_0" / "validation" / "summary.json").write_text(summary)
    (model.path / "fold_0" / "family.json").unlink()
    with pytest.raises(ProXError, match=r"summary\.json|cannot be used"):
        model.family()


# ---------------------------------------------------------------------- trainings that have not finished
def unfinished(epochs: int, checkpoint: str, cls: type = ProXTrainerTiny, **prox: Any) -> Path:
    """A training that was stopped after as many epochs, with this checkpoint."""
    trainer = make_trainer(bare_plans(prox=prox or WIDTHS, patch=(20, 24, 20)), cls=cls)
    trainer.initialize()
    for epoch in range(epochs):
        trainer.engine.begin_epoch(epoch)
    trainer.current_epoch = epochs - 1
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    folder = Path(trainer.output_folder_base)
    trainer.save_checkpoint(str(folder / "fold_0" / CHECKPOINTS[checkpoint]))
    (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    return folder


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_a_training_that_has_not_finished_is_listed_and_exported(checkpoint: str, bare: Path) -> None:
    folder = unfinished(5, checkpoint)
    with pytest.raises(ProXError, match=f"no fold of .* has a {FINAL}; .*, or use what there is: --checkpoint {checkpoint}$"):
        ModelFolder.open(folder)
    model = ModelFolder.open(folder, checkpoint)
    names = [member.name for member in model.family().members]
    assert names[0] == "smallest" and names[-1] == "largest"
    exported = export_nnunet(TrainedNNUNet.of(model), "largest")
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(exported), None)
    weights = torch.load(folder / "fold_0" / CHECKPOINTS[checkpoint], weights_only=True)["network_weights"]
    assert all(torch.equal(weight, weights[name]) for name, weight in predictor.network.state_dict().items())
    assert torch.load(exported / "fold_0" / FINAL, weights_only=True)["current_epoch"] == 5
    source = TrainedNNUNet.open(folder, checkpoint=checkpoint)
    description = source.describe("smallest")
    said = f"fold_0, 5 epochs, {CHECKPOINTS[checkpoint]}"
    assert description.source.endswith(said) and prediction_of(TrainedNNUNet.of(model), "smallest").source.endswith(said)


def test_only_what_has_trained_is_listed_and_exported(bare: Path) -> None:
    """Stages open one after the other; a member beyond them is as it was drawn."""
    folder = unfinished(1, "best")
    model = ModelFolder.open(folder, "best")
    assert [member.name for member in model.family().members] == ["smallest"]
    whole = model._open_family(model.checkpoint("fold_0")).space
    (folder / "full.json").write_text(json.dumps({"subnet": whole.largest().to_json()}))
    with pytest.raises(
        ProXError, match=r"checkpoint_best\.pth of fold_0 is of stage 1 of 4, 'smallest', in which this member was"
    ):
        export_nnunet(TrainedNNUNet.of(model), str(folder / "full.json"))
    with pytest.raises(ProXError, match="there is no member 'largest'; known: smallest"):
        export_nnunet(TrainedNNUNet.of(model), "largest")


def test_shrinking_begins_with_the_largest(bare: Path) -> None:
    class Shrinking(ProgressiveShrinkingTrainer):
        epochs = 5

    model = ModelFolder.open(unfinished(1, "latest", Shrinking), "latest")
    assert [member.name for member in model.family().members] == ["largest"]


def test_the_best_of_a_finished_training_has_no_dice_unless_it_was_validated(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    fold = model.path / "fold_0"
    checkpoint = torch.load(fold / FINAL, weights_only=True)
    checkpoint["prox"]["engine"]["stage"] = 2
    write_tensors(checkpoint | {"current_epoch": 4}, fold / CHECKPOINTS["best"])
    family = json.loads((fold / "family.json").read_text())
    for member in family["members"]:
        member["dice"] = {"mean": 0.7, "1": 0.6, "2": 0.8}
    for epoch, expected in ((1, None), (4, {"mean": 0.7, "anterior": 0.6, "posterior": 0.8})):  # --val_best
        (fold / "family.json").write_text(json.dumps(family | {"validated_epoch": epoch}))
        best = ModelFolder.open(model.path, "best")
        assert [member.scores for member in best.family().members] == [expected] * 2
    assert ModelFolder.open(model.path).file == FINAL


def test_the_commands_say_where_it_comes_from(bare: Path) -> None:
    folder = unfinished(5, "best")
    said = "checkpoint_best.pth of fold_0: after 5 epochs, in stage 4 of 4, 'everyone'; not the end of a training"
    commands = (
        ["family", folder, "--checkpoint", "best"],
        ["export", folder, "--subnet", "smallest", "--checkpoint", "best"],
        [
            "export",
            folder,
            "--subnet",
            "smallest",
            "--checkpoint",
            "best",
            "--format",
            "torchscript",
            "--output",
            bare / "s.ts",
        ],
    )
    for words in commands:
        assert said in " ".join(output_of(*words).split())
    error = prox("family", folder, "--checkpoint", "newest").error
    assert "'newest' is not known; allowed: final, best, latest" in error


def test_a_search_and_a_profile_take_the_checkpoint_that_the_others_take(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    folder, said = unfinished(5, "best", **FEW), "checkpoint_best.pth of fold_0: after 5 epochs"
    model = ModelFolder.open(folder, "best")
    assert ModelFolder.open(folder, "best").checkpoint_option == ["--checkpoint", "best"]

    taken = ("--checkpoint", "best")
    assert "has a checkpoint_final.pth; finish the training first" in prox("search", folder).error
    assert "nnUNetv2_train ... --val writes it, of checkpoint_best with --val_best" in prox("search", folder, *taken).error
    options = ["--trials", 2, "--finalists", 1, "--dataset", write_held_out(model, ["a", "b"])]
    assert said in output_of("search", folder, *options, *taken)
    (page,) = folder.glob("search/*/report.html")
    assert "--fold 0 --checkpoint best" in page.read_text()
    stopped = unfinished(1, "best", **FEW)
    message = "checkpoint_best.pth of fold_0 is of stage 1 of 3, 'smallest', in which 1 of 2 members were trained"
    assert message in prox("search", stopped, *options, *taken).error
    measure = ("profile", "measure", stopped, "--runtime", "torch", "--threads", 1, "-o", bare / "device.json")
    output_of(*measure, *taken)
    assert (bare / "device.json").is_file()


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_a_finished_training_need_not_be_finished(checkpoint: str, bare: Path) -> None:
    """Its last checkpoint is the final one, and others may have been removed."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    with pytest.raises(ProXError, match=f"has a {CHECKPOINTS[checkpoint]}; use what there is: --checkpoint final$"):
        ModelFolder.open(model.path, checkpoint)


def test_an_unknown_damage_of_the_stage_is_one_line(bare: Path) -> None:
    folder = unfinished(5, "best")
    file = folder / "fold_0" / CHECKPOINTS["best"]
    whole = torch.load(file, weights_only=True)
    for key, value, message in (
        ("stage", 9, "is of stage 9, of which it has no description"),
        ("stage", "2", "'stage' must be of type int"),
        ("stages", None, "of which it has no description"),
        ("stages", [{"name": "x", "open": {}, "start": "middle"}] * 4, "starts with the smallest or the largest"),
        ("stages", [{"name": "x", "open": {"width": 10**30}, "start": "smallest"}] * 4, None),
        ("stages", [{"name": 1}] * 4, "'name' must be of type str"),
    ):
        spoilt = whole | {"prox": {**whole["prox"], "engine": dict(whole["prox"]["engine"])}}
        (spoilt["prox"] if key == "stages" else spoilt["prox"]["engine"])[key] = value
        write_tensors(spoilt, file)
        model = ModelFolder.open(folder, "best")
        if message is None:
            assert model.family().members
            continue
        with pytest.raises(ProXError, match=message):
            model.family()
