"""A trained network becomes the start of a family: what is written, what begins with it, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.equality import equal
from helpers.in_process import prox
from helpers.nnunet_task import (
    BARE_DATASET,
    CUT,
    FULLRES,
    Prepared,
    bare_model,
    bare_plans,
    hold_out,
    make_trainer,
    nnUNetTrainerTiny,
    training_on,
)
from helpers.refusals import refused
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.core.slicing import fill
from monai_prox.core.supernet import SuperNet
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.nnunet.adoption import SUFFIX, adopt, start_file
from monai_prox.nnunet.variants import ProXTrainerAdopt
from monai_prox.trained.nnunet_folder import FINAL, ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.training.engine import Engine
from monai_prox.training.recipes import make_schedule

pytest_plugins = ["helpers.nnunet_fixtures"]

SPACE = {"width": [0.5, 1.0]}
OWN = CUT + SUFFIX


class ProXTrainerAdoptTiny(ProXTrainerAdopt):
    epochs = 2
    iterations_per_epoch = 2
    validation_iterations_per_epoch = 1


@pytest.fixture
def preprocessed(phantom: Prepared, tmp_path: Path) -> Prepared:
    """The phantom's data in folders in which files may be added."""
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        (tmp_path / folder / phantom.name).mkdir(parents=True)
        for path in (phantom.root / folder / phantom.name).iterdir():
            copied = tmp_path / folder / phantom.name / path.name
            copied.symlink_to(path) if path.is_dir() else shutil.copy(path, copied)
    return Prepared(tmp_path, phantom.identifier, phantom.name)


@pytest.fixture
def ready(bare: Path) -> Iterator[Path]:
    """nnUNet_preprocessed with what a dataset without data needs."""
    folder = bare / "nnUNet_preprocessed" / "Dataset990_Phantom"
    (folder / "dataset.json").write_text(json.dumps(BARE_DATASET))
    (folder / "dataset_fingerprint.json").write_text("{}")
    yield folder.parent


def stock(plans: dict[str, Any] | None = None, **options: Any) -> ModelFolder:
    return bare_model(bare_plans() if plans is None else plans, cls=nnUNetTrainer, **options)


# ---------------------------------------------------------------------- what it begins with
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_a_training_begins_with_the_given_function_and_the_important_channels_first(bare: Path, kind: str) -> None:
    model = stock(bare_plans(kind, (16, 16, 16)))
    family = model.family_with(UNetChoices.from_json(SPACE))
    given = TrainedNNUNet.of(model).supernet.network.double()
    network: Any = family.build(family.space.largest()).double()
    supernet = SuperNet(family, network)
    network.decoder.deep_supervision = True
    engine = Engine(supernet, make_schedule("adopt", family.space, 2), torch.nn.Identity(), seed=0)
    network.load_state_dict(given.state_dict())
    engine.begin_epoch(0)
    x = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
    given.decoder.deep_supervision = True
    for one, other in zip(given(x), network(x), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    assert engine.space.largest() == family.space.smallest()
    assert not equal(given.state_dict(), network.state_dict()), "channels were sorted"
    first = "encoder.stages.0.0.convs.0.conv.weight" if kind == "PlainConvUNet" else "encoder.stem.convs.0.conv.weight"
    order = [[torch.equal(a, b) for b in given.state_dict()[first]].index(True) for a in network.state_dict()[first]]
    assert sorted(order) == [0, 1, 2, 3]
    half, state = supernet.extract(family.space.smallest()).state_dict(), given.state_dict()
    assert torch.equal(half[first], state[first][order[:2]])


def test_the_smallest_member_is_trained_first_and_everything_else_stays_as_given(bare: Path) -> None:
    family = stock().family_with(UNetChoices.from_json(SPACE))
    supernet = SuperNet(family)
    engine = Engine(supernet, make_schedule("adopt", family.space, 2), lambda outputs, target: outputs.mean(), seed=0)
    supernet.network.load_state_dict(TrainedNNUNet.of(stock()).supernet.network.state_dict())
    engine.begin_epoch(0)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
    engine.guard(optimizer)
    before = {name: weight.detach().clone() for name, weight in supernet.network.named_parameters()}
    for step in range(2):
        optimizer.zero_grad()
        engine.step(torch.randn(1, 1, 16, 24, 16), None, epoch=0, step=step)
        optimizer.step()
    own = supernet.regions(family.space.smallest())
    changed = 0
    for name, weight in supernet.network.named_parameters():
        others = torch.ones_like(weight, dtype=torch.bool)
        fill(others, own[name], False)
        assert torch.equal(weight[others], before[name][others])
        changed += not torch.equal(weight, before[name])
    assert changed
    engine.begin_epoch(1)
    assert engine.space == family.space


# ---------------------------------------------------------------------- from nnU-Net's training to a family
def test_a_family_grows_from_a_training_of_nnunets(
    stock_model: Path, preprocessed: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.root / "nnUNet_preprocessed"))
    monkeypatch.setattr(ProXTrainerAdopt, "learning_rate", 0.0)  # so that the family stays what it begins with
    done = prox("adopt", stock_model, "--fold", "0", "--space", json.dumps(SPACE))
    command = f"nnUNetv2_train {preprocessed.name} {FULLRES} 0 -tr ProXTrainerAdopt -p {OWN}"
    assert done.code == 0 and done.out.splitlines()[-1] == command, done.err
    assert "warning: the given network was trained without mirroring, ProXTrainerAdopt mirrors along all axes" in done.out
    assert "nnUNetv2_preprocess" not in done.out
    with training_on(preprocessed, preprocessed.root / "nnUNet_results"):
        trainer = make_trainer(preprocessed.plans(OWN), preprocessed.dataset(), cls=ProXTrainerAdoptTiny)
        trainer.run_training()
        resumed = make_trainer(preprocessed.plans(OWN), preprocessed.dataset(), cls=ProXTrainerAdoptTiny)
        resumed.load_checkpoint(str(Path(trainer.output_folder, FINAL)))
    assert equal(resumed.engine.state_dict(), trainer.engine.state_dict())
    model = ModelFolder.open(trainer.output_folder_base)
    x = torch.randn(1, 1, 32, 40, 32)
    given, largest = (TrainedNNUNet.open(path, fold="fold_0").network("largest") for path in (stock_model, model.path))
    torch.testing.assert_close(given(x), largest(x), atol=1e-4, rtol=1e-4)
    assert TrainedNNUNet.of(model).network("smallest")(x).shape == largest(x).shape


def test_weights_that_are_not_there_or_come_another_way_are_refused(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stock(folds=(0, 1))
    folder = ready / "Dataset990_Phantom"
    adopted = adopt(model, ready, folds=("fold_1",), space=SPACE)
    assert adopted.folds == ("1",) and len(adopted.warnings) == 1 and "cannot be known" in adopted.warnings[0]
    plans = json.loads((folder / f"{OWN}.json").read_text())
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda trainer: None)
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda trainer: (["a"], ["case"]))
    trainer = make_trainer(plans, cls=ProXTrainerAdoptTiny)
    refused("with the weights that fold 0 begins with; there are those of the folds 1", trainer.on_train_start)
    trainer = make_trainer(plans, cls=ProXTrainerAdoptTiny, fold=1)
    maybe_load_checkpoint(trainer, False, False, str(model.path / "fold_1" / FINAL))
    refused("-pretrained_weights would leave the output layers out", trainer.on_train_start)
    trainer = make_trainer(plans, cls=ProXTrainerAdoptTiny, fold=1)
    trainer.on_train_start()
    assert trainer.engine.pretrained
    for file in folder.glob("*.pt"):
        file.unlink()
    trainer = make_trainer(plans, cls=ProXTrainerAdoptTiny, fold=1)
    refused("monai-prox adopt MODEL_FOLDER writes them", trainer.on_train_start)


# ---------------------------------------------------------------------- what does not fit
def test_another_split_is_refused(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = stock(), ready / "Dataset990_Phantom"
    hold_out(model, ["a", "b"])
    splits = folder / "splits_final.json"
    for content, said in (
        ([{"train": ["a"], "val": ["b", "c"]}], "fold 0 holds out 1 cases that the given network was trained on, such as c"),
        ([{"val": ["b", 1]}], "splits_final.json, fold 0"),
        ({"val": []}, "splits_final.json is no list of folds"),
    ):
        splits.write_text(json.dumps(content))
        refused(said, adopt, model, ready, space=SPACE)
    assert not [*folder.glob("*.pt"), *folder.glob(f"{OWN}.json")]
    splits.write_text(json.dumps([{"train": ["b", "c"], "val": ["a"]}]))  # fewer of those that were held out
    assert not adopt(model, ready, space=SPACE).warnings
    refused("exists; --overwrite replaces it", adopt, model, ready, space=SPACE)
    adopt(model, ready, space=SPACE, overwrite=True)
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda trainer: None)
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda trainer: (["a"], ["b", "c"]))
    trainer = make_trainer(json.loads((folder / f"{OWN}.json").read_text()), cls=ProXTrainerAdoptTiny)
    refused("fold 0 holds out 1 cases that the given network was trained on, such as c", trainer.on_train_start)


def test_folds_configurations_and_spaces_are_added_to_what_was_adopted(ready: Path) -> None:
    model, folder = stock(folds=(0, 1)), ready / "Dataset990_Phantom"
    for fold in ("fold_0", "fold_1"):
        assert adopt(model, ready, folds=(fold,), space=SPACE).members == 8
    file = folder / f"{OWN}.json"
    refused("asks for {'space': {'width': [0.5, 1.0]}, 'recipe': 'adopt'}; --overwrite", adopt, model, ready, folds=("fold_0",))
    plans = json.loads(file.read_text())
    model.plans["configurations"]["2d"] = plans["configurations"]["2d"] = {"inherits_from": FULLRES, "batch_size": 3}
    file.write_text(json.dumps(plans))
    adopt(model, ready, folds=("fold_0",), space=SPACE, overwrite=True)
    assert json.loads(file.read_text())["configurations"].keys() == {FULLRES, "2d"}
    model.plans["configurations"][FULLRES]["batch_size"] = 5
    refused("exists and is of another model", adopt, model, ready, folds=("fold_0",), space=SPACE)


def test_an_entry_that_is_inherited_does_not_decide_the_recipe(ready: Path) -> None:
    model = stock()
    base = model.plans["configurations"][FULLRES] | {"prox": {"recipe": "prox", "space": SPACE}}
    model.plans["configurations"] = {"base": base, FULLRES: {"inherits_from": "base"}}
    (model.path / "plans.json").write_text(json.dumps(model.plans))
    assert adopt(ModelFolder.open(model.path), ready).members == 8
    plans = json.loads((ready / "Dataset990_Phantom" / f"{OWN}.json").read_text())
    assert plans["configurations"][FULLRES]["prox"] == {"recipe": "adopt", "space": SPACE}


def test_members_that_another_space_may_not_have_are_not_asked_for(ready: Path) -> None:
    validate = ["smallest", "middle", "largest"]
    model = stock(bare_plans(prox={"validate": validate, "monitor": False}))
    for space, kept in ((None, {"space": "default", "validate": validate}), (SPACE, {"space": SPACE})):
        adopt(model, ready, space=space, overwrite=True)
        plans = json.loads((ready / "Dataset990_Phantom" / f"{OWN}.json").read_text())
        assert plans["configurations"][FULLRES]["prox"] == {**kept, "monitor": False, "recipe": "adopt"}


def test_another_dataset_is_refused(ready: Path) -> None:
    model, path = stock(), ready / "Dataset990_Phantom" / "dataset.json"
    labels = BARE_DATASET["labels"] | {"more": 3}
    path.write_text(json.dumps(BARE_DATASET | {"labels": labels}))
    refused("the model's labels are {'background': 0, 'anterior': 1, 'posterior': 2}, those of", adopt, model, ready)
    path.write_text(json.dumps(BARE_DATASET | {"channel_names": {"0": "CT"}}))
    refused("the model's channels are ('MRI',), those of", adopt, model, ready)
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    turned = {name: regions[name] for name in ("background", "core", "whole")}
    of_regions = BARE_DATASET | {"labels": regions, "regions_class_order": [1, 2]}
    given = stock(dataset=of_regions)
    for other, what in (({"labels": turned}, "outputs"), ({"regions_class_order": [2, 1]}, "regions_class_order")):
        path.write_text(json.dumps(of_regions | other))
        refused(f"the model's {what} are ", adopt, given, ready)
    path.unlink()
    refused(f"there is no {path}; the training needs the dataset: put it into nnUNet_raw", adopt, model, ready)


def test_data_that_other_plans_have_preprocessed_are_left_alone(ready: Path) -> None:
    model, folder = stock(), ready / "Dataset990_Phantom"

    def identifier(**options: Any) -> str:
        adopted = adopt(model, ready, space=SPACE, overwrite=True)
        found: str = json.loads((folder / f"{OWN}.json").read_text())["configurations"][FULLRES]["data_identifier"]
        assert adopted.preprocessed == any((folder / found).glob("*"))
        return found

    (folder / "notes.json").write_text("[]")
    assert identifier() == f"nnUNetPlans_{FULLRES}"
    other = folder / "mine.json"
    other.write_text(json.dumps(bare_plans(name="mine")))
    assert identifier() == f"nnUNetPlans_{FULLRES}"
    other.write_text(json.dumps(bare_plans(spacing=(2.0, 1.0, 1.0), name="mine")))
    assert identifier() == f"{OWN}_{FULLRES}"
    other.unlink()
    shutil.rmtree(folder / f"nnUNetPlans_{FULLRES}")
    assert identifier() == f"{OWN}_{FULLRES}"
    (folder / f"{OWN}_{FULLRES}").mkdir()
    (folder / f"{OWN}_{FULLRES}" / "case.b2nd").touch()
    assert identifier() == f"{OWN}_{FULLRES}"
    model.plans["configurations"][FULLRES]["spacing"] = [3.0, 3.0, 3.0]
    coarser, before = (
        ModelFolder(model.path, model.plans, model.dataset, FULLRES, model.folds),
        (folder / f"{OWN}.json").read_text(),
    )
    said = "has data that were preprocessed for the model of an earlier adoption, in another way; remove that folder"
    refused(said, adopt, coarser, ready, space=SPACE, overwrite=True)
    assert (folder / f"{OWN}.json").read_text() == before
    shutil.rmtree(folder / f"{OWN}_{FULLRES}")
    assert not adopt(coarser, ready, space=SPACE, overwrite=True).preprocessed


@pytest.mark.parametrize(
    "broken",
    [
        {"configurations": {"2d": {"inherits_from": "nowhere"}}},
        {"configurations": {"2d": {"batch_size": 2}}},
        {"foreground_intensity_properties_per_channel": None},
    ],
)
def test_plans_beside_that_nnunet_cannot_read_do_not_matter(ready: Path, broken: dict[str, Any]) -> None:
    plans = bare_plans(name="other")
    plans["configurations"][FULLRES]["normalization_schemes"] = ["CTNormalization"]
    other = {name: entry for name, entry in {**plans, **broken}.items() if entry is not None}
    (ready / "Dataset990_Phantom" / "other.json").write_text(json.dumps(other))
    assert adopt(stock(plans | {"plans_name": CUT}), ready, space=SPACE).members == 8


def test_a_model_says_what_its_data_and_its_family_are_in_words_that_can_be_used(ready: Path) -> None:
    model = stock()
    own, file = model.plans["configurations"][FULLRES], ready / "Dataset990_Phantom" / f"{OWN}.json"

    def given(**entries: Any) -> ModelFolder:
        changed = {key: value for key, value in {**own, **entries}.items() if value is not None}
        (model.path / "plans.json").write_text(json.dumps(model.plans | {"configurations": {FULLRES: changed}}))
        return ModelFolder.open(model.path)

    refused("'prox' must be an object, got 'evil'", adopt, given(prox="evil"), ready)
    for path in ("/elsewhere", "../other", ".."):
        refused("'data_identifier' is part of paths", given, data_identifier=path)
    file.write_text("{")  # of an adoption that was cut off
    refused("is not valid JSON", adopt, given(data_identifier=None), ready, space=SPACE)
    assert adopt(given(data_identifier=None), ready, space=SPACE, overwrite=True).members == 8
    assert json.loads(file.read_text())["configurations"][FULLRES]["data_identifier"] == f"{OWN}_{FULLRES}"


def test_what_windows_has_held_out_is_known(ready: Path) -> None:
    model = stock()
    hold_out(model, [r"\\server\labelsTr\case 1", "case_2"])
    (ready / "Dataset990_Phantom" / "splits_final.json").write_text(json.dumps([{"val": ["case 1", "case_2"]}]))
    assert not adopt(model, ready, space=SPACE).warnings


def test_networks_without_a_family_are_refused(ready: Path) -> None:
    refused("has one member only", adopt, stock(), ready, space={"width": [1.0]})
    larger, model = {"kernel": [3, 5]}, stock(bare_plans(patch=(24, 24, 24)))
    refused(f"the largest member of the space {larger} has to be the given network", adopt, model, ready, space=larger)


def test_nothing_is_left_if_a_file_cannot_be_written(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = stock(folds=(0, 1)), ready / "Dataset990_Phantom"
    (folder / f"{OWN}__{FULLRES}__fold_1.pt").mkdir()
    with pytest.raises(OSError, match="fold_1"):
        adopt(model, ready, space=SPACE, overwrite=True)
    assert not (folder / f"{OWN}__{FULLRES}__fold_0.pt").exists() and not (folder / f"{OWN}.json").exists()


def test_files_of_others_are_read_as_data(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adopt(stock(), ready, space=SPACE)
    folder = ready / "Dataset990_Phantom"
    plans = json.loads((folder / f"{OWN}.json").read_text())
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda trainer: None)
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda trainer: (["a"], ["b"]))
    file = start_file(folder, OWN, FULLRES, 0)
    start = torch.load(file, weights_only=True)
    start["weights"].popitem()
    torch.save(start, file)
    refused("the weights that monai-prox adopt has written", make_trainer(plans, cls=ProXTrainerAdoptTiny).on_train_start)
    torch.save(start | {"held_out": 3}, file)
    refused("held_out", make_trainer(plans, cls=ProXTrainerAdoptTiny).on_train_start)
    torch.save({"weights": nnUNetTrainerTiny}, file)
    refused(file.name, make_trainer(plans, cls=ProXTrainerAdoptTiny).on_train_start)


def test_data_that_were_preprocessed_in_another_way_after_the_adoption_are_refused(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda trainer: None)
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda trainer: (["a"], ["b"]))
    folder = ready / "Dataset990_Phantom"
    planned = bare_plans(name="nnUNetPlans")
    data = planned["configurations"][FULLRES]["data_identifier"]
    (folder / "nnUNetPlans.json").write_text(json.dumps(planned))
    adopt(stock(planned | {"plans_name": CUT}), ready, space=SPACE)
    plans = json.loads((folder / f"{OWN}.json").read_text())
    assert plans["configurations"][FULLRES]["data_identifier"] == data
    make_trainer(plans, cls=ProXTrainerAdoptTiny).on_train_start()
    planned["configurations"][FULLRES]["spacing"] = [3.0, 3.0, 3.0]
    (folder / "nnUNetPlans.json").write_text(json.dumps(planned))
    said = f"{data} may have been preprocessed in another way since the network was adopted"
    refused(said, make_trainer(plans, cls=ProXTrainerAdoptTiny).on_train_start)
