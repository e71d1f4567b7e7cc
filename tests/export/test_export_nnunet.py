"""A member as a stock nnU-Net model: the same network bit for bit, and a folder that is whole or not there."""

import errno
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.architectures import FOUR_DIMENSIONS
from helpers.equality import equal
from helpers.nnunet_task import (
    CPU,
    CUT,
    FULLRES,
    SHALLOW,
    TWO_MEMBERS,
    bare_model,
    bare_plans,
    make_trainer,
    stock_predictor,
)
from helpers.refusals import refused
from monai.apps.nnunet import convert_nnunet_to_monai_bundle, get_network_from_nnunet_plans, nnUNetV2Runner
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.export import nnunet as export_module
from monai_prox.export.folder import LISTING, new_folder
from monai_prox.export.from_nnunet import prediction_of
from monai_prox.export.nnunet import export_nnunet
from monai_prox.files import write_json
from monai_prox.nnunet.family_report import write_family
from monai_prox.trained.family_file import FAMILY, FamilyFile
from monai_prox.trained.nnunet_folder import FINAL, ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.trained.open_part import ENTRY

pytest_plugins = ["helpers.nnunet_fixtures"]

FEW = {"space": TWO_MEMBERS}
COARSER = {"space": FOUR_DIMENSIONS}


def stock(folder: Path) -> nnUNetPredictor:
    """What ``nnUNetv2_predict`` makes of a model folder."""
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(folder), None)
    return predictor


def configuration_of(folder: Path) -> dict[str, Any]:
    (configuration,) = json.loads((folder / "plans.json").read_text())["configurations"].values()
    return dict(configuration)


def tree(root: Path) -> dict[Path, bytes | None]:
    """Everything below ``root`` with its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


PLANS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: bare_plans(prox=COARSER),
    "residual": lambda: bare_plans("ResidualEncoderUNet", depths=(1, 3, 4), decoder_depths=(1, 1), prox=COARSER),
    "2d": lambda: bare_plans(patch=(24, 32), prox=COARSER),
    "thick slices": lambda: bare_plans(patch=(8, 24, 16), spacing=(5.0, 1.0, 1.0), anisotropic=True, prox=COARSER),
    "paper": lambda: bare_plans(patch=(20, 24, 20), prox={"space": "paper"}),
}


# ---------------------------------------------------------------------- the network
@pytest.mark.parametrize("kind", PLANS)
def test_an_exported_member_computes_what_the_supernet_does(kind: str, bare: Path) -> None:
    """At full resolution; a member of lower resolution does so at its own, and the sliced one resizes there and back."""
    model = bare_model(PLANS[kind]())
    supernet = model.supernet(model.checkpoint("fold_0"))
    x = torch.randn(2, 1, *supernet.family.patch_size, generator=torch.Generator().manual_seed(0))
    seen = []
    for name in ("smallest", "middle", "largest"):
        _, subnet = model.member(name)
        predictor = stock(export_nnunet(TrainedNNUNet.of(model), name))
        network = predictor.network.eval()
        assert type(network).__module__ == "dynamic_network_architectures.architectures.unet"
        with torch.no_grad():
            expected = supernet(x, subnet)
            assert torch.equal(supernet.family.run(network, x, subnet), expected)
        seen.append(expected)
        assert sum(p.numel() for p in network.parameters()) == next(
            member.parameters for member in model.family().members if member.name == name
        )
        assert predictor.trainer_name == "nnUNetTrainer"
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_every_fold_is_exported_with_weights_of_its_own(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW), folds=(0, 2))
    predictor = stock(export_nnunet(TrainedNNUNet.of(model), "largest"))
    assert len(predictor.list_of_parameters) == 2
    x = torch.randn(1, 1, 16, 24, 16, generator=torch.Generator().manual_seed(0))
    outputs = []
    for fold, weights in zip(("fold_0", "fold_2"), predictor.list_of_parameters, strict=True):
        predictor.network.load_state_dict(weights)
        supernet = model.supernet(model.checkpoint(fold))
        with torch.no_grad():
            outputs.append(predictor.network.eval()(x))
            assert torch.equal(outputs[-1], supernet(x, supernet.family.space.largest()))
    assert not torch.equal(*outputs)


def test_the_checkpoint_carries_what_prediction_and_fine_tuning_need(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW), folds=(2,))
    folder = export_nnunet(TrainedNNUNet.of(model), "smallest")
    checkpoint = torch.load(folder / "fold_2" / FINAL, weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert checkpoint["init_args"]["fold"] == 2 and checkpoint["init_args"]["configuration"] == FULLRES
    assert checkpoint["init_args"]["plans"] == json.loads((folder / "plans.json").read_text())
    assert "prox" not in checkpoint and "prox" not in configuration_of(folder)


def test_what_is_said_of_the_weights_goes_with_the_member(bare: Path) -> None:
    """Of any fold, for all of them are exported. nnU-Net's zip takes dataset.json along."""
    model, said = bare_model(bare_plans(prox=FEW, **SHALLOW), folds=(0, 2)), "CC-BY 4.0, Our Clinic"
    before = export_nnunet(TrainedNNUNet.of(model), "smallest")
    assert json.loads((before / "dataset.json").read_text()) == model.dataset
    replace(FamilyFile.read(model.path / "fold_2" / FAMILY), license=said).write(model.path / "fold_2")
    folder = export_nnunet(TrainedNNUNet.of(model), "smallest", overwrite=True)
    stated = {**model.dataset, "weights_license": said}
    assert json.loads((folder / "dataset.json").read_text()) == stated
    assert torch.load(folder / "fold_0" / FINAL, weights_only=True)["init_args"]["dataset_json"] == stated
    assert TrainedNNUNet.of(model, ("fold_0", "fold_2")).describe("smallest").license == said
    replace(FamilyFile.read(model.path / "fold_0" / FAMILY), license="CC0").write(model.path / "fold_0")
    assert TrainedNNUNet.of(model).family().license == f"CC0; {said}"


# ---------------------------------------------------------------------- the plan
@pytest.mark.parametrize(
    ("kind", "patch"),
    [("plain", [12, 20, 12]), ("2d", [20, 24]), ("thick slices", [8, 20, 12])],
)
def test_lower_resolution_is_a_coarser_spacing(kind: str, patch: list[int], bare: Path) -> None:
    """Axis by axis in the proportion by which the patch got smaller; thick slices stay as they are."""
    model = bare_model(PLANS[kind]())
    full = model.configuration
    member = configuration_of(export_nnunet(TrainedNNUNet.of(model), "smallest"))
    assert member["patch_size"] == patch
    for axis, (small, large) in enumerate(zip(patch, full["patch_size"], strict=True)):
        assert member["spacing"][axis] == pytest.approx(full["spacing"][axis] * large / small)
        voxels = full["median_image_size_in_voxels"][axis] * small / large
        assert member["median_image_size_in_voxels"][axis] == pytest.approx(voxels)
    # preprocessed at another spacing, so it must not be mistaken for the data at full resolution
    assert member["data_identifier"] == f"{CUT}-prox-smallest_{model.configuration_name}" != full["data_identifier"]


def test_full_resolution_shares_the_preprocessed_data(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    folder = export_nnunet(TrainedNNUNet.of(model), "largest")
    member = configuration_of(folder)
    for key in ("patch_size", "spacing", "data_identifier", "architecture", "batch_size"):
        assert member[key] == model.configuration[key], key
    assert json.loads((folder / "plans.json").read_text())["plans_name"] == f"{CUT}-prox-largest"
    assert folder == model.path.parent / f"nnUNetTrainer__{CUT}-prox-largest__{FULLRES}"


def test_a_plan_that_inherits_is_whole_without_its_parent(bare: Path) -> None:
    plans = bare_plans(prox=FEW, **SHALLOW)
    plans["configurations"]["3d_wide"] = {"inherits_from": FULLRES, "batch_size": 7}
    plans["configurations"][FULLRES]["next_stage"] = "3d_cascade_fullres"
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    (model.path / "plans.json").write_text(json.dumps(plans))
    path = model.path
    for configuration, batch_size in (("3d_wide", 7), (FULLRES, 2)):
        path = path.rename(path.with_name(f"ProXTrainerTiny__{CUT}__{configuration}"))
        member = configuration_of(export_nnunet(TrainedNNUNet.open(path), "largest"))
        assert member["batch_size"] == batch_size
        assert not {"inherits_from", "next_stage"} & set(member)


# ---------------------------------------------------------------------- which member
def test_a_json_file_names_a_member(bare: Path) -> None:
    """With the subnet alone, or as an entry of family.json."""
    model = bare_model(bare_plans(prox=COARSER))
    entry = model.family().to_json()["members"][-1]
    subnet = entry["subnet"] | {"resolution": [0.75]}
    for name, content in {"coarse": subnet, "coarse-too": entry | {"subnet": subnet}}.items():
        (bare / f"{name}.json").write_text(json.dumps(content))
        folder = export_nnunet(TrainedNNUNet.of(model), str(bare / f"{name}.json"))
        assert folder.name == f"nnUNetTrainer__{CUT}-prox-{name}__{FULLRES}"
        assert configuration_of(folder)["patch_size"] == [12, 20, 12]
        assert configuration_of(folder)["architecture"] == model.configuration["architecture"]


def subnet_with(model: ModelFolder, **changes: Any) -> str:
    return json.dumps(model.member("largest")[1].to_json() | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no file .*member\.json"),
        (lambda model: "{", r"member\.json is not valid JSON"),
        (lambda model: "[1, 2]", r"a subnet is an object of lists .* got \[1, 2\]"),
        (lambda model: '{"subnet": 3}', "a subnet is an object of lists .* got 3"),
        (lambda model: '{"depth": [1]}', "subnet has the dimensions"),
        (lambda model: subnet_with(model, width="all"), "'width' must be a list of numbers, got 'all'"),
        (lambda model: subnet_with(model, width=[4, 8]), "width needs 3 values"),
        (lambda model: subnet_with(model, width=[4, 8, 17]), r"width\[2\] = 17 is not legal: allowed here: \[16\]"),
        (lambda model: subnet_with(model, resolution=[0.5]), r"resolution\[0\] = 0.5 is not legal"),
    ],
    ids=["missing", "cut off", "list", "number", "other space", "text", "too few", "too wide", "resolution"],
)
def test_a_file_that_holds_no_member_is_refused(content: Callable[[ModelFolder], str] | None, message: str, bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    if content is not None:
        (bare / "member.json").write_text(content(model))
    before = tree(bare)
    with pytest.raises(ProXError, match=message):
        export_nnunet(TrainedNNUNet.of(model), str(bare / "member.json"))
    assert tree(bare) == before


def test_an_unknown_member_is_refused_with_the_known_ones(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    before = tree(bare)
    with pytest.raises(ProXError, match="there is no member 'tiny'; known: smallest, largest"):
        export_nnunet(TrainedNNUNet.of(model), "tiny")
    assert tree(bare) == before


# ---------------------------------------------------------------------- closed choices
SOME = {"space": {"depth": "full", "width": [0.5, 1.0], "levels": 1, "resolution": [0.75, 1.0]}}


def closing_model(**closed: Sequence[str]) -> tuple[ModelFolder, dict[str, SuperNet]]:
    """A model whose folds' trainings, by the names of their folders, closed choices of some dimensions.

    And the supernets as these trainings have them.
    """
    plans, supernets = bare_plans(prox=SOME), {}
    model = bare_model(plans, folds=[int(fold.removeprefix("fold_")) for fold in closed])
    for fold, dimensions in closed.items():
        trainer = make_trainer(plans, fold=int(fold.removeprefix("fold_")))
        file = str(model.path / fold / FINAL)
        trainer.load_checkpoint(file)
        trainer.network.load_state_dict(trainer.network.state_dict())  # as if pretrained: growing leaves them as they are
        trainer.engine.begin_epoch(trainer.num_epochs - 1)
        for dimension in dimensions:
            trainer.engine.close(dimension)
        trainer._apply_closed()
        trainer.save_checkpoint(file)
        write_family(trainer, {})
        supernets[fold] = trainer.supernet.eval()
    return model, supernets


def save_subnet(subnet: Subnet, path: Path) -> str:
    write_json({"subnet": subnet.to_json()}, path)
    return str(path)


@pytest.mark.parametrize("dimensions", [["levels"], ["width", "resolution"], ["resolution", "levels", "width"]])
def test_members_of_what_remained_open_are_exported(dimensions: list[str], bare: Path) -> None:
    model, supernets = closing_model(fold_0=dimensions)
    whole = supernets["fold_0"]
    family = model.supernet(model.checkpoint("fold_0")).family
    counts = {d: whole.family.space.choice_count(d) for d in whole.family.space.dimensions}
    assert family.space == whole.family.space.restrict(counts | dict.fromkeys(dimensions, 1))
    assert model.member("largest")[1] == family.space.largest() != whole.family.space.largest()
    x = torch.randn(1, 1, *family.patch_size, generator=torch.Generator().manual_seed(0))
    for name in {member.name for member in model.family().members}:
        _, subnet = model.member(name)
        network = stock(export_nnunet(TrainedNNUNet.of(model), name)).network.eval()
        with torch.no_grad():
            assert torch.equal(family.run(network, x, subnet), whole.view(subnet)(x)), name
        assert ENTRY not in network.state_dict()
        assert prediction_of(TrainedNNUNet.of(model), name).subnet == subnet.to_json()


def test_members_beyond_what_remained_open_are_refused(bare: Path) -> None:
    model, supernets = closing_model(fold_0=["width"])
    largest = save_subnet(supernets["fold_0"].family.space.largest(), bare / "whole.json")
    before = tree(bare)
    message = r"fold_0, whose training has closed choices of width, has no such member: width\[0\] = 4 is not legal"
    for export in (export_nnunet, prediction_of):
        with pytest.raises(ProXError, match=message):
            export(TrainedNNUNet.of(model), largest)
    assert tree(bare) == before


def test_a_member_has_to_be_open_in_every_fold(bare: Path) -> None:
    """Folds may have closed different choices; a bundle is of one fold alone."""
    model, supernets = closing_model(fold_0=[], fold_1=["width"], fold_2=["levels"])
    space = supernets["fold_0"].family.space
    narrow = Subnet.from_values(**dict(space.largest()) | {"width": (2, 4, 8)})  # open in the first two
    before = tree(model.path)
    for subnet, message in ((space.largest(), "fold_1, .*choices of width, has no"), (narrow, "fold_2, .*of levels, has no")):
        file = save_subnet(subnet, bare / "asked.json")
        with pytest.raises(ProXError, match=message):
            export_nnunet(TrainedNNUNet.of(model), file)
    assert prediction_of(TrainedNNUNet.of(model, "fold_1"), file).subnet == narrow.to_json()
    with pytest.raises(ProXError, match=r"fold_2, .*of levels, has no such member"):
        prediction_of(TrainedNNUNet.of(model, "fold_2"), file)
    assert tree(model.path) == before and not list(model.path.parent.glob("nnUNetTrainer*"))
    folder = export_nnunet(TrainedNNUNet.of(model), "smallest")
    assert sorted(path.name for path in folder.glob("fold_*")) == ["fold_0", "fold_1", "fold_2"]


def test_the_family_is_what_is_open_in_all_folds(bare: Path) -> None:
    """If there is such a fold; Dice are of the same members, whatever their names in the other folds."""
    model, supernets = closing_model(fold_0=[], fold_1=["width", "levels"], fold_2=["width"])
    space = supernets["fold_1"].family.space.restrict({"resolution": 2})
    for fold, dice in zip(model.folds, (0.5, 0.6, 0.7), strict=True):
        family = json.loads((model.path / fold / "family.json").read_text())
        for member in family["members"]:
            member["dice"] = {"mean": dice}
        write_json(family, model.path / fold / "family.json")
    members = {member.name: member for member in model.family().members}
    assert members["largest"].subnet == space.largest()
    assert all(member.subnet in space for member in members.values())
    dice = {name: (member.scores or {})["mean"] for name, member in members.items()}
    assert dice["smallest"] == pytest.approx(0.6)
    expected = 0.6  # unless another fold validated it too, under another name
    others = [json.loads((model.path / fold / "family.json").read_text())["members"] for fold in ("fold_0", "fold_2")]
    same = [m["dice"]["mean"] for of in others for m in of if m["subnet"] == members["largest"].subnet.to_json()]
    assert dice["largest"] == pytest.approx((expected + sum(same)) / (1 + len(same)))
    for name in members:
        export_nnunet(TrainedNNUNet.of(model), name)


# ---------------------------------------------------------------------- whole or not there
def test_an_existing_folder_stays_unless_it_may_be_overwritten(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    output = bare / "exported"
    export_nnunet(TrainedNNUNet.of(model), "smallest", output)
    before = tree(output)
    with pytest.raises(ProXError, match=f"{output} exists; give another --output or --overwrite"):
        export_nnunet(TrainedNNUNet.of(model), "largest", output)
    assert tree(output) == before
    assert export_nnunet(TrainedNNUNet.of(model), "largest", output, overwrite=True) == output
    assert configuration_of(output)["patch_size"] == [16, 24, 16]
    assert stock(output).network is not None
    assert not list(bare.glob(".*"))


def test_nothing_but_an_exported_member_is_ever_replaced(bare: Path) -> None:
    """--overwrite must not cost a training, or somebody's folder."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    mine = bare / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    before = tree(bare)
    for output in (model.path, mine):
        with pytest.raises(ProXError, match=f"{output} is not an exported member, so it is not replaced"):
            export_nnunet(TrainedNNUNet.of(model), "smallest", output, overwrite=True)
    assert tree(bare) == before


def test_what_nnunet_trained_into_an_exported_folder_is_kept(bare: Path) -> None:
    """Fine-tuning writes checkpoint_final.pth where the exported one was."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    output = export_nnunet(TrainedNNUNet.of(model), "largest", fine_tune=True)
    trainer = make_trainer(json.loads((output / "plans.json").read_text()), cls=nnUNetTrainer)
    trainer.initialize()
    assert Path(trainer.output_folder) == output / "fold_0"
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    trainer.save_checkpoint(str(output / "fold_0" / FINAL))
    before = tree(bare)
    (log,) = (output / "fold_0").glob("training_log_*.txt")
    words = f"{output} is not replaced, for fold_0/{FINAL}, fold_0/{log.name} there were not exported; move them"
    refused(words, export_nnunet, TrainedNNUNet.of(model), "largest", overwrite=True)
    assert tree(bare) == before
    kept = output.with_name("fine_tuned")
    output.rename(kept)
    assert export_nnunet(TrainedNNUNet.of(model), "largest", overwrite=True) == output and tree(kept)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "a b").mkdir(), None),
        (lambda folder: (folder / "notes.txt").touch(), "for notes.txt there"),
        (lambda folder: (folder / "link").symlink_to(folder / "plans.json"), "for link there"),
        (lambda folder: (folder / "plans.json").write_text("{}"), "for plans.json there"),
        (lambda folder: [(folder / f"{n}").touch() for n in range(7)], "for 0, 1, 2, 3, 4 and 2 more there"),
        (lambda folder: (folder / LISTING).unlink(), f"it has no {LISTING}"),
        (lambda folder: (folder / LISTING).write_text("[]"), "does not list what was exported"),
        (lambda folder: (folder / "fold_0" / "progress.png").unlink(missing_ok=True), None),
    ],
    ids=["empty folder", "new", "link", "changed", "many", "no listing", "broken listing", "less"],
)
def test_only_what_was_exported_is_replaced(spoil: Callable[[Path], object], words: str | None, tmp_path: Path) -> None:
    output = tmp_path / "exported"

    def export(content: str) -> None:
        with new_folder(output, overwrite=True) as folder:
            (folder / "fold_0").mkdir()
            for name in ("plans.json", "fold_0/checkpoint_final.pth", "fold_0/progress.png"):
                (folder / name).write_text(content)

    export("first")
    spoil(output)
    before = tree(tmp_path)
    if words is None:
        export("second")
        assert (output / "plans.json").read_text() == "second"
    else:
        refused(words, export, "second")
        assert tree(tmp_path) == before


def test_a_validation_goes_only_with_the_member_and_the_weights_it_was_made_of(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    fold = model.path / model.folds[0]
    epoch = model.checkpoint(model.folds[0])["current_epoch"]
    family = model.family()
    members = tuple(replace(member, scores={"mean": 0.5}) for member in family.members)
    replace(family, members=members, validated_epoch=epoch).write(fold)
    summary = fold / "members" / "smallest" / "validation" / "summary.json"
    summary.parent.mkdir(parents=True, exist_ok=True)
    write_json({"mean": {}}, summary)
    smallest, largest = model.member("smallest")[1], model.member("largest")[1]
    assert model.validation_summary(model.folds[0], smallest, epoch) == summary
    assert model.validation_summary(model.folds[0], smallest, epoch + 1) is None
    replace(family, validated_epoch=epoch).write(fold)
    assert model.validation_summary(model.folds[0], smallest, epoch) is None, "what is there is of an earlier validation"
    found = model.validation_summary(model.folds[0], largest, epoch)
    assert found is None or found.parent.parent == fold
    taken = bare / "smallest.json"
    write_json({"subnet": largest.to_json()}, taken)
    with pytest.raises(ProXError, match="'smallest' is the name of another member"):
        model.member(str(taken))


def validate(model: ModelFolder, name: str, image: nib.Nifti1Image) -> Path:
    """As if the trainer had validated a member with --npz: the folder of the one held-out case, ``image``."""
    fold = model.path / "fold_0"
    family = json.loads((fold / "family.json").read_text())
    scored = [member | {"dice": {"mean": 0.5}} for member in family["members"]]
    epoch = model.checkpoint("fold_0")["current_epoch"]
    write_json(family | {"members": scored, "validated_epoch": epoch}, fold / "family.json")
    folder = (fold if name == "largest" else fold / "members" / name) / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    write_json({"metric_per_case": [], "mean": {}, "foreground_mean": {}}, folder / "summary.json")
    nib.save(image, folder / "case.nii.gz")
    labels = np.asarray(image.dataobj).T
    np.savez_compressed(folder / "case.npz", probabilities=np.stack([labels == value for value in range(3)]).astype(np.float16))
    (folder / "case.pkl").write_bytes(b"what nobody should unpickle")
    return folder


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"])
def test_segmentations_and_probabilities_of_the_validation_go_with_the_member(reader: str, bare: Path) -> None:
    """As nnU-Net's ensembles take them. Its pickles are made anew: who knows what is in those of others?"""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW) | {"image_reader_writer": reader})
    segmentation = np.random.default_rng(0).integers(0, 3, (5, 6, 7), np.uint8)
    affine = np.array([[-1.1, 0, 0, 10], [0, 0, 1.3, -20], [0, 0.9, 0, 30], [0, 0, 0, 1]])
    found = validate(model, "smallest", nib.Nifti1Image(segmentation, affine))
    folder = export_nnunet(TrainedNNUNet.open(model.path), "smallest") / "fold_0" / "validation"
    assert sorted(path.name for path in folder.iterdir()) == ["case.nii.gz", "case.npz", "case.pkl", "summary.json"]
    for name in ("case.nii.gz", "case.npz", "summary.json"):
        assert (folder / name).read_bytes() == (found / name).read_bytes()
    plans = PlansManager(json.loads((folder.parents[1] / "plans.json").read_text()))
    merged = folder / "merged"
    if reader.endswith("Reorient"):  # probabilities are as the reader has the axes
        labels = plans.image_reader_writer_class().read_seg(str(folder / "case.nii.gz"))[0][0]
        np.savez(folder / "case.npz", probabilities=np.stack([labels == value for value in range(3)]).astype(np.float16))
    labels = plans.get_label_manager(model.dataset)
    merge_files([str(folder / "case.npz")] * 2, str(merged), ".nii.gz", plans.image_reader_writer_class(), labels)
    written = nib.load(f"{merged}.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), segmentation)
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)


def test_no_pickle_comes_without_probabilities(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    found = validate(model, "largest", nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)))
    (found / "case.npz").unlink()
    folder = export_nnunet(TrainedNNUNet.open(model.path), "largest") / "fold_0" / "validation"
    assert sorted(path.name for path in folder.iterdir()) == ["case.nii.gz", "summary.json"]


@pytest.mark.parametrize("name", ["case.nii.gz", "case.npz", "summary.json"])
def test_a_validation_that_leads_out_of_the_model_folder_is_refused(name: str, bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    found = validate(model, "smallest", nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)))
    secret = (found / name).rename(bare / name)
    (found / name).symlink_to(secret)
    before = tree(bare)
    refused(f"{name} is a link out of ", export_nnunet, TrainedNNUNet.open(model.path), "smallest")
    assert tree(bare) == before


def test_a_segmentation_that_says_more_than_it_holds_is_refused(bare: Path) -> None:
    """nnU-Net's readers would take memory for it."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    found = validate(model, "smallest", nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)))
    data = bytearray(gzip.decompress((found / "case.nii.gz").read_bytes()))
    data[40:48] = np.array([3, 3000, 3000, 3000], np.int16).tobytes()
    (found / "case.nii.gz").write_bytes(gzip.compress(data))
    refused("its header says (3000, 3000, 3000) voxels", export_nnunet, TrainedNNUNet.open(model.path), "smallest")


@pytest.mark.parametrize("reader", ["BaseReaderWriter", "Mystery", "sitk"])
def test_a_reader_that_is_none_is_refused(reader: str, bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    validate(model, "smallest", nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)))
    write_json(model.plans | {"image_reader_writer": reader}, model.path / "plans.json")
    refused("", export_nnunet, TrainedNNUNet.open(model.path), "smallest")


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("existed", [True, False])
def test_a_full_disk_leaves_nothing_behind(existed: bool, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second fold, so that one has been written; beside the model, where nnU-Net would look."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW), folds=(0, 1))
    if existed:
        export_nnunet(TrainedNNUNet.of(model), "largest")
    before = tree(bare)
    save, calls = torch.save, []

    def full(data: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            target.write(b"half")
            raise FULL_DISK
        save(data, target)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ProXError, match=r"cannot write .*; nothing was left behind"):
        export_nnunet(TrainedNNUNet.of(model), "largest", overwrite=True, fine_tune=True)
    assert len(calls) == 2
    assert tree(bare) == before


def test_a_full_disk_leaves_no_new_folders_behind(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    before = tree(bare)

    def full(*_: Any) -> None:
        raise FULL_DISK

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ProXError, match="nothing was left behind"):
        export_nnunet(TrainedNNUNet.of(model), "largest", bare / "new" / "folders" / "exported")
    assert tree(bare) == before


def test_an_output_below_a_file_is_refused(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    (bare / "file").write_text("mine")
    with pytest.raises(ProXError, match=r"cannot write .*file/exported"):
        export_nnunet(TrainedNNUNet.of(model), "largest", bare / "file" / "exported")
    assert (bare / "file").read_text() == "mine"


# ---------------------------------------------------------------------- fine-tuning
def test_fine_tuning_puts_the_plan_beside_the_preprocessed_data(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    preprocessed = bare / "nnUNet_preprocessed" / "Dataset990_Phantom"
    export_nnunet(TrainedNNUNet.of(model), "largest")
    assert not list(preprocessed.glob("*.json"))  # only where it was asked for
    folder = export_nnunet(TrainedNNUNet.of(model), "smallest", fine_tune=True)
    plans = json.loads((preprocessed / f"{CUT}-prox-smallest.json").read_text())
    assert plans == json.loads((folder / "plans.json").read_text())


def test_a_plan_beside_the_data_that_was_edited_is_not_replaced(bare: Path) -> None:
    """Nor another member's, but by the export that wrote it, with --overwrite."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    taken = bare / "mine.json"

    def export(which: str, **options: Any) -> Path:
        write_json({"subnet": model.member(which)[1].to_json()}, taken)
        return export_nnunet(TrainedNNUNet.of(model), str(taken), fine_tune=True, **options)

    folder = export("smallest")
    plan = bare / "nnUNet_preprocessed" / "Dataset990_Phantom" / f"{CUT}-prox-mine.json"
    written = json.loads(plan.read_text())
    assert export("largest", overwrite=True) == folder
    replaced = json.loads(plan.read_text())
    assert replaced == json.loads((folder / "plans.json").read_text()) != written
    refused("is another member's plan or has changed since", export, "smallest", output=bare / "elsewhere")
    (name,) = replaced["configurations"]
    own = {"mine": {"inherits_from": name}}
    write_json(replaced | {"configurations": replaced["configurations"] | own}, plan)
    export("largest", overwrite=True)
    assert json.loads(plan.read_text())["configurations"]["mine"] == own["mine"], "what is no export's stays"
    for edited in (
        replaced | {"configurations": {name: replaced["configurations"][name] | {"batch_size": 7}}},
        replaced | {"note": "mine"},
    ):
        write_json(edited, plan)
        before = tree(bare)
        for options in ({"overwrite": True}, {"output": bare / "elsewhere"}):
            refused(f"{plan} is not replaced", export, "largest", **options)
        assert tree(bare) == before


@pytest.mark.parametrize("unset", [True, False])
def test_fine_tuning_needs_the_preprocessed_data(unset: bool, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    before = tree(bare)
    if unset:
        monkeypatch.delenv("nnUNet_preprocessed")
        message = "nnUNet_preprocessed is not set"
    else:
        monkeypatch.setenv("nnUNet_preprocessed", str(bare / "elsewhere"))
        message = "elsewhere/Dataset990_Phantom does not exist; preprocess"
    with pytest.raises(ProXError, match=message):
        export_nnunet(TrainedNNUNet.of(model), "largest", fine_tune=True)
    assert tree(bare) == before


def test_a_plan_that_cannot_be_written_leaves_no_model_either(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    before = tree(bare)
    write_json = export_module.write_json

    def full(data: Any, path: Path) -> None:
        if "nnUNet_preprocessed" in str(path):
            raise FULL_DISK
        write_json(data, path)

    monkeypatch.setattr(export_module, "write_json", full)
    with pytest.raises(ProXError, match="nothing was left behind"):
        export_nnunet(TrainedNNUNet.of(model), "largest", fine_tune=True)
    assert tree(bare) == before


# ---------------------------------------------------------------------- what is no model folder
def truncate(model: ModelFolder) -> None:
    file = model.path / "fold_0" / FINAL
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def leave_other_weights(model: ModelFolder) -> None:
    file = model.path / "fold_0" / FINAL
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["prox"]
    checkpoint["network_weights"]["encoder.stages.0.0.convs.0.norm.running_mean"] = torch.zeros(4)
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainerBN"}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"checkpoint_final\.pth is not a whole checkpoint"),
        (leave_other_weights, "by nnUNetTrainerBN, does not hold the weights of this network: .*running_mean is"),
        (lambda model: (model.path / "fold_0" / FINAL).unlink(), r"no fold of .* has a checkpoint_final\.pth"),
        (lambda model: (model.path / "fold_0" / "family.json").write_text("{}"), "is not a family: it has no list of members"),
        (lambda model: (model.path / "plans.json").unlink(), r"is not a trained model folder: it has no plans\.json"),
        (lambda model: (model.path / "plans.json").write_text("{"), r"plans\.json is not valid JSON"),
        (lambda model: (model.path / "dataset.json").unlink(), r"there is no file .*dataset\.json"),
    ],
    ids=["truncated", "another network", "unfinished", "empty family", "no plans", "broken plans", "no dataset"],
)
def test_a_damaged_model_folder_is_named(damage: Callable[[ModelFolder], Any], message: str, bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    damage(model)
    before = tree(bare)
    with pytest.raises(ProXError, match=message):
        export_nnunet(TrainedNNUNet.open(model.path), "largest")
    assert tree(bare) == before


def test_a_renamed_model_folder_is_of_the_configuration_of_its_checkpoint(bare: Path) -> None:
    """As nnU-Net has it."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    renamed = ModelFolder.open(model.path.rename(model.path.with_name("renamed")))
    assert renamed.configuration_name == FULLRES and len(renamed.family().members) == 2
    file = renamed.path / "fold_0" / FINAL
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["init_args"]["configuration"] = "2d"
    torch.save(checkpoint, file)
    with pytest.raises(ProXError, match=f"the configuration '2d' is not one of its plans.json, {FULLRES}"):
        ModelFolder.open(renamed.path)


def test_the_trained_model_is_not_changed_by_an_export(bare: Path) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    before = tree(model.path)
    network = stock(export_nnunet(TrainedNNUNet.of(model), "smallest")).network
    assert isinstance(network, nn.Module)
    assert tree(model.path) == before


# ---------------------------------------------------------------------- in MONAI's hands
def test_monai_converts_an_exported_member_into_a_bundle(bare: Path) -> None:
    """Its converter reads two checkpoints of a fold, which are the same here, as plain data."""
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    folder = export_nnunet(TrainedNNUNet.of(model), "smallest")
    (bare / "bundle" / "models").mkdir(parents=True)
    named = {"dataset_name_or_id": "990", "nnunet_trainer": "nnUNetTrainer", "nnunet_plans": f"{CUT}-prox-smallest"}
    convert_nnunet_to_monai_bundle(named, str(bare / "bundle"), fold=0)
    models = bare / "bundle" / "models"
    exported = torch.load(folder / "fold_0" / FINAL, weights_only=True)
    for name in ("model.pt", "best_model.pt"):
        assert equal(torch.load(models / "fold_0" / name, weights_only=True)["network_weights"], exported["network_weights"])
    for name in ("plans.json", "dataset.json"):
        assert (models / name).read_bytes() == (folder / name).read_bytes()
    settings = torch.load(models / "nnunet_checkpoint.pth", weights_only=True)
    assert settings["trainer_name"] == "nnUNetTrainer" and settings["init_args"]["configuration"] == FULLRES
    network = get_network_from_nnunet_plans(str(models / "plans.json"), str(models / "dataset.json"), FULLRES)
    network.load_state_dict(exported["network_weights"])


class PredictorOnCPU(nnUNetPredictor):
    """nnU-Net's, whose default is a GPU, and in this process alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"device": CPU})

    def predict_from_files(
        self, list_of_lists_or_source_folder: Any, output_folder_or_list_of_truncated_output_files: Any, **_: Any
    ) -> Any:
        return self.predict_from_files_sequential(
            list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files
        )


def test_monais_runner_predicts_with_an_exported_member(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(bare_plans(prox=FEW, **SHALLOW))
    predictor = stock_predictor(model)
    folder = model.path.parent / f"nnUNetTrainer__{CUT}-prox-largest__{FULLRES}"
    image = tmp_path / "images" / "case_0000.nii.gz"
    for folder_of_files in (image.parent, tmp_path / "masks"):
        folder_of_files.mkdir()
    voxels = np.random.default_rng(0).normal(0, 1, (20, 26, 18)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), image)
    (expected,) = predictor.predict_from_files_sequential([[str(image)]], None)
    monkeypatch.setattr(predict_from_raw_data, "nnUNetPredictor", PredictorOnCPU)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which the runner sets, as it does nnU-Net's variables
    places = {f"nnunet_{part}": str(bare / f"nnUNet_{part}") for part in ("raw", "preprocessed", "results")}
    runner = nnUNetV2Runner({"dataset_name_or_id": 990, **places}, work_dir=str(tmp_path))
    runner.predict(str(image.parent), str(tmp_path / "masks"), str(folder), use_folds=(0,), use_mirroring=False)
    found = np.asarray(nib.load(tmp_path / "masks" / "case.nii.gz").dataobj)
    assert np.array_equal(found, np.asarray(expected).T) and len(np.unique(found)) > 1
