"""Somebody's own bundle trains a family, and its members predict in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from helpers.bundle_commands import write_ellipsoids
from helpers.equality import equal
from helpers.in_process import prox
from helpers.pipelines import (
    EVALUATE,
    INFERENCE,
    METADATA,
    ORGAN,
    TUMOUR,
    UNET,
    run,
    trained_organ,
    write_config,
    write_organ,
)
from helpers.refusals import refused
from monai.bundle import ConfigParser
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss
from torch import Tensor, nn

from monai_prox.bundle.checkpoints import weights_of
from monai_prox.bundle.loss import takes_sigmoid
from monai_prox.bundle.pipeline import _OneLine, _Patches
from monai_prox.core.slicing import place
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.files import write_json
from monai_prox.trained.bundle_folder import TrainedBundle
from monai_prox.trained.door import open_trained

CONFIGS = {"train.json": ORGAN, "evaluate.json": EVALUATE, "inference.json": INFERENCE}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The trained bundle, in a folder of the test's own."""
    shutil.copytree(trained_organ() / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


# ---------------------------------------------------------------------- a network that is trained already
def test_a_bundles_trained_network_becomes_the_start_of_a_family(tmp_path: Path) -> None:
    """Its weights are kept, its function, batch norms' statistics included, and it teaches the others."""
    bundle, folder = write_organ(tmp_path / "bundle"), trained_organ()
    (bundle / "models").mkdir()
    model = bundle / "models" / "model.pt"
    shutil.copy(folder / "bundle" / "models" / "model.pt", model)
    given = torch.load(model)
    torch.save({"model": {f"module.{name}": weight for name, weight in given.items()}}, model)
    done = prox("adopt", bundle, "--space", '{"width": [0.5, 1.0]}')
    assert done.code == 0 and "a UNet: 6 members" in done.out, done.out + done.err
    overlay = json.loads((bundle / "configs" / "prox.json").read_text())["prox"]
    assert (overlay["recipe"], overlay["start"]) == ("adopt", "$@bundle_root + '/models/given.pt'")
    assert equal(torch.load(bundle / "models" / "given.pt"), given)
    assert "given.pt exists; --overwrite replaces it" in prox("adopt", bundle).error
    said = run(bundle, "train.json", "prox.json", dataset_dir=folder / "task", epochs=1, optimizer__lr=0.0)
    assert "adopt has 2 stages, more than epochs, 1: the first 2 are merged into 'everyone'" in said
    (stage,) = open_trained(bundle).family().stages
    assert stage["name"] == "everyone"
    trained = torch.load(model)
    assert not equal(given, trained), "channels were sorted"
    outputs, x = [], torch.rand(2, 1, 16, 16, 16, dtype=torch.float64)
    for weights in (given, trained):
        network = ConfigParser({"network": UNET}).get_parsed_content("network").double()
        network.load_state_dict(weights)
        outputs.append(network.train()(x))  # the statistics of the training are taken anew
    torch.testing.assert_close(*outputs, atol=1e-9, rtol=0)
    again = prox("adopt", bundle, "--overwrite")  # for another space
    assert again.code == 0 and "given.pt, those of the adoption before; --weights" in again.out
    assert equal(torch.load(bundle / "models" / "given.pt"), given), "not the family's largest member"


def test_nothing_is_left_of_an_adoption_whose_overlay_cannot_be_written(tmp_path: Path) -> None:
    bundle = write_organ(tmp_path / "bundle")
    (bundle / "models").mkdir()
    torch.save(ConfigParser({"network": UNET}).get_parsed_content("network").state_dict(), bundle / "models" / "model.pt")
    (bundle / "configs" / "prox.json").mkdir()
    assert "prox.json: Is a directory" in prox("adopt", bundle, "--overwrite").error
    assert not (bundle / "models" / "given.pt").exists()


@pytest.mark.parametrize("name", ["model", "state_dict", "net"])
def test_weights_are_found_under_whatever_name_a_checkpoint_has_them(name: str, tmp_path: Path) -> None:
    network = ConfigParser({"network": UNET}).get_parsed_content("network")
    weights = network.state_dict()
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"optimizer": {"state": {}}, "epoch": 3, name: wrapped}, tmp_path / "model.pt")
    assert equal(weights_of(tmp_path / "model.pt", network), dict(weights))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--weights", "nowhere.pt"], "there is no file of a network's weights nowhere.pt"),
        (["--space", "paper"], "the search space 'paper' is not known; known by name: default"),
        (["--space", '{"depth": [1]}'], "depth"),
        (["--space", '{"width": 3}'], "width"),
        (["--fold", "0"], "--fold and --checkpoint are for nnU-Net's models"),
        ([], "does not hold the weights of this network"),
    ],
)
def test_what_cannot_be_adopted_is_one_line(options: list[str], said: str, tmp_path: Path) -> None:
    bundle = write_organ(tmp_path / "bundle")
    (bundle / "models").mkdir()
    torch.save({"weight": torch.zeros(1)}, bundle / "models" / "model.pt")
    assert said in prox("adopt", bundle, *options).error
    assert not (bundle / "configs" / "prox.json").exists() and not (bundle / "models" / "given.pt").exists()


# ---------------------------------------------------------------------- the overlay
def test_an_overlay_says_what_it_understood_and_changes_nothing(tmp_path: Path) -> None:
    bundle = write_organ(tmp_path / "bundle")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    done = prox("overlay", bundle)
    lines = done.out.splitlines()
    assert lines[1].startswith("network: network_def, a UNet: 24 members, width {2, 3, 4} {4, 6, 8} {8, 12, 16}; ")
    assert lines[2:5] == [
        "loss: loss, DiceCELoss",
        "trained by: train#trainer, for its max_epochs, on its data, by its optimizer",
        "scored by: validate#evaluator, val_mean_dice, with its inferer and transforms",
    ]
    assert lines[-1].endswith("""python -m monai.bundle run --config_file "['configs/train.json','configs/prox.json']\"""")
    assert all(path.read_bytes() == content for path, content in before.items())
    overlay = json.loads((bundle / "configs" / "prox.json").read_text())
    assert overlay.pop("prox")["size"] == "@validate#inferer#roi_size"
    assert overlay == {
        "train#trainer#_target_": "monai_prox.bundle.PipelineTrainer",
        "train#trainer#prox": "@prox",
        "validate#evaluator#_target_": "monai_prox.bundle.PipelineEvaluator",
        "network": "$@network_def.to(@device)",
        "train#trainer#train_handlers": "@train#handlers",
    }
    assert "prox.json exists; --overwrite replaces it" in prox("overlay", bundle).error
    assert prox("overlay", bundle, "--overwrite", "--space", '{"width": [0.5, 1]}', "--size", "16 16 16").code == 0
    assert json.loads((bundle / "configs" / "prox.json").read_text())["prox"]["space"] == {"width": [0.5, 1]}


VALIDATION = {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "interval": 1}


def trainer(**changes: Any) -> dict[str, Any]:
    return {"train": ORGAN["train"] | {"trainer": ORGAN["train"]["trainer"] | changes}}


def evaluator(**changes: Any) -> dict[str, Any]:
    return {"validate": ORGAN["validate"] | {"evaluator": ORGAN["validate"]["evaluator"] | changes}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network_def": {"_target_": "SwinUNETR"}}, "the network, network_def, is a SwinUNETR; elastic are UNet, BasicUNet, "),
        ({"network_def": UNET | {"_target_": "scripts.UNet"}}, "the network, network_def, is a scripts.UNet; elastic are"),
        ({"network": "$make()"}, "the network, network, is '$make()'; elastic are UNet, "),
        ({"network": "@other"}, "train.json has no other"),
        ({"network": "@network"}, "network refers to itself"),
        (trainer(network=None), "train#trainer has no network"),
        (trainer(_target_="scripts.Trainer"), "has 0 components SupervisedTrainer of MONAI, where one is needed; train#tr"),
        (trainer(train_handlers=[]), "the handlers of train#trainer have 0 of type ValidationHandler"),
        (trainer(train_handlers=[{**VALIDATION, "validator": "$x"}]), "train_handlers#0#validator is '$x'; it must be MONAI's"),
        (trainer(train_handlers=None), "train#trainer has no train_handlers"),
        (trainer(iteration_update="@steps"), "train#trainer has an iteration_update, steps of the bundle's own"),
        (trainer(loss_function=None), "train#trainer has no loss_function"),
        (trainer(optimizer=None), "train#trainer has no optimizer"),
        (evaluator(key_val_metric=None), "validate#evaluator has no key_val_metric"),
        (evaluator(key_val_metric=["a"]), "key_val_metric of validate#evaluator is ['a']; it must be an object"),
        (evaluator(key_val_metric={"val_dice": {"_target_": "MeanIoUHandler"}}), "val_dice, is a MeanIoUHandler; members are "),
        ({"prox": {}}, "has an entry 'prox' of its own"),
        ({"network_def": UNET | {"norm": "layer"}}, "UNet cannot be built: "),
        ({"network_def": UNET | {"num_res_units": 10**6}}, "num_res_units of UNet is 1000000; "),
        ({"network_def": UNET | {"channels": [1, 1], "strides": [2]}}, "has one member only, so there is nothing to expand"),
    ],
)  # fmt: skip
def test_what_cannot_train_a_family_is_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    bundle = write_organ(tmp_path / "bundle", **changes)
    assert said in prox("overlay", bundle).error
    assert not (bundle / "configs" / "prox.json").exists()


def test_other_bad_input_is_one_line(tmp_path: Path) -> None:
    assert "train.yaml or" in prox("overlay", tmp_path).error
    bundle = write_organ(tmp_path / "bundle")
    assert "--size is 'big'; it must be numbers with commas between them" in prox("overlay", bundle, "--size", "big").error
    assert "the size is [16, 16]; the network has 3 spatial axes" in prox("overlay", bundle, "--size", "16,16").error
    assert "width must be ascending fractions that end in 1" in prox("overlay", bundle, "--space", '{"width": [0.5]}').error
    assert "levels is 1; UNet may lack at most 0" in prox("overlay", bundle, "--space", '{"levels": 1}').error
    assert "the recipe 'fast' is not known" in prox("overlay", bundle, "--recipe", "fast").error
    (bundle / "configs" / "train.json").write_text("{")
    assert "train.json cannot be read" in prox("overlay", bundle).error
    (bundle / "configs" / "train.json").unlink()
    (bundle / "configs" / "train.yaml").write_text("x: &a [*a]")
    assert "train.yaml has more than 100,000 parts or 64 levels" in prox("overlay", bundle).error
    (bundle / "configs" / "train.yaml").write_text("{1: 2}")
    assert "train.yaml has the key 1; keys must be text" in prox("overlay", bundle).error


@pytest.mark.parametrize(
    "changes",
    [
        {"network_def": UNET | {"_target_": "monai.networks.nets.Unet"}},
        {"network": "%network_def"},
        trainer(train_handlers="%train#handlers"),
        trainer(train_handlers="$@train#handlers[:2]"),
        trainer(train_handlers=[{**VALIDATION, "_disabled_": True}, VALIDATION, {**VALIDATION, "_target_": "StatsHandler"}]),
        trainer(train_handlers=[{**VALIDATION, "validator": ORGAN["validate"]["evaluator"]}]),
        evaluator(inferer={"_target_": "SlidingWindowInferer", "roi_size": 16}),
        evaluator(key_val_metric={"score": {"_target_": "MeanDice"}}, val_handlers=[]),
        evaluator(key_val_metric="$make()"),
    ],
)
def test_what_is_written_otherwise_is_understood(changes: dict[str, Any], tmp_path: Path) -> None:
    bundle = write_organ(tmp_path / "bundle", **changes)
    assert ": 24 members, width {2, 3, 4} {4, 6, 8} {8, 12, 16}; " in prox("overlay", bundle).out


def test_names_from_a_file_are_no_expressions(tmp_path: Path) -> None:
    bundle = write_organ(tmp_path / "bundle")
    hostile = deepcopy(METADATA) | {"name": "$print('name')"}
    for name in ("@network", "a @#b", "mean", "background", "\x1b[2J"):
        hostile["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] = name  # type: ignore[index]
        write_config(hostile, bundle / "configs" / "metadata.json")
        assert prox("overlay", bundle, "--overwrite").code == 0
        overlay = json.loads((bundle / "configs" / "prox.json").read_text())["prox"]
        assert overlay["task"] == "bundle" and overlay["outputs"] == []


# ---------------------------------------------------------------------- the training
def test_the_bundles_own_command_trains_its_family() -> None:
    folder = trained_organ()
    said, trained = (folder / "said").read_text(), open_trained(folder / "bundle")
    family = trained.family()
    assert "ProX: UNet is the largest of 24 members" in said and "ProX: CheckpointSaver is left out" in said
    assert [stage["name"] for stage in family.stages] == ["smallest", "width", "width 3", "everyone"]
    assert family.epochs == 5 and family.regions == {"organ": (1,)} and len(family.validation_cases or ()) == 2
    assert {member.name for member in family.members} >= {"smallest", "largest"}
    assert all(member.scores and 0 <= (member.scores["organ"] or 0) <= 1 for member in family.members)
    assert "train_accuracy" in said and "val_mean_dice_smallest" in said and "train_loss" in said
    shown = prox("family", folder / "bundle").out
    assert "organ" in shown and "of the pipeline's validation cases" in " ".join(shown.split())


@pytest.mark.slow
def test_fewer_epochs_than_stages_merge_stages(tmp_path: Path) -> None:
    """As applications do that set max_epochs to 1."""
    bundle = write_organ(tmp_path / "bundle")
    prox("overlay", bundle)
    said = run(bundle, "train.json", "prox.json", dataset_dir=trained_organ() / "task", **{"train#trainer#max_epochs": 1})
    assert "prox has 4 stages, more than epochs, 1: the first 4 are merged into 'everyone'" in said
    (stage,) = open_trained(bundle).family().stages
    assert stage["name"] == "everyone"


def test_a_pipeline_of_other_names_in_yaml_of_several_channels_and_regions(tmp_path: Path) -> None:
    task = write_ellipsoids(tmp_path / "task", ("FLAIR", "T1"), ("none", "whole", "core"), (20, 18, 17), (1.0,) * 3, cases=3)
    config = write_config(TUMOUR, tmp_path / "bundle" / "configs" / "train.yaml")
    bundle = config.parents[1]
    assert "neither evaluator#inferer nor metadata.json says what size a patch has" in prox("overlay", bundle).error
    done = prox("overlay", bundle, "--size", "16,16,16", "--space", '{"levels": 1}')
    assert "network: net, a SegResNet: 4 members, levels {2, 3}; width {8, 16}; " in done.out, done
    network = {"network_def": TUMOUR["net"], "channels": 2, "regions": 2}
    write_config(network, config.with_name("inference.yaml"))
    run(bundle, "train.yaml", "prox.json", dataset_dir=task)
    *_, largest = open_trained(bundle).members()
    assert set(largest.scores or ()) == {"mean", "1", "2"}  # which nobody has named
    assert prox("export", bundle, "--subnet", "smallest", "-o", tmp_path / "small").code == 0
    swapped = yaml.safe_load((tmp_path / "small" / "configs" / "inference.yaml").read_text())
    fewer = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
    assert swapped["network_def"] == TUMOUR["net"] | fewer and swapped["channels"] == 2
    parser = ConfigParser(swapped)
    parser.get_parsed_content("network_def").load_state_dict(torch.load(tmp_path / "small" / "models" / "model.pt"))


@pytest.mark.slow
def test_an_interrupted_training_continues(tmp_path: Path) -> None:
    """Two epochs of five, and the rest from the checkpoint, are what five epochs are."""
    bundle, task = write_organ(tmp_path / "bundle"), trained_organ() / "task"
    prox("overlay", bundle)
    stop = "$@train#trainer.add_event_handler(ignite.engine.Events.EPOCH_COMPLETED(once=2), lambda e: e.terminate())"
    stops = {"imports": [*ORGAN["imports"], "$import ignite"], "initialize": [*ORGAN["initialize"], stop]}
    write_config(stops, bundle / "configs" / "stops.json")
    run(bundle, "train.json", "prox.json", "stops.json", dataset_dir=task)
    (checkpoint,) = (bundle / "models").glob("checkpoint_epoch=2.pt")
    run(bundle, "train.json", "prox.json", dataset_dir=task, prox__ckpt=checkpoint)
    again, whole = (torch.load(path / "models" / "model.pt") for path in (bundle, trained_organ() / "bundle"))
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_a_configuration_that_wraps_the_network_is_set_right(tmp_path: Path) -> None:
    """As multi_gpu_train.json does, if it stands before; after, it is refused."""
    bundle = write_organ(tmp_path / "bundle", epochs=1)
    prox("overlay", bundle)
    write_config({"network": "$torch.nn.DataParallel(@network_def)"}, bundle / "configs" / "more.json")
    task = trained_organ() / "task"
    run(bundle, "train.json", "more.json", "prox.json", dataset_dir=task)
    assert open_trained(bundle).members()
    said = run(bundle, "train.json", "prox.json", "more.json", dataset_dir=task, check=False)
    assert "error: the network is a torch.nn.parallel.data_parallel.DataParallel; elastic are MONAI's UNet" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prox__save_interval": 0}, "error: seed is 0 and save_interval 0; they must be"),
        ({"prox__ckpt": "none.pt"}, "error: there is no checkpoint none.pt"),
        ({"validate__evaluator__key_val_metric": "$None"}, "error: the validator has no key metric"),
    ],
)
def test_settings_that_cannot_be_are_the_last_line(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    bundle = write_organ(tmp_path / "bundle")
    prox("overlay", bundle)
    done = run(bundle, "train.json", "prox.json", dataset_dir=trained_organ() / "task", check=False, **settings)
    assert said in done


# ---------------------------------------------------------------------- parts of the component
def test_losses_of_overlapping_regions_are_told() -> None:
    dice = DiceLoss(sigmoid=True)
    for loss in (dice, DiceCELoss(sigmoid=True), nn.BCEWithLogitsLoss(), DeepSupervisionLoss(dice)):
        assert takes_sigmoid(loss)
    for loss in (DiceLoss(softmax=True), DiceCELoss(to_onehot_y=True, softmax=True), nn.CrossEntropyLoss(), min):
        assert not takes_sigmoid(loss)


def test_a_loss_of_one_output_is_named() -> None:
    loss = _OneLine(DiceLoss(), 4)
    target = torch.zeros(2, 3, 8, 8)
    assert loss(target, target) is not None
    refused("returns 2 outputs in training, and the loss DiceLoss does not take them", loss, [target, target], target)
    refused("returns 2 outputs in training, and the loss DiceLoss does not take them", loss, torch.zeros(2, 2, 3, 8, 8), target)
    with pytest.raises(AssertionError, match="ground truth has different shape"):
        loss(target, target[:, :1])


def test_images_that_statistics_are_taken_of_are_the_same_each_time() -> None:
    one, two, three = ({"image": torch.rand(1, 4, 4)} for _ in range(3))
    patches = _Patches([one, [two, three]], seed=3)
    state = torch.get_rng_state()
    assert len(patches) == 32 and torch.equal(patches[3]["image"], patches[3]["image"])
    assert not torch.equal(patches[1]["image"], patches[3]["image"]) and torch.equal(torch.get_rng_state(), state)
    refused("the training's items are a tuple; they must have an image", _Patches([(1, 2)], 0).__getitem__, 0)
    refused("the training's dataset is a generator without a length", len, _Patches((x for x in ()), 0))


# ---------------------------------------------------------------------- members
@pytest.mark.parametrize("name", ["smallest", "largest"])
def test_an_exported_member_is_the_bundle_with_another_network(name: str, tmp_path: Path) -> None:
    folder = trained_organ()
    trained, output = open_trained(folder / "bundle"), tmp_path / name
    assert prox("export", folder / "bundle", "--subnet", name, "-o", output).code == 0
    _, subnet = trained.member(name)
    architecture = trained.supernet.family.architecture_of(subnet)  # type: ignore[attr-defined]
    for file, content in CONFIGS.items():
        expected = content | {"network_def": architecture} if "network_def" in content else content
        assert json.loads((output / "configs" / file).read_text()) == expected
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    written = {*(f"configs/{file}" for file in (*CONFIGS, "metadata.json", "logging.conf")), "LICENSE", "docs/README.md"}
    assert files == written | {"models/model.pt", "prox_export.json"}
    metadata = json.loads((output / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"] == METADATA["network_data_format"] and metadata["prox_member"]["name"] == name
    assert (output / "docs" / "README.md").read_text().startswith(f"> This bundle has the member {name} of a family trained on")


def test_what_is_said_of_the_weights_goes_with_a_member(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(trained_organ() / "bundle", folder)
    family = json.loads((folder / "models" / "family.json").read_text())
    write_json(family | {"license": "CC-BY 4.0, Our Clinic"}, folder / "models" / "family.json")
    (folder / "docs" / "data_license.txt").write_text("The data: CC0.\n")
    done = prox("export", folder, "--subnet", "smallest", "-o", tmp_path / "smallest")
    assert done.code == 0 and "Of the family's weights it is said: CC-BY 4.0, Our Clinic" in done.out
    assert (
        json.loads((tmp_path / "smallest" / "configs" / "metadata.json").read_text())["weights_license"]
        == "CC-BY 4.0, Our Clinic"
    )
    said = (tmp_path / "smallest" / "docs" / "data_license.txt").read_text()
    assert said == "The data: CC0.\n\nSaid of the weights: CC-BY 4.0, Our Clinic\n"


@pytest.mark.parametrize("name", ["smallest", pytest.param("largest", marks=pytest.mark.slow)])
def test_it_predicts_as_the_member_does_within_the_training_bundle(name: str, tmp_path: Path) -> None:
    """Bit for bit: the images that its inference.json writes, and the Dice that its evaluate.json writes."""
    folder, output = trained_organ(), tmp_path / name
    prox("export", folder / "bundle", "--subnet", name, "-o", output)
    images = folder / "task" / "imagesTr"
    run(output, "inference.json", dataset_dir=images, output_dir=tmp_path / "exported")

    trained = TrainedBundle.open(folder / "bundle")
    subnet, supernet = trained.subnet(name), trained.supernet()
    statistics = trained.statistics()[str(subnet)]
    supernet.network.load_state_dict(_placed(supernet, subnet, statistics), strict=False)
    network = supernet.view(subnet)  # a slice, with the statistics of the member
    parser = ConfigParser(INFERENCE | {"dataset_dir": str(images), "output_dir": str(tmp_path / "within"), "handlers": []})
    parser["network"] = network
    parser.get_parsed_content("evaluator").run()
    written = sorted((tmp_path / "within").glob("*.nii.gz"))
    assert len(written) == 4
    for path in written:
        one, other = (np.asarray(nib.load(folder / path.name).dataobj) for folder in (path.parent, tmp_path / "exported"))
        assert np.array_equal(one, other) and np.ptp(one) > 0

    run(output, "train.json", "evaluate.json", dataset_dir=folder / "task")
    rows = (output / "eval" / "val_mean_dice_raw.csv").read_text().splitlines()[1:]
    scores = [float(row.split(",")[1]) for row in rows]
    (member,) = [member for member in trained.family().members if member.name == name]
    assert member.scores is not None and sum(scores) / len(scores) == pytest.approx(member.scores["organ"], abs=1e-6)


def _placed(supernet: SuperNet, subnet: Subnet, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The largest network's buffers, with those of a member where it has its channels."""
    buffers = {name: buffer.clone() for name, buffer in supernet.network.named_buffers()}
    for name, values in statistics.items():
        source, region = supernet.family.locate(name, tuple(values.shape), subnet)
        place([buffers[source]], [region], [values])
    return buffers


def test_what_a_pipelines_family_cannot_become_is_one_line(own: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"

    def refusal(*words: Any) -> str:
        return prox("export", own, "-o", output, *words).error

    assert "a bundle's members become bundle, not onnx" in refusal("--subnet", "smallest", "--format", "onnx")
    assert "there is no member 'tiny'" in refusal("--subnet", "tiny")
    assert "is of a pipeline whose transforms are its own" in prox("search", own).error
    (tmp_path / "mine.json").write_text('{"width": [2, 6, 16]}')
    assert "has no statistics of the norms" in refusal("--subnet", tmp_path / "mine.json")
    assert "is within the bundle" in prox("export", own, "--subnet", "smallest", "-o", own / "configs" / "small").error
    for other in ({"channels": [4, 8, 20]}, {"in_channels": 4}, {"norm": "instance"}):
        write_config(INFERENCE | {"network_def": UNET | other}, own / "configs" / "inference.json")
        assert "has no inference.json or .yaml with the network that was trained" in refusal("--subnet", "smallest")
    shutil.rmtree(own / "configs")
    assert "configs; give the bundle that the family was trained in" in refusal("--subnet", "smallest")
    assert not output.exists()


# ---------------------------------------------------------------------- real images
@pytest.mark.slow
def test_a_pipeline_trains_a_family_on_real_ct(tmp_path: Path) -> None:
    bundle = write_organ(tmp_path / "bundle")
    assert prox("overlay", bundle).code == 0
    data = "$[{'image': i, 'label': l} for i, l in zip(@images[:1], @labels[:1])]"
    places = {"dataset_dir": real_task("Task09_Spleen"), "train__dataset__data": data, "validate__dataset__data": data}
    run(bundle, "train.json", "prox.json", **places, validate__inferer__roi_size=[64, 64, 16])
    check_scores(bundle)


@pytest.mark.slow
def test_a_pipeline_trains_a_family_on_real_mr_of_two_channels(tmp_path: Path) -> None:
    bundle = write_config(TUMOUR, tmp_path / "bundle" / "configs" / "train.yaml").parents[1]
    assert prox("overlay", bundle, "--size", "16,16,16").code == 0
    images = "$sorted(glob.glob(@dataset_dir + '/imagesTr/*.nii.gz'))[:3]"
    run(bundle, "train.yaml", "prox.json", dataset_dir=real_task("Task101_BraTS2015_2ch"), images=images)
    check_scores(bundle)


def check_scores(bundle: Path) -> None:
    members = open_trained(bundle).members()
    assert {"smallest", "largest"} <= {member.name for member in members}
    assert all(member.scores and 0 <= (member.scores["mean"] or 0) <= 1 for member in members)


def real_task(name: str) -> Path:
    folder = Path(os.environ.get("MONAI_PROX_DATA", "nowhere"), name)
    if not folder.is_dir():
        pytest.skip(f"there is no {name} in the folder that MONAI_PROX_DATA names")
    return folder
