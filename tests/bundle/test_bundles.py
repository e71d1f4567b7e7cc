"""Every bundle: the model zoo's rules, and MONAI's own commands from training to exports, on small tasks."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.bundle_checks import (
    REQUIRED,
    check_before_training,
    check_metadata,
    check_network,
    check_properties,
    check_zoo_rules,
    config,
    targets,
    train_in_two_processes,
)
from helpers.bundle_commands import (
    BUNDLES,
    ROOT,
    TINY,
    Trained,
    arguments,
    cases_of,
    copy_bundles,
    monai,
    trained_once,
    write_task,
)
from helpers.bundle_hosts import deployed, label_trains, labelled, predict, scripts_from
from helpers.commands import call
from helpers.equality import equal
from helpers.in_process import output_of, prox
from helpers.made_once import made_once
from helpers.orientations import assert_same, stored, write_stored
from helpers.programs import Programs
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose

from monai_prox.bundle.handlers import MemberValidationHandler
from monai_prox.bundle.shipped import init_bundle
from monai_prox.core.network import largest, prediction_graph
from monai_prox.core.slicing import cut
from monai_prox.core.supernet import SuperNet
from monai_prox.data.decathlon import DecathlonTask
from monai_prox.data.decathlon_plan import Plan
from monai_prox.errors import ProXError
from monai_prox.export.bundle import write_bundle
from monai_prox.export.from_bundle import prediction_of
from monai_prox.report import count
from monai_prox.search.torch_runner import runnable
from monai_prox.trained.bundle_folder import TrainedBundle
from monai_prox.trained.bundle_source import TrainedSegmenter
from monai_prox.trained.door import open_trained

pytest_plugins = ["helpers.program_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


# ---------------------------------------------------------------------- the zoo's rules, on files
@pytest.mark.parametrize("name", BUNDLES)
def test_the_bundles_keep_the_zoos_rules(name: str) -> None:
    bundle = ROOT / "bundles" / name
    check_zoo_rules(bundle, REQUIRED)
    family, metadata = config(bundle, "family"), config(bundle, "metadata")
    plan = Plan.from_json(family["plan"])
    (image,), (pred,) = (metadata["network_data_format"][side].values() for side in ("inputs", "outputs"))
    assert tuple(image["spatial_shape"]) == tuple(pred["spatial_shape"]) == plan.patch_size
    assert tuple(image["channel_def"].values()) == plan.channels
    assert tuple(pred["channel_def"].values()) == plan.labels


def test_the_bundles_are_written_from_one_source() -> None:
    generate = runpy.run_path(str(ROOT / "bundles" / "generate.py"))
    files = dict(generate["generated"]())
    described = {"family.json", "metadata.json"}
    assert set(files) == {path for path in ROOT.glob("bundles/*/configs/*") if path.name not in described}
    for path, text in files.items():
        assert path.read_text() == text, f"{path}: change bundles/sources, and run python bundles/generate.py"


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_names_nothing_but_installed_components(name: str) -> None:
    """Dotted targets into this package, MONAI, torch or ignite; short names are MONAI's."""
    found = targets(ROOT / "bundles" / name)
    assert {target.partition(".")[0] for target in found if "." in target} <= {"monai_prox", "monai", "torch", "ignite"}


def test_the_bundles_differ_only_where_their_tasks_do() -> None:
    """They are files of their own, because the zoo asks for it; what one learns, all learn."""
    own = {"bundle_root", "task", "dataset_dir", "regions", "epochs", "val_interval"}
    own |= {"batch_size", "samples_per_image", "flips"}
    for file in ("train", "evaluate", "inference", "multi_gpu_train"):
        shared = [{k: v for k, v in config(ROOT / "bundles" / name, file).items() if k not in own} for name in BUNDLES]
        assert all(one == shared[0] for one in shared), file


# ---------------------------------------------------------------------- MONAI's commands
@pytest.fixture(scope="module", params=BUNDLES)
def trained(request: pytest.FixtureRequest) -> Trained:
    return trained_once(request.param, request.param, new=request.param == "hippocampus_prox")


# One channel and equal axes are in a campaign: several channels are BraTS's, thick slices the CT's
of_two = pytest.mark.parametrize(
    "trained", ["brats_prox", "msd_prox", pytest.param("hippocampus_prox", marks=pytest.mark.slow)], indirect=True
)


def the_first_of(*names: str) -> pytest.MarkDecorator:
    """A test of the bundle that is named first; in a campaign, of the others, too."""
    first, *others = names
    return pytest.mark.parametrize(
        "trained", [first, *(pytest.param(name, marks=pytest.mark.slow) for name in others)], indirect=True
    )


def test_training_leaves_a_family(trained: Trained) -> None:
    names = {path.name for path in (trained.bundle / "models").iterdir()}
    assert names == {"model.pt", "family.json", "checkpoint_epoch=5.pt"}
    assert (trained.bundle / "eval" / "prox_progress.png").is_file()
    assert list((trained.bundle / "eval").glob("events.out.tfevents.*"))
    family = TrainedBundle.open(trained.bundle).family()
    assert [member.name for member in family.members] == ["smallest", "small", "middle", "large", "largest"]
    assert all(member.scores and member.scores["mean"] is not None for member in family.members)
    assert [entry["epoch"] for entry in family.progress] == [0, 1, 2, 3, 4]
    if trained.bundle.name == "brats_prox":
        assert list(family.members[0].scores or ()) == ["mean", "whole tumour", "tumour core", "enhancing tumour"]
        assert (family.plan or {})["channels"] == ["FLAIR", "t1gd"]
    if trained.bundle.name == "msd_prox":
        assert (family.plan or {})["intensity"]["kind"] == "ct"
        assert (family.plan or {})["architecture"]["arch_kwargs"]["kernel_sizes"][0] == [3, 3, 1]


def test_a_training_says_first_what_was_planned(trained: Trained) -> None:
    """With the memory that MONAI's caches then have."""
    said = (trained.root / "said").read_text()
    parser = ConfigParser()
    parser.read_config(str(trained.bundle / "configs" / "train.json"))
    parser.update({**TINY, "dataset_dir": str(trained.task), "bundle_root": str(trained.bundle)})
    plan, prox = (parser.get_parsed_content(name) for name in ("plan", "prox"))
    items = [item for part in ("train", "validate") for item in parser.get_parsed_content(f"{part}#dataset")._cache]
    kept = count(sum(item[key].as_tensor().nbytes for item in items for key in ("image", "label")))
    patch, features = " x ".join(map(str, plan.patch_size)), plan.architecture["arch_kwargs"]["features_per_stage"]
    largest = TrainedBundle.open(trained.bundle).family().members[-1]
    lines = (
        f"Plan: patches of {patch} voxels of {' x '.join(f'{mm:g}' for mm in plan.spacing)} mm, of images turned to RAS; "
        f"2 cases to train on, 1 to validate on, kept in up to {kept}B of memory\n",
        f"Network: {len(features)} stages of {', '.join(map(str, features))} features; the largest of "
        f"{prox.supernet.family.space.size():,} members has {count(largest.parameters)} weights and takes "
        f"{count(largest.macs)}MAC for {patch}\n",
        "Length: 5 epochs of 1 iterations, 5 in all; an iteration takes 2 images\n",
    )
    plan_at, network_at, length_at = (said.find(line) for line in lines)
    found = [line for line in said.splitlines() if any(word in line for word in ("Plan: ", "Network: ", "Length: "))]
    assert 0 <= plan_at < network_at < length_at < said.index("ProX stage"), (lines, found)
    assert len(found) == 3


def assert_evaluates(trained: Trained, name: str, output: Path) -> None:
    """MONAI's command from inside the bundle repeats the training's validation of a member."""
    files = str(["configs/train.json", "configs/evaluate.json"])
    options = {"dataset_dir": trained.task, "subnet": name, "num_workers": 0, "output_dir": output}
    monai(["run", "--config_file", files, *arguments(options)], cwd=trained.bundle)
    written = (output / name / "metrics.csv").read_text().splitlines()
    metrics = {metric: float(value) for metric, value in (line.split(",") for line in written)}
    dice = metrics["val_mean_dice"]
    member = next(m for m in TrainedBundle.open(trained.bundle).family().members if m.name == name)
    assert dice == pytest.approx((member.scores or {})["mean"], abs=1e-5)
    assert 0 < metrics["val_surface_dice"] <= 1


@of_two
def test_evaluation_repeats_the_trainings_validation(trained: Trained, tmp_path: Path) -> None:
    assert_evaluates(trained, "middle", tmp_path)


@of_two
def test_inference_and_exported_members_predict_alike(trained: Trained, tmp_path: Path) -> None:
    """A member within the family, at full resolution but not the largest, and as a bundle of its own."""
    images = trained.task / "imagesTr"
    prediction = prediction_of(TrainedSegmenter(TrainedBundle.open(trained.bundle)), "large")
    plan = TrainedBundle.open(trained.bundle).plan
    assert (prediction.patch_size, prediction.spacing) == (plan.patch_size, plan.spacing)
    within = predict(trained.bundle, trained.task, tmp_path / "within", subnet="large")
    alone = predict(write_bundle(prediction, tmp_path / "large"), images, tmp_path / "alone")
    assert len(within) == len(alone) == 3
    for file, label in alone.items():
        original = nib.load(images / file)
        assert label.shape == original.shape[:3] and label.dtype == np.uint8
        assert np.array_equal(label, within[file.replace(".nii.gz", "_seg.nii.gz")])


@the_first_of("brats_prox", "hippocampus_prox", "msd_prox")
def test_an_image_of_zeros_is_predicted_by_the_family_as_by_an_exported_member(trained: Trained, tmp_path: Path) -> None:
    """The other images of a run are predicted, too. The member is the largest."""
    image = nib.load(trained.task / "imagesTr" / "case_0.nii.gz")
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine), tmp_path / "images" / "zero.nii.gz")
    shutil.copy(trained.task / "imagesTr" / "case_0.nii.gz", tmp_path / "images")
    bundle = write_bundle(prediction_of(TrainedSegmenter(TrainedBundle.open(trained.bundle)), "largest"), tmp_path / "bundle")
    with pytest.warns(UserWarning, match=r"zero\.nii\.gz is 0 everywhere; nothing can be seen in it"):
        within = predict(trained.bundle, tmp_path / "images", tmp_path / "within", subnet="largest")
    alone = predict(bundle, tmp_path / "images", tmp_path / "alone")
    assert len(within) == len(alone) == 2
    assert alone["zero.nii.gz"].shape == image.shape[:3]
    assert all(np.array_equal(label, within[file.replace(".nii.gz", "_seg.nii.gz")]) for file, label in alone.items())


def decisive(bundle: Path, copy: Path) -> Path:
    """A copy whose last layers are random: a hardly trained network's classes would tie in the runtime's half precision."""
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("eval"))
    weights = torch.load(copy / "models" / "model.pt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for key in filter(lambda key: "seg_layers" in key, weights):
        weights[key] = torch.randn(weights[key].shape, generator=generator)
    torch.save(weights, copy / "models" / "model.pt")
    return copy


# By bundle. Of several channels ONNX has regions as outputs, see test_region_outputs.py
FORMATS = {"brats_prox": ("torchscript", "member.ts")}


@dataclass(frozen=True)
class Exported:
    source: Path  # a decisive copy of the training bundle
    bundle: Path  # a member of it
    file: Path  # the same for a device


# Members by bundle: in every run, and in a campaign. Of thick slices the smallest is resampled most
EXPORTED = {
    "brats_prox": ("largest", "smallest"),
    "hippocampus_prox": ("largest", "smallest"),
    "msd_prox": ("smallest", "largest"),
}


@pytest.fixture(scope="module", params=[0, pytest.param(1, marks=pytest.mark.slow)], ids=["member", "other member"])
def exported(request: pytest.FixtureRequest, trained: Trained) -> Exported:
    name = EXPORTED[trained.bundle.name][request.param]
    format, file = FORMATS.get(trained.bundle.name, ("onnx", "member.onnx"))

    def fill(root: Path) -> None:
        source = decisive(trained.bundle, root / "source")
        write_bundle(prediction_of(TrainedSegmenter(TrainedBundle.open(source)), name), root / "bundle")
        output_of("export", source, "--subnet", name, "--format", format, "--output", root / file)

    root = made_once(f"{trained.bundle.name}, exported {name}", fill)
    return Exported(root / "source", root / "bundle", root / file)


@of_two
def test_a_file_for_a_device_predicts_as_the_exported_bundle(trained: Trained, exported: Exported, tmp_path: Path) -> None:
    """With several channels, thick slices, CT; at the training's resolution and below it."""
    images = trained.task / "imagesTr"
    wanted = predict(exported.bundle, images, tmp_path / "wanted")
    output_of("predict", exported.file, "-i", images, "-o", tmp_path / "found", "--threads", "1")
    for path in sorted((tmp_path / "found").glob("*.nii.gz")):
        found = nib.load(path)
        label = wanted[path.name.replace(".nii.gz", "_seg.nii.gz")] if path.name not in wanted else wanted[path.name]
        assert np.mean(np.asarray(found.dataobj) == label.reshape(found.shape)) >= 0.999, path.name
        assert len(np.unique(label)) > 1
    assert len(list((tmp_path / "found").glob("*.nii.gz"))) == len(wanted) == 3


@of_two
def test_masks_do_not_depend_on_how_an_image_is_stored(trained: Trained, exported: Exported, tmp_path: Path) -> None:
    """Of the training bundle, which predicts at full resolution, an exported one, and a file for a device."""
    image = nib.load(trained.task / "imagesTr" / "case_0.nii.gz")
    images = write_stored(image, tmp_path / "images")
    predict(exported.bundle, images, tmp_path / "alone")
    assert_same(tmp_path / "alone", images)
    predict(exported.source, images, tmp_path / "within", subnet="largest")
    assert_same(tmp_path / "within", images, "_seg.nii.gz")
    output_of("predict", exported.file, "-i", images, "-o", tmp_path / "device", "--threads", "1")
    assert_same(tmp_path / "device", images)


def test_training_evaluation_and_search_do_not_depend_on_how_a_task_is_stored(tmp_path: Path) -> None:
    """The same plan, images before the network and Dice. Slices are thick, so that no axis passes for another."""
    trained = trained_once("msd_prox", "msd_prox")
    again = Trained(tmp_path, trained.bundle, tmp_path / trained.task.name)
    shutil.copytree(trained.task, again.task)
    for path in again.task.glob("*/*.nii.gz"):
        nib.save(stored(nib.load(path), "SLA" if path.name == "case_0.nii.gz" else "PIR"), path)
    seen = []
    for where in (trained, again):
        parser = ConfigParser()
        parser.read_config(str(where.bundle / "configs" / "train.json"))
        parser.update({**TINY, "dataset_dir": str(where.task), "bundle_root": str(where.bundle)})
        transforms = Compose(parser.get_parsed_content("train#deterministic_transforms"))
        case = parser.get_parsed_content("train#cases")[0]
        data = transforms({"image": str(case.image), "label": str(case.label)})
        seen.append((parser.get_parsed_content("plan"), data["image"].as_tensor(), data["label"].as_tensor()))
    assert seen[0][0].orientation == "RAS" and seen[0][0] == seen[1][0]
    for one, other in zip(*(parts[1:] for parts in seen), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert_evaluates(again, "large", tmp_path / "evaluated")
    scores = []
    for where in (trained, again):
        source = open_trained(where.bundle, dataset=where.task)
        name, subnet = source.member("largest")
        scores.append(source.held_out().scores([0], source.describe(subnet, name=name), runnable(source.network(subnet))))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@of_two
def test_a_search_measures_what_the_training_did(trained: Trained) -> None:
    """On whole cases, by regions where there are some; the training's own validation stays at its resolution."""
    source = open_trained(trained.bundle, dataset=trained.task)
    name, subnet = source.member("largest")
    run, held_out = runnable(source.network(subnet)), source.held_out()
    score = np.mean(held_out.scores(range(len(held_out.names)), source.describe(subnet, name=name), run))
    member = TrainedBundle.open(trained.bundle).family().members[-1]
    assert score == pytest.approx((member.scores or {})["mean"], abs=0.02)


@of_two
def test_a_member_of_lower_resolution_sees_what_it_saw_within_the_family(trained: Trained, tmp_path: Path) -> None:
    """As a bundle of its own it resamples whole images, and places the voxels where the family's resizing does."""
    family = TrainedBundle.open(trained.bundle)
    prediction = prediction_of(TrainedSegmenter(family), "smallest")
    assert prediction.patch_size != family.plan.patch_size
    image = np.random.default_rng(0).uniform(1, 2, (*family.plan.patch_size, len(family.plan.channels))).astype(np.float32)
    image = image[..., 0] if image.shape[-1] == 1 else image
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(image, np.diag([*family.plan.spacing, 1.0])), tmp_path / "images" / "case.nii.gz")
    bundle = write_bundle(prediction, tmp_path / "smallest")
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(tmp_path / "images")})
    (seen,) = parser.get_parsed_content("dataset")
    *_, normalise, _ = parser.get_parsed_content("preprocessing").transforms
    whole = torch.as_tensor(image.reshape(*family.plan.patch_size, -1)).permute(3, 0, 1, 2)
    small = torch.nn.functional.interpolate(whole[None], prediction.patch_size, mode="trilinear")[0]
    torch.testing.assert_close(seen["image"].as_tensor(), normalise({"image": small})["image"], atol=1e-3, rtol=0)


@of_two
def test_monai_deploy_and_label_predict_with_an_exported_member(trained: Trained, exported: Exported, tmp_path: Path) -> None:
    """What its own configuration predicts; the smallest is resampled by what the bundle's scripts have."""
    bundle = exported.bundle
    (tmp_path / "images").mkdir()
    image = next(file for file in sorted((trained.task / "imagesTr").iterdir()) if not file.name.startswith("."))
    (tmp_path / "images" / image.name).symlink_to(image.resolve())
    (own,) = predict(bundle, tmp_path / "images", tmp_path / "masks").values()
    with scripts_from(bundle):
        by_deploy = [deployed(bundle, image, folder=folder) for folder in (False, True)]
    for found in (*by_deploy, labelled(bundle, image)):
        assert found.shape == own.shape and np.mean(found == own) >= 0.9999


@the_first_of("brats_prox", "hippocampus_prox", "msd_prox")
def test_monai_label_predicts_with_the_largest_member_of_a_family(trained: Trained, tmp_path: Path) -> None:
    """It knows of no folder of images."""
    masks = predict(trained.bundle, trained.task, tmp_path, subnet="largest")
    found = labelled(trained.bundle, trained.task / "imagesTr" / "case_0.nii.gz")
    assert np.array_equal(found, masks["case_0_seg.nii.gz"])


@the_first_of("brats_prox", "hippocampus_prox", "msd_prox")
def test_our_commands_take_a_bundle(trained: Trained, tmp_path: Path) -> None:
    listed = output_of("family", trained.bundle, "--json")
    assert json.loads(listed) == TrainedBundle.open(trained.bundle).family().to_json()["members"]
    output = tmp_path / "smallest"
    assert output_of("export", trained.bundle, "--subnet", "smallest", "--output", output).splitlines()[0] == str(output)
    assert config(output, "metadata")["prox_member"]["name"] == "smallest"
    untrained = tmp_path / "untrained"
    init_bundle(trained.bundle.name, untrained)
    for command in (["family"], ["export", "--subnet", "smallest", "--output", tmp_path / "none"]):
        assert "is not trained" in prox(*command, untrained).error


def as_trained(bundle: Path) -> dict[str, Any]:
    """What the metadata of a training bundle would be for the task that it was trained on, here another than its own."""
    plan, form = TrainedBundle.open(bundle).plan, "_meta_#network_data_format#"
    channels = {f"{form}inputs#image#num_channels": len(plan.channels), f"{form}outputs#pred#num_channels": len(plan.labels)}
    return channels | {f"{form}inputs#image#spatial_shape": list(plan.patch_size)}


@the_first_of("brats_prox", "hippocampus_prox", "msd_prox")
def test_monais_checks_pass(trained: Trained, tmp_path: Path) -> None:
    plan = TrainedBundle.open(trained.bundle).plan
    check_network(trained.bundle, tmp_path, (len(plan.channels), *plan.patch_size), **as_trained(trained.bundle))


@the_first_of("msd_prox", "brats_prox", "hippocampus_prox")
def test_monais_checks_pass_for_an_exported_member(trained: Trained, tmp_path: Path) -> None:
    prediction = prediction_of(TrainedSegmenter(TrainedBundle.open(trained.bundle)), "smallest")
    bundle = write_bundle(prediction, tmp_path / "smallest")
    check_zoo_rules(bundle, [name for name in REQUIRED if "family" not in name])
    check_network(bundle, tmp_path, (len(prediction.channels), *prediction.patch_size))


@the_first_of("brats_prox", "hippocampus_prox", "msd_prox")
@pytest.mark.parametrize(
    ("kind", "names"), [("train", ["train"]), ("infer", ["train", "evaluate"]), ("infer", ["inference"])], ids=str
)
def test_the_bundles_have_the_properties_that_workflows_ask_for(
    trained: Trained, kind: str, names: list[str], tmp_path: Path
) -> None:
    places = {"output_dir": str(tmp_path), "dataset_dir": str(trained.task)}
    check_properties(trained.bundle, names, kind, **places, num_workers=0)


@the_first_of("brats_prox", "hippocampus_prox", "msd_prox")
def test_an_exported_member_has_the_properties_of_an_inference_bundle(trained: Trained, tmp_path: Path) -> None:
    bundle = write_bundle(
        prediction_of(TrainedSegmenter(TrainedBundle.open(trained.bundle)), "smallest"), tmp_path / "smallest"
    )
    metadata = config(bundle, "metadata")
    assert metadata["eval_metrics"] == {
        f"dice {label}": value for label, value in (TrainedBundle.open(trained.bundle).family().members[0].scores or {}).items()
    }
    check_properties(bundle, ["inference"], "infer", dataset_dir=str(trained.task / "imagesTr"))


@pytest.mark.parametrize("name", ["brats_prox", *(pytest.param(name, marks=pytest.mark.slow) for name in BUNDLES[1:])])
def test_a_network_can_be_checked_before_any_training(name: str) -> None:
    small = {"_meta_#network_data_format#inputs#image#spatial_shape": [64, 64, 32]}  # the whole patch takes seconds
    check_before_training(ROOT / "bundles" / name, **small)


@the_first_of("brats_prox", "hippocampus_prox", "msd_prox")
def test_metadata_obey_the_schema(trained: Trained, tmp_path: Path) -> None:
    member = write_bundle(
        prediction_of(TrainedSegmenter(TrainedBundle.open(trained.bundle)), "smallest"), tmp_path / "smallest"
    )
    for bundle in (trained.bundle, member):
        check_metadata(bundle, tmp_path)


# ---------------------------------------------------------------------- going on, side by side, and what is refused
@pytest.fixture
def hippocampus(tmp_path: Path) -> Trained:
    """Nothing trained yet."""
    return Trained(tmp_path, copy_bundles(tmp_path) / "hippocampus_prox", write_task(tmp_path, "hippocampus_prox", cases=5))


def train(
    where: Trained, output: Path, check: bool = True, extra: tuple[str, ...] = (), new: bool = False, **overrides: Any
) -> str:
    places = {"dataset_dir": where.task, "ckpt_dir": output / "models", "output_dir": output / "eval"}
    command = ["run", "--config_file", "bundles/hippocampus_prox/configs/train.json"]
    done = monai([*command, *arguments(TINY | places | overrides), *extra], cwd=where.root, check=check, new=new)
    assert check or done.returncode != 0
    return done.stdout + done.stderr


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(hippocampus: Trained, tmp_path: Path) -> None:
    """From the last epoch of a stage and from within one; with the optimizer and the learning rate."""
    length = {"epochs": 8, "iterations": 3}  # of four images, in batches of two
    train(hippocampus, tmp_path / "whole", extra=("--train#saver#n_saved", "9"), **length)
    for epoch in (1, 6):
        checkpoint = tmp_path / "whole" / "models" / f"checkpoint_epoch={epoch}.pt"
        train(hippocampus, tmp_path / f"from {epoch}", ckpt=checkpoint, new=epoch == 1, **length)  # texts hash to other numbers
        for file in ("model.pt", "checkpoint_epoch=8.pt"):
            whole = torch.load(tmp_path / "whole" / "models" / file, weights_only=True)
            resumed = torch.load(tmp_path / f"from {epoch}" / "models" / file, weights_only=True)
            assert equal(whole, resumed), (epoch, file)


@pytest.mark.slow
def test_two_processes_train_one_supernet(hippocampus: Trained, tmp_path: Path, programs: Programs) -> None:
    """There are fewer cases to validate on than processes; and it is logged once, by MLflow, too."""
    few = {"validation_cases": 1, "batch_size": 1, "tracking": "mlflow"}
    said = train_in_two_processes(
        hippocampus.root, "hippocampus_prox", tmp_path, programs, **TINY | few | {"dataset_dir": hippocampus.task}
    )
    assert len(list((tmp_path / "eval").glob("events.out.tfevents.*"))) == 1
    assert said.count("Epoch[5] Metrics") == said.count("Plan: patches of ") == 1
    assert "of memory in each process" in said
    assert "Length: 5 epochs of 1 iterations, 5 in all; an iteration takes 1 images in each of 2 processes" in said
    assert "val_mean_dice_largest" in said
    assert (tmp_path / "eval" / "mlruns.db").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dataset_dir": "nowhere/Task04_Hippocampus"}, "there is no folder nowhere/Task04_Hippocampus; give the folder"),
        (
            {"space": {"depth": "full", "width": [1.0], "levels": 0, "resolution": [1.0]}},
            "has one member only, so there is nothing to expand",
        ),
        (
            {"regions": {"all": ["Middle"]}},
            "regions name ['Middle']; the labels of Task990_Hippocampus are Anterior, Posterior",
        ),
        ({"recipe": "prix"}, "the recipe 'prix' is not known; known: prox, prox_paper"),
        ({"epochs": 0}, "the number of epochs is 0; it must be a whole number, at least 1"),
        pytest.param(
            *({"iterations": 0}, "the number of iterations of an epoch is 0; it must be a whole number, at least 1"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no data", "closed space", "region", "recipe", "epochs", "iterations"],
)
def test_what_cannot_work_is_said_before_training(
    hippocampus: Trained, tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    said = train(hippocampus, tmp_path, check=False, **overrides)
    assert said.splitlines()[-1].startswith("error: ") and message in said.splitlines()[-1]
    assert "Epoch" not in said and not (tmp_path / "models").exists()


def test_every_bundle_checks_that_its_processes_have_cases_to_share() -> None:
    """Before anything that needs a sampler, of which MONAI's fails; in words that torchrun repeats."""
    for file in sorted(ROOT.glob("bundles/*/configs/multi_gpu_train.json")):
        steps = json.loads(file.read_text())["initialize"]
        checks = [json.dumps(step) for step in steps]
        check = next(index for index, step in enumerate(checks) if '"monai_prox.check_shared"' in step)
        assert check < min(
            index for index, step in enumerate(checks) if "@train#trainer" in step or "@validate#evaluator" in step
        )


def test_another_plan_for_what_is_trained_is_refused(hippocampus: Trained) -> None:
    files = str([f"bundles/hippocampus_prox/configs/{name}.json" for name in ("train", "evaluate")])
    command = ["run", "--config_file", files, *arguments({"dataset_dir": hippocampus.task, "plan#features": 16})]
    done = monai(command, cwd=hippocampus.root, check=False)
    said = done.stderr.splitlines()[-1]
    assert done.returncode and said.startswith("error: plan#features is 16; the family was trained with ")


def test_lists_of_files_are_all_the_data_that_a_training_needs(hippocampus: Trained, tmp_path: Path) -> None:
    """Files of other folders, without a dataset.json; words for switches; and metadata that fits them."""
    cases = []
    for number in range(2):
        parts = {part[:5]: tmp_path / f"{part} {number}.nii.gz" for part in ("imagesTr", "labelsTr")}
        for part, path in parts.items():
            shutil.copyfile(hippocampus.task / f"{part}sTr" / f"case_{number}.nii.gz", path)
        cases.append({key: str(path) for key, path in parts.items()})
    bundle = copy_bundles(tmp_path / "checkout") / "hippocampus_prox"
    given = {"train#dataset#data": cases[:1], "validate#dataset#data": cases[1:], "dataset_dir": "nowhere", "amp": "false"}
    command = ["run", "--config_file", "configs/train.json", *arguments(TINY | given | {"epochs": 1})]
    monai(command, cwd=bundle)
    family = json.loads((bundle / "models" / "family.json").read_text())
    assert family["plan"]["channels"] == ["channel 0"] and family["plan"]["labels"] == ["background", "label 1", "label 2"]
    assert family["validation_cases"] == ["imagesTr 1.nii.gz"]
    metadata = config(bundle, "metadata")
    assert metadata["eval_metrics"] == {
        f"dice {member['name']}": round(member["dice"]["mean"], 4) for member in family["members"] if "dice" in member
    }
    data_format = metadata["network_data_format"]
    assert data_format["inputs"]["image"]["spatial_shape"] == family["plan"]["patch_size"]
    assert data_format["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "label 1", "2": "label 2"}
    check_before_training(bundle)  # that network_def fits the metadata
    files = "['configs/train.json','configs/evaluate.json']"
    spacing = {"plan#spacing": [1.0, 1.0, 1.0], "plan#features": 4, "validate#dataset#data": cases[1:]}
    said = monai(
        ["run", "--config_file", files, *arguments({"num_workers": 0, "loader#_disabled_": True} | spacing)], cwd=bundle
    )
    assert (bundle / "eval" / "largest" / "metrics.csv").is_file()
    assert "Restored all variables" not in said.stdout + said.stderr
    images = [tmp_path / folder / "image.nii.gz" for folder in ("1", "2")]
    for image in images:
        image.parent.mkdir()
        shutil.copyfile(cases[0]["imagesTr"[:5]], image)
    listed = arguments({"dataset#data": [{"image": str(image)} for image in images]})
    monai(["run", "--config_file", "configs/inference.json", *listed], cwd=bundle)
    assert all((bundle / "eval" / folder / "image_seg.nii.gz").is_file() for folder in ("1", "2"))


def test_monai_label_trains_a_family_anew(hippocampus: Trained, tmp_path: Path) -> None:
    """Though there are weights of an earlier training, which are not those of this one: its family may have been narrowed."""
    models = hippocampus.bundle / "models"
    models.mkdir()
    torch.save({"weight": torch.zeros(1)}, models / "model.pt")
    tiny = {key: value for key, value in TINY.items() if key != "epochs"}
    call(label_trains, hippocampus.bundle, cases_of(hippocampus.task), "model.pt", 2, tiny, environment=os.environ)
    family = TrainedBundle.open(hippocampus.bundle).family()
    assert family.epochs == 2 and list(family.validation_cases) == ["case_4.nii.gz"]
    assert len(torch.load(models / "model.pt", weights_only=True)) > 1


def test_held_out_namesakes_are_told_apart(hippocampus: Trained, tmp_path: Path) -> None:
    """Files of one name in several folders of a task: each is scored in the training, the evaluation and a search."""
    task = tmp_path / hippocampus.task.name
    data = json.loads((hippocampus.task / "dataset.json").read_text())
    for number, case in enumerate(data["training"]):
        for key, part in (("image", "imagesTr"), ("label", "labelsTr")):
            place = task / part / str(number) / "scan.nii.gz"
            place.parent.mkdir(parents=True)
            shutil.copyfile(hippocampus.task / case[key], place)
            case[key] = str(place.relative_to(task))
    (task / "dataset.json").write_text(json.dumps(data))
    train(hippocampus, tmp_path, dataset_dir=task, epochs=1, validation_cases=2)
    bundle = TrainedBundle.open(tmp_path / "models")
    names = [f"{number}/scan.nii.gz" for number in range(len(data["training"]))][-2:]
    assert list(bundle.held_out()) == names
    held = bundle.validation_cases(DecathlonTask.read(task))
    assert ["/".join(case.image.parts[-2:]) for case in held] == names
    assert [*TrainedSegmenter(bundle, task).held_out().names] == [name.removesuffix(".nii.gz") for name in names]


def test_labels_above_255_are_written_as_they_are() -> None:
    dtype = config(ROOT / "bundles" / "msd_prox", "inference")["saving"]["output_dtype"]
    for labels, expected in ((256, np.uint8), (257, np.uint16)):
        assert eval(dtype.removeprefix("$").replace("@plan.labels", f"range({labels})"), {"np": np}) is expected


def test_cases_and_epochs_may_be_overridden_as_applications_do(hippocampus: Trained, tmp_path: Path) -> None:
    """MONAI Label's names for them: the cases to train on are taken, and a length is of the schedule, too."""
    case = {part[:5]: str(hippocampus.task / part / "case_0.nii.gz") for part in ("imagesTr", "labelsTr")}
    said = train(hippocampus, tmp_path, **{"train#dataset#data": [case], "train#trainer#max_epochs": 1})
    assert "; 1 cases to train on, " in said and "Epoch[1]" in said
    family = json.loads((tmp_path / "models" / "family.json").read_text())
    assert family["epochs"] == 1 and [stage["name"] for stage in family["stages"]] == ["everyone"]


@pytest.mark.parametrize("trained", ["hippocampus_prox"], indirect=True)
def test_a_checkpoint_of_another_space_is_refused(trained: Trained, tmp_path: Path) -> None:
    checkpoint = trained.bundle / "models" / "checkpoint_epoch=5.pt"
    said = train(trained, tmp_path, check=False, ckpt=checkpoint, space={"width": [0.25, 1.0]})
    assert "the checkpoint was trained with another search space than this configuration asks for" in said
    assert not (tmp_path / "models" / "model.pt").exists()


@pytest.mark.parametrize("fault", ["NaN", "label"])
def test_images_that_cannot_be_trained_on_are_named(tmp_path: Path, fault: str) -> None:
    where = Trained(tmp_path, copy_bundles(tmp_path) / "hippocampus_prox", write_task(tmp_path, "hippocampus_prox"))
    path = where.task / ("imagesTr" if fault == "NaN" else "labelsTr") / "case_1.nii.gz"
    image = nib.load(path)
    voxels = np.array(image.dataobj)
    voxels[3, 4, 5] = np.nan if fault == "NaN" else 7
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    said = train(where, tmp_path / "run", check=False)
    expected = "has 1 voxels that are not finite numbers" if fault == "NaN" else "has the labels 7, which are not declared"
    assert re.search(rf"case_1\.nii\.gz {expected}", said)
    assert "Epoch" not in said


# ---------------------------------------------------------------------- the monitor
@pytest.fixture(scope="module")
def narrowed() -> Trained:
    """A training whose monitor closes two choices in its last stage of five epochs, for no gain is worth it."""
    eager = {"monitor#threshold": 10, "monitor#patience": 1, "validation_cases": 5, "val_interval": 3, "epochs": 11}
    return trained_once("narrowed", "hippocampus_prox", cases=7, **eager)


def whole_supernet(where: Trained) -> SuperNet:
    """As the last checkpoint has it, with everything that was closed."""
    bundle = TrainedBundle.open(where.bundle)
    family = bundle.plan.family(bundle.file.choices)
    (path,) = (where.bundle / "models").glob("checkpoint_epoch=*.pt")
    supernet = SuperNet(family, largest(family))
    supernet.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["network"])
    return supernet.eval()


def test_a_training_closes_choices_and_says_so(narrowed: Trained) -> None:
    family = TrainedBundle.open(narrowed.bundle).family()
    said = (narrowed.root / "said").read_text()
    closed = [comparison["dimension"] for comparison in family.monitor if comparison["verdict"] == "closed"]
    assert len(closed) == 2 and set(family.closed or ()) == set(closed)
    assert re.findall("ProX closes the last choice of ([a-z_]+): ", said) == closed
    assert said.count("ProX monitor: ") == len(family.monitor)
    weights = torch.load(narrowed.bundle / "models" / "model.pt", weights_only=True)
    whole = prediction_graph(whole_supernet(narrowed).network).state_dict()
    # The decoder's stages count from the lowest level, so their names shift where that was closed
    encoder = {name for name in weights if name.startswith("encoder.")}
    assert encoder and encoder <= whole.keys() and len(weights) <= len(whole)
    assert sum(w.numel() for w in weights.values()) < sum(w.numel() for w in whole.values())
    assert json.loads(output_of("family", narrowed.bundle, "--json")) == family.to_json()["members"]


@pytest.mark.parametrize("name", ["smallest", "largest"])
def test_members_of_a_narrowed_family_predict_as_within_the_whole_one(narrowed: Trained, tmp_path: Path, name: str) -> None:
    bundle, supernet = TrainedBundle.open(narrowed.bundle), whole_supernet(narrowed)
    _, subnet = bundle.member(name)
    whole = tmp_path / "models"
    whole.mkdir()
    replace(bundle.file, closed={}).write(whole)
    torch.save(prediction_graph(supernet.network).state_dict(), whole / "model.pt")
    (tmp_path / "member.json").write_text(json.dumps(subnet.to_json()))
    (tmp_path / "images").mkdir()
    for image in ("case_0.nii.gz", "case_1.nii.gz"):
        (tmp_path / "images" / image).symlink_to(narrowed.task / "imagesTr" / image)
    own = predict(narrowed.bundle, tmp_path / "images", tmp_path / "own", subnet=name)
    theirs = predict(
        narrowed.bundle, tmp_path / "images", tmp_path / "theirs", subnet=str(tmp_path / "member.json"), ckpt_dir=str(whole)
    )
    assert len(own) == 2 and own.keys() == theirs.keys()
    assert all(np.array_equal(own[file], theirs[file]) for file in own)

    output = tmp_path / "exported"
    output_of("export", narrowed.bundle, "--subnet", name, "--output", output)
    weights = torch.load(output / "models" / "model.pt", weights_only=True)
    assert equal(weights, dict(prediction_graph(supernet.extract(subnet)).state_dict()))


def test_a_narrowed_family_is_evaluated(narrowed: Trained, tmp_path: Path) -> None:
    assert_evaluates(narrowed, "largest", tmp_path)


@pytest.mark.slow
def test_monais_checks_pass_for_a_narrowed_family(narrowed: Trained, tmp_path: Path) -> None:
    plan = TrainedBundle.open(narrowed.bundle).plan
    check_network(narrowed.bundle, tmp_path, (1, *plan.patch_size), **as_trained(narrowed.bundle))


@pytest.mark.parametrize("how", ["option", "null", "false"])
def test_the_monitor_can_be_switched_off(hippocampus: Trained, tmp_path: Path, how: str) -> None:
    files = [str(hippocampus.bundle / "configs" / "train.json")]
    if how != "option":
        (tmp_path / "off.json").write_text(f'{{"monitor": {how}}}')
        files.append(str(tmp_path / "off.json"))
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="train",
        logging_file=False,
        bundle_root=str(hippocampus.bundle),
        dataset_dir=str(hippocampus.task),
        **TINY | ({"monitor": False} if how == "option" else {}),
    )
    workflow.initialize()
    assert workflow.parser.get_parsed_content("prox").engine.monitor is None


@pytest.mark.parametrize("interval", [0, -1, 2.5, "10", None])
def test_an_interval_that_is_none_is_named(interval: Any) -> None:
    engine: Any = None
    message = f"the interval of validations is {interval!r}; it counts epochs and is at least 1"
    with pytest.raises(ProXError, match=re.escape(message)):
        MemberValidationHandler(None, engine, {}, regions={}, interval=interval)


def test_a_validation_without_cases_is_refused_before_the_training(hippocampus: Trained, tmp_path: Path) -> None:
    said = train(hippocampus, tmp_path, check=False, **{"validate#dataset#data": "$[]"})
    message = "error: the validation data of Task04_Hippocampus have no cases; give a list of files"
    assert said.splitlines()[-1] == message and "Epoch" not in said


# ---------------------------------------------------------------------- recipes
SHRINKING = {
    "recipe": "progressive_shrinking",
    "space": {"depth": "full", "width": [0.5, 1.0], "kernel": [3, 5], "levels": 0, "resolution": [1.0]},
    "plan#patch_size": [20, 24, 20],  # a kernel of 5 fits into its lowest feature map
    "epochs": 4,
}


@pytest.fixture(scope="module")
def shrunk() -> Trained:
    """Trained by Progressive Shrinking, with all checkpoints."""
    return trained_once("shrunk", "hippocampus_prox", **SHRINKING, **{"train#saver#n_saved": 9})


@pytest.mark.slow
def test_progressive_shrinking_continues_bit_for_bit(shrunk: Trained, tmp_path: Path) -> None:
    """From the end of the stage in which kernels opened."""
    models = shrunk.bundle / "models"
    family = TrainedBundle.open(shrunk.bundle)
    assert [stage["first_epoch"] for stage in family.file.stages] == [0, 1, 3]
    train(shrunk, tmp_path, ckpt=models / "checkpoint_epoch=3.pt", **SHRINKING)
    for file in ("model.pt", "kernel_transforms.pt", "checkpoint_epoch=4.pt"):
        whole, resumed = (torch.load(folder / file, weights_only=True) for folder in (models, tmp_path / "models"))
        assert equal(whole, resumed), file


def test_progressive_shrinking_is_evaluated_with_its_transformed_kernels(shrunk: Trained, tmp_path: Path) -> None:
    assert_evaluates(shrunk, "smallest", tmp_path)


def test_an_exported_member_has_transformed_kernels(shrunk: Trained, tmp_path: Path) -> None:
    bundle = TrainedBundle.open(shrunk.bundle)
    supernet = bundle.supernet()
    assert supernet.kernel_transforms is not None
    (_, subnet), regions = bundle.member("smallest"), supernet.regions(bundle.subnet("smallest"))
    output = tmp_path / "smallest"
    output_of("export", shrunk.bundle, "--subnet", "smallest", "--output", output)
    weights = torch.load(output / "models" / "model.pt", weights_only=True)
    assert equal(weights, dict(prediction_graph(supernet.extract(subnet)).state_dict()))
    transformed = [name for name in supernet.kernel_transforms.sizes if name in weights]
    assert transformed
    for name in transformed:
        (centre,) = cut([supernet.network.get_parameter(name).detach()], [regions[name]])
        assert centre.shape == weights[name].shape and not torch.equal(centre, weights[name]), name

    within = predict(shrunk.bundle, shrunk.task, tmp_path / "within", subnet="smallest")
    alone = predict(output, shrunk.task / "imagesTr", tmp_path / "alone")
    assert len(within) == len(alone) == 3
    assert all(np.array_equal(label, within[file.replace(".nii.gz", "_seg.nii.gz")]) for file, label in alone.items())


def test_the_sandwich_rule_trains(hippocampus: Trained, tmp_path: Path) -> None:
    """In the default space, three widths of networks as narrow as these."""
    said = train(hippocampus, tmp_path, recipe="sandwich", epochs=2, space=None)
    assert "ProX stage 'sandwich' opens: 27 of 27 members" in said
    family = TrainedBundle.open(tmp_path / "models").family()
    assert [member.name for member in family.members] == ["smallest", "middle", "largest"]
    assert all(member.scores and member.scores["mean"] is not None for member in family.members)
