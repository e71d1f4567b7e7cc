"""Exported members that MONAI trains further and evaluates, by the configurations in their bundles."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.bundle_checks import check_properties, config
from helpers.bundle_commands import Trained, arguments, cases_of, monai, trained_once, write_task
from helpers.bundle_hosts import label_trains, labelled, predict, scripts_from, workflow_of
from helpers.commands import call
from helpers.equality import equal
from helpers.nnunet_task import BARE_DATASET, SHALLOW, TWO_MEMBERS, bare_model, bare_plans
from helpers.ranks import together
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, create_workflow, load
from monai.handlers import ValidationHandler
from monai.losses import DiceLoss
from monai.transforms import Compose
from torch.nn.functional import binary_cross_entropy_with_logits

from monai_prox.export.bundle import write_bundle
from monai_prox.export.bundle_transforms import BestWeightsSaver
from monai_prox.export.exportable import write_member
from monai_prox.export.fine_tuning import FINE_TUNED
from monai_prox.export.from_nnunet import prediction_of
from monai_prox.trained.door import open_trained
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

REGIONS: dict[str, Any] = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    "regions_class_order": [1, 2, 3],
}
SIDES = (27, 22, 18)  # voxels, all different
QUICK = {"num_workers": 0, "cache_rate": 0.0}


# ---------------------------------------------------------------------- a member of nnU-Net's, of random weights
def write_member_of_nnunet(folder: Path, dataset: Mapping[str, Any] = BARE_DATASET, **changes: Any) -> Path:
    """A bundle in ``folder``; ``bare`` has to be there. changes: of the plans, or of their configuration."""
    plans = bare_plans(patch=(16, 24, 32), prox={"space": TWO_MEMBERS}, **SHALLOW)
    (configuration,) = plans["configurations"].values()
    for key, value in changes.items():
        (configuration if key in configuration else plans)[key] = value
    channels = len(dataset["channel_names"])
    torch.manual_seed(0)
    configuration["normalization_schemes"] = configuration["normalization_schemes"][:1] * channels
    configuration["use_mask_for_norm"] = configuration["use_mask_for_norm"][:1] * channels
    return write_bundle(prediction_of(TrainedNNUNet.of(bare_model(plans, dataset=dataset)), "largest"), folder)


def write_raw(folder: Path, *, values: int = 3, channels: int = 1, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Path:
    """A dataset as those in nnUNet_raw: two cases of nested blobs, 100 brighter for each value of the label."""
    generator = np.random.default_rng(0)
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in ("aB", "a"):  # in another order as images and as labels
        coarse = torch.tensor(generator.normal(0, 1, (1, 1, 5, 4, 4)))
        smooth = torch.nn.functional.interpolate(coarse, SIDES, mode="trilinear")[0, 0].numpy()
        edges = np.quantile(smooth, np.linspace(0.3, 0.7, values - 1))
        label = np.digitize(smooth, edges).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, affine), folder / "labelsTr" / f"{name}.nii.gz")
        for channel in range(channels):
            image = (100 * label + generator.normal(0, 5, SIDES) + 50).astype(np.float32)
            image[:3], image[:, -3:] = 0, 0
            nib.save(nib.Nifti1Image(image, affine), folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
    return folder


def parsed(bundle: Path, *names: str, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f"{name}.json") for name in names])
    parser.update({"bundle_root": str(bundle), **overrides})
    return parser


STORED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "resampled": {"spacing": (1.3, 0.9, 0.8)},
    "CT": {"normalization_schemes": ["CTNormalization"]},
    "two channels": {"channels": 2},
    "turned": {"image_reader_writer": "NibabelIOWithReorient", "spacing": (1.1, 0.8, 1.3)},
}
INTENSITIES = {"percentile_00_5": 0.0, "percentile_99_5": 300.0, "mean": 100.0, "std": 80.0}


@pytest.mark.parametrize("case", STORED)
def test_images_are_trained_on_as_they_are_predicted(bare: Path, tmp_path: Path, case: str) -> None:
    """And labels lie where their images do, in training at the network's resolution, in a validation as stored."""
    changes = dict(STORED[case])
    how = {key: changes.pop(key) for key in ("spacing", "channels") if key in changes}
    channels = how.get("channels", 1)
    intensities = {str(channel): INTENSITIES for channel in range(channels)}
    dataset = BARE_DATASET | {"channel_names": {str(channel): "MRI" for channel in range(channels)}}
    bundle = write_member_of_nnunet(
        tmp_path / "bundle", dataset, foreground_intensity_properties_per_channel=intensities, **changes
    )
    raw = write_raw(tmp_path / "raw", **how)
    training = parsed(bundle, "train", dataset_dir=str(raw))
    inference = parsed(bundle, "inference", dataset_dir=str(raw / "imagesTr"))
    files = [{"image": i, "label": n} for i, n in zip(*map(training.get_parsed_content, ("images", "labels")), strict=True)]
    trained, validated = (
        training.get_parsed_content("train#dataset#data"),
        training.get_parsed_content("validate#dataset#data"),
    )
    assert (*trained, *validated) == tuple(files)
    assert [Path(item["image"][0]).name[:-12] for item in files] == [Path(item["label"]).name[:-7] for item in files]
    predicted = inference.get_parsed_content("dataset")
    moves = Compose(training.get_parsed_content("train#deterministic_transforms"))
    keeps = training.get_parsed_content("validate#preprocessing")
    for item, own in zip(files, predicted, strict=True):
        moved, kept = moves(item), keeps(item)
        for seen in (moved, kept):
            assert torch.equal(seen["image"].as_tensor(), own["image"].as_tensor())
        stored = np.asarray(nib.load(item["label"]).dataobj)
        assert np.array_equal(kept["label"][0].numpy(), stored)
        assert moved["label"].shape[1:] == own["image"].shape[1:] and moved["label"].dtype == torch.uint8
        torch.testing.assert_close(moved["label"].affine, own["image"].affine)
        inside = moved["image"][0] > moved["image"][0].min() + 0.1  # not what was set to 0
        means = [float(moved["image"][0][inside & (moved["label"][0] == value)].mean()) for value in (0, 1, 2)]
        spreads = [float(moved["image"][0][inside & (moved["label"][0] == value)].std()) for value in (0, 1, 2)]
        assert means[0] < means[1] < means[2] and max(spreads) < (means[2] - means[0]) / 2, (means, spreads)


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_an_evaluation_scores_the_masks_that_are_predicted(bare: Path, tmp_path: Path, kind: str) -> None:
    dataset = BARE_DATASET | (REGIONS if kind == "regions" else {})
    values = [(1, 2, 3), (2, 3), (3,)] if kind == "regions" else [(1,), (2,)]
    bundle = write_member_of_nnunet(tmp_path / "bundle", dataset)
    raw = write_raw(tmp_path / "raw", values=4 if kind == "regions" else 3, spacing=(1.2, 0.9, 1.1))
    masks = predict(bundle, raw / "imagesTr", tmp_path / "masks")
    places = {"dataset_dir": str(raw), "output_dir": str(tmp_path / "eval")}
    workflow_of(bundle, ["train", "evaluate"], "infer", validation_cases=2, num_workers=0, **places).run()
    rows = (tmp_path / "eval" / "val_mean_dice_raw.csv").read_text().splitlines()[1:]
    assert len(rows) == len(masks) == 2
    for row in rows:
        file, *scores = row.split("\t") if "\t" in row else row.split(",")
        name = Path(file).name.replace("_0000", "")
        label = np.asarray(nib.load(raw / "labelsTr" / name).dataobj)
        for score, region in zip(scores, values, strict=False):
            mine, theirs = np.isin(masks[name], region), np.isin(label, region)
            assert float(score) == pytest.approx(2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()), abs=1e-4)


@pytest.mark.parametrize(("kind", "gain"), [("labels", 0.1), ("regions", 0.0)])
def test_a_member_learns(bare: Path, tmp_path: Path, kind: str, gain: float) -> None:
    """Weights of the best validation are written beside those that were exported, which stay."""
    dataset = BARE_DATASET | (REGIONS if kind == "regions" else {})
    bundle = write_member_of_nnunet(tmp_path / "bundle", dataset)
    raw = write_raw(tmp_path / "raw", values=4 if kind == "regions" else 3)
    exported = (bundle / "models" / "model.pt").read_bytes()
    longer = {"epochs": 15, "batch_size": 1, "learning_rate": 0.02, "num_workers": 0, "dataset_dir": str(raw)}
    workflow = workflow_of(bundle, ["train"], "train", **longer)
    assert workflow.check_properties() == []
    workflow.run()
    assert (bundle / "models" / "model.pt").read_bytes() == exported
    before, after = (torch.load(bundle / "models" / name, weights_only=True) for name in ("model.pt", FINE_TUNED))
    assert before.keys() == after.keys() and not equal(before, after)
    dice = {}
    for name in ("model.pt", FINE_TUNED):
        chosen = {"ckpt_path": str(bundle / "models" / name), "dataset_dir": str(raw), "num_workers": 0}
        workflow = workflow_of(bundle, ["train", "evaluate"], "infer", output_dir=str(tmp_path / name), **chosen)
        workflow.run()
        dice[name] = workflow.evaluator.state.metrics["val_mean_dice"]
    assert dice[FINE_TUNED] > dice["model.pt"] + gain, dice


def test_what_the_labels_of_regions_mean_is_written(bare: Path, tmp_path: Path) -> None:
    """Their values are not the numbers of the outputs."""
    regions = {"labels": {"background": 0, "whole": [1, 2, 4], "core": [1, 4], "rim": 1}, "regions_class_order": [2, 4, 1]}
    bundle = write_member_of_nnunet(tmp_path / "bundle", BARE_DATASET | regions)
    assert config(bundle, "metadata")["label_classes"] == "0 background; 1 rim; 2 whole; 4 core"
    assert "\n- 0: background\n- 1: rim\n- 2: whole\n- 4: core\n" in (bundle / "docs" / "README.md").read_text()


def test_weights_are_replaced_by_complete_and_better_ones_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, path = torch.nn.Conv3d(1, 1, 1), tmp_path / "models" / FINE_TUNED
    saver, engine = BestWeightsSaver(str(path), network), Engine(lambda *_: None)
    saver.attach(engine)
    engine.state.key_metric_name = "dice"

    def validate(dice: float) -> None:
        engine.state.metrics = {"dice": dice}
        engine.fire_event(Events.EPOCH_COMPLETED)

    validate(0.5)
    first = path.read_bytes()
    with torch.no_grad():
        network.weight += 1
    validate(0.4)
    assert path.read_bytes() == first

    def full(_: Any, file: Path) -> None:
        file.write_bytes(b"a part")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space left"):
            validate(0.6)
    assert path.read_bytes() == first and list(path.parent.iterdir()) == [path]
    validate(0.6)
    assert equal(torch.load(path, weights_only=True), dict(network.state_dict()))


@pytest.mark.parametrize(("interval", "after"), [(1, [1]), (3, [3]), (2, [3, 2]), (7, [3, 7])])
def test_the_last_epoch_is_validated(bare: Path, tmp_path: Path, interval: int, after: list[int]) -> None:
    """Whatever the interval, as long as the training."""
    given = {"dataset_dir": str(write_raw(tmp_path / "raw")), "epochs": 3, "val_interval": interval, "cache_rate": 0}
    parser = parsed(write_member_of_nnunet(tmp_path / "bundle"), "train", **given)
    handlers = [one for one in parser.get_parsed_content("train#handlers") if isinstance(one, ValidationHandler)]
    assert [handler.interval for handler in handlers] == after


def test_an_image_of_other_channels_is_named(trained: Trained, member: Path, tmp_path: Path) -> None:
    image = trained.task / "imagesTr" / "case_0.nii.gz"
    stored = nib.load(image)
    twice = nib.Nifti1Image(np.stack(2 * [np.asarray(stored.dataobj)], -1), stored.affine)
    nib.save(twice, tmp_path / "twice.nii.gz")
    parser = parsed(member, "inference", dataset_dir=str(tmp_path))
    with pytest.raises(RuntimeError) as failure:
        parser.get_parsed_content("dataset")[0]
    assert f"{tmp_path / 'twice.nii.gz'} has 2 channels, the network takes 1: MRI" in str(failure.value.__cause__)


def test_the_loss_of_regions_is_dice_and_cross_entropy_of_each(bare: Path, tmp_path: Path) -> None:
    bundle = write_member_of_nnunet(tmp_path / "bundle", BARE_DATASET | REGIONS)
    loss = parsed(bundle, "train").get_parsed_content("loss")
    logits, target = torch.randn(2, 3, 4, 4, 4), torch.randint(2, (2, 3, 4, 4, 4)).float()
    expected = DiceLoss(sigmoid=True, batch=True)(logits, target) + binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(loss(logits, target), expected)


def test_images_are_mirrored_along_the_axes_of_the_training(bare: Path, tmp_path: Path) -> None:
    """Those of nnU-Net's arrays, (z, y, x), as axes of the file."""
    plans = bare_plans(patch=(16, 24, 32), prox={"space": TWO_MEMBERS}, **SHALLOW)
    model = bare_model(plans)
    path = model.path / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint | {"inference_allowed_mirroring_axes": (0, 1)}, path)
    bundle = write_bundle(prediction_of(TrainedNNUNet.open(model.path), "largest"), tmp_path / "bundle")
    parser = parsed(bundle, "train")
    assert parser["flips"] == [1, 2]
    flips = [t for t in parser.get_parsed_content("train#random_transforms") if type(t).__name__ == "RandFlipd"]
    assert [flip.flipper.spatial_axis for flip in flips] == [1, 2]


# ---------------------------------------------------------------------- what cannot be trained on
def test_a_label_that_is_not_its_images_is_named(bare: Path, tmp_path: Path) -> None:
    bundle = write_member_of_nnunet(tmp_path / "bundle")
    raw = write_raw(tmp_path / "raw")
    path = raw / "labelsTr" / "a.nii.gz"
    label = nib.load(path)
    voxels = np.asarray(label.dataobj)
    faults = {
        "has the shape (27, 22, 17), its image (27, 22, 18)": nib.Nifti1Image(voxels[..., :-1], label.affine),
        "is stored as RAS, its image as LAS": nib.Nifti1Image(voxels, np.diag([1, 1, 1, 1])),
        "has the labels 3, which are not declared; declared are 0 to 2": nib.Nifti1Image(voxels + 1, label.affine),
    }
    item = {"image": [str(raw / "imagesTr" / "a_0000.nii.gz")], "label": str(path)}
    transforms = Compose(parsed(bundle, "train").get_parsed_content("train#deterministic_transforms"))
    for message, image in faults.items():
        nib.save(image, path)
        with pytest.raises(RuntimeError) as failure:
            transforms(item)
        assert f"a.nii.gz {message}" in str(failure.value.__cause__)


def test_a_folder_without_cases_to_train_on_is_named(bare: Path, tmp_path: Path) -> None:
    bundle = write_member_of_nnunet(tmp_path / "bundle")
    raw = write_raw(tmp_path / "raw")
    for overrides, message in (
        ({"dataset_dir": str(tmp_path)}, f"there is no image imagesTr/*_0000.nii.gz in {tmp_path}"),
        *(
            ({"dataset_dir": str(raw), "validation_cases": number}, f"validation_cases is {number}; of 2 cases at least one")
            for number in (-1, 0, 2)
        ),
    ):
        with pytest.raises(RuntimeError) as failure:
            parsed(bundle, "train", **overrides).get_parsed_content("train#dataset#data")
        assert message in str(failure.value.__cause__)


def test_a_member_whose_training_ignores_voxels_only_predicts(bare: Path, tmp_path: Path) -> None:
    labels = {"background": 0, "anterior": 1, "posterior": 2, "ignore": 3}
    bundle = write_member_of_nnunet(tmp_path / "bundle", BARE_DATASET | {"labels": labels})
    assert sorted(path.name for path in (bundle / "configs").glob("*.json")) == ["inference.json", "metadata.json"]
    assert "train.json" not in (bundle / "docs" / "README.md").read_text()


# ---------------------------------------------------------------------- a member of a bundle's family, by MONAI's programs
@pytest.fixture(scope="module")
def trained() -> Trained:
    return trained_once("hippocampus_prox", "hippocampus_prox", new=True)


@pytest.fixture
def member(trained: Trained, tmp_path: Path) -> Path:
    return write_member(open_trained(trained.bundle), "smallest", tmp_path / "member")


def test_monais_commands_need_no_package_of_ours(trained: Trained, member: Path, tmp_path: Path) -> None:
    """The last fifth of the task is held out, as in the training of the family."""
    here = {"cwd": member, "without": ["monai_prox", "nnunetv2"]}
    options = arguments({"dataset_dir": trained.task, "num_workers": 0})
    monai(["run", "--config_file", "configs/train.json", *options, *arguments({"epochs": 1})], **here)
    fine_tuned = ["--ckpt_path", f"models/{FINE_TUNED}"]
    monai(["run", "--config_file", "['configs/train.json','configs/evaluate.json']", *options, *fine_tuned], **here)
    rows = (member / "eval" / "val_mean_dice_raw.csv").read_text().splitlines()[1:]
    held_out = open_trained(trained.bundle).bundle.family().validation_cases
    assert [Path(row.split("\t")[0].split(",")[0]).name for row in rows] == list(held_out)
    weights = torch.load(member / "models" / FINE_TUNED, weights_only=True)
    assert weights.keys() == torch.load(member / "models" / "model.pt", weights_only=True).keys()
    images = ["--dataset_dir", trained.task / "imagesTr", "--output_dir", tmp_path / "masks"]
    monai(["run", "--config_file", "configs/inference.json", *images, *fine_tuned], **here)
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 3


@pytest.mark.parametrize(("kind", "names"), [("train", ["train"]), ("infer", ["train", "evaluate"])], ids=str)
def test_a_member_has_the_properties_that_workflows_ask_for(
    trained: Trained, member: Path, kind: str, names: list[str], tmp_path: Path
) -> None:
    check_properties(member, names, kind, dataset_dir=str(trained.task), output_dir=str(tmp_path), num_workers=0)


def test_a_member_takes_the_overrides_of_the_zoos_unit_tests(trained: Trained, member: Path, tmp_path: Path) -> None:
    """As those of spleen_ct_segmentation: lists of files by the names of the entries, and a smaller patch."""
    for part in ("image", "label"):
        for number in (0, 1, 2):
            source = trained.task / f"{part}sTr" / f"case_{number}.nii.gz"
            shutil.copyfile(source, tmp_path / f"{part}_{number}.nii.gz")
    override = {
        "dataset_dir": str(tmp_path),
        "images": "$list(sorted(glob.glob(@dataset_dir + '/image_*.nii.gz')))",
        "labels": "$list(sorted(glob.glob(@dataset_dir + '/label_*.nii.gz')))",
        "epochs": 1,
        "train#dataset#cache_rate": 0.0,
        "validate#dataset#cache_rate": 0.0,
        "train#dataloader#num_workers": 0,
        "validate#dataloader#num_workers": 0,
        "patch_size": [16, 16, 16],
        "output_dir": str(tmp_path / "eval"),
    }
    trainer = workflow_of(member, ["train"], "train", **override)
    assert trainer.check_properties() == []
    trainer.run()
    assert trainer.trainer.state.epoch == trainer.max_epochs == 1
    assert trainer.trainer.state.batch[0]["image"].shape[1:] == (16, 16, 16)
    trainer.finalize()
    validator = workflow_of(member, ["train", "evaluate"], "infer", **override)
    validator.run()
    assert 0 <= validator.evaluator.state.metrics["val_mean_dice"] <= 1


def test_monai_loads_a_member_by_its_name(trained: Trained, member: Path) -> None:
    """Its network with its weights, and a workflow, of a folder of bundles."""
    network = load("member", bundle_dir=str(member.parent), source="monaihosting", progress=False)
    weights = torch.load(member / "models" / "model.pt", weights_only=True)
    assert equal(dict(network.state_dict()), weights)
    with scripts_from(member):
        workflow = create_workflow(
            config_file=str(member / "configs" / "inference.json"),
            workflow_type="infer",
            bundle_root=str(member),
            dataset_dir=str(trained.task / "imagesTr"),
            logging_file=False,
        )
    assert workflow.check_properties() == [] and len(workflow.dataset) == 3
    assert workflow.version == config(member, "metadata")["version"]


def test_monai_label_trains_a_member_and_predicts_with_it(trained: Trained, member: Path) -> None:
    """From the file of weights that is chosen, of those that it lists: all in models that end in .pt."""
    still = {"num_workers": 0, "optimizer#lr": 0.0}
    call(label_trains, member, cases_of(trained.task), "model.pt", 2, {"num_workers": 0}, environment=os.environ)
    listed = sorted((path.name for path in (member / "models").glob("*.pt")), key=len)
    assert listed == ["model.pt", FINE_TUNED]
    weights = torch.load(member / "models" / "model.pt", weights_only=True)
    chosen = {name: weight + 1 for name, weight in weights.items()}
    torch.save(chosen, member / "models" / "chosen.pt")
    call(label_trains, member, cases_of(trained.task), "chosen.pt", 1, still, environment=os.environ)
    assert equal(torch.load(member / "models" / FINE_TUNED, weights_only=True), chosen)
    image = trained.task / "imagesTr" / "case_0.nii.gz"
    assert labelled(member, image).shape == nib.load(image).shape


def two_processes(rank: int, bundle: str, task: str) -> dict[str, Any]:
    places = {"dataset_dir": task, "validation_cases": 2, "num_workers": 0, "epochs": 1, "batch_size": 1}
    workflow = workflow_of(Path(bundle), ["train", "multi_gpu_train"], "train", **places)
    workflow.run()
    handlers = [type(one).__name__ for one in workflow.parser.get_parsed_content("train#trainer#train_handlers")]
    weights = dict(workflow.parser.get_parsed_content("network_def").state_dict())
    return {"weights": weights, "handlers": handlers, "dice": workflow.evaluator.state.metrics["val_mean_dice"]}


def test_two_processes_train_a_member_together(member: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path, "hippocampus_prox", cases=6)
    first, second = together(2, two_processes, str(member), str(task))
    assert equal(first["weights"], second["weights"]) and first["dice"] == second["dice"]
    assert not equal(first["weights"], torch.load(member / "models" / "model.pt", weights_only=True))
    assert "StatsHandler" in first["handlers"] and "StatsHandler" not in second["handlers"]
    assert (member / "models" / FINE_TUNED).is_file()
