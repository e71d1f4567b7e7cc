"""The bundle for retinal OCT: MONAI's own commands from training to exports, on a few synthetic scans and on real ones."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    check_zoo_test,
    config,
    targets,
    train_in_two_processes,
)
from helpers.bundle_commands import BUNDLES, ROOT, arguments, copy_bundles, monai
from helpers.equality import equal
from helpers.in_process import output_of, prox
from helpers.made_once import made_once
from helpers.programs import Programs

from monai_prox.core.supernet import SuperNet
from monai_prox.data.oct import CLASSES, read_scans
from monai_prox.data.oct_phantom import write_phantom_scans
from monai_prox.data.oct_plan import OctPlan
from monai_prox.errors import ProXError
from monai_prox.export.bundle import write_bundle
from monai_prox.export.device_file import export_file
from monai_prox.export.from_bundle import classification_of
from monai_prox.export.publishing.details import Details
from monai_prox.export.publishing.folder import publish
from monai_prox.export.publishing.licence import Licence
from monai_prox.runtime.model import Model
from monai_prox.trained.bundle_folder import TrainedBundle
from monai_prox.trained.bundle_source import TrainedClassifier
from monai_prox.trained.door import open_trained

pytest_plugins = ["helpers.program_fixtures"]

BUNDLE = ROOT / "bundles" / "roct_prox"
TRAIN = "bundles/roct_prox/configs/train.json"
SPACE = {"resolution": [48, 64], "depth": [1, 2], "kernel": [3, 5], "expansion": [2, 3], "width": [0.5, 1.0]}
# every stage of the recipe has its epoch
TINY = {"epochs": 5, "iterations": 1, "batch_size": 8, "num_workers": 0, "val_interval": 100, "space": SPACE}
TINY |= {"calibrated#count": 8}
DATA = Path(os.environ.get("MONAI_PROX_DATA", "")) / "roct"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


# ---------------------------------------------------------------------- files
def test_the_bundle_keeps_the_zoos_rules() -> None:
    check_zoo_rules(BUNDLE, REQUIRED)
    family, metadata = config(BUNDLE, "family"), config(BUNDLE, "metadata")
    plan = OctPlan.from_json(family["plan"])
    (image,), (pred,) = (metadata["network_data_format"][side].values() for side in ("inputs", "outputs"))
    assert tuple(image["spatial_shape"]) == plan.image_size and tuple(pred["channel_def"].values()) == plan.classes == CLASSES
    assert TrainedBundle.open(BUNDLE).network_family.space.largest()["resolution"] == (224,)


def test_the_bundle_names_nothing_but_installed_components() -> None:
    found = targets(BUNDLE)
    assert {target.partition(".")[0] for target in found if "." in target} <= {"monai_prox", "monai", "torch", "ignite"}


def test_what_is_not_about_scans_is_as_in_the_other_bundles() -> None:
    own, other = (config(ROOT / "bundles" / name, "train") for name in ("roct_prox", BUNDLES[0]))
    for key in ("family", "network_def", "engine", "optimizer", "lr_scheduler", "initialize", "run", "device", "amp"):
        assert own[key] == other[key], key
    assert own["train"]["trainer"] == other["train"]["trainer"]
    assert own["train"]["handlers"] == other["train"]["handlers"]
    assert own["prox"] == other["prox"] | {"calibrated": "@calibrated"}
    for name in ("network_def", "largest", "trained", "plan", "family", "supernet"):
        assert config(BUNDLE, "inference")[name] == config(ROOT / "bundles" / BUNDLES[0], "inference")[name], name


def test_a_network_can_be_checked_before_any_training() -> None:
    check_before_training(BUNDLE)


# ---------------------------------------------------------------------- MONAI's commands
@dataclass(frozen=True)
class Trained:
    root: Path  # with bundles/ in it
    bundle: Path
    scans: Path


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A copy of the bundle, trained by MONAI's command from the folder that has ``bundles`` in it."""

    def fill(root: Path) -> None:
        copy_bundles(root)
        scans = write_phantom_scans(root, patients={"train": 4, "val": 2, "test": 2}, size=(64, 64))
        monai(["run", "--config_file", TRAIN, *arguments(TINY | {"dataset_dir": scans})], cwd=root)

    root = made_once("roct", fill)
    (scans,) = (path for path in root.iterdir() if path.name != "bundles")
    return Trained(root, root / "bundles" / "roct_prox", scans)


def test_training_leaves_a_family(trained: Trained) -> None:
    names = {path.name for path in (trained.bundle / "models").iterdir()}
    assert names == {"model.pt", "statistics.pt", "family.json", "checkpoint_epoch=5.pt"}
    assert (trained.bundle / "eval" / "prox_progress.png").is_file()
    family = TrainedBundle.open(trained.bundle).family()
    assert family.measure == "accuracy" and len(family.validation_cases or ()) == 16
    assert [member.name for member in family.members] == ["smallest", "small", "middle", "large", "largest"]
    for member in family.members:
        accuracy: Any = member.scores
        assert list(accuracy) == ["mean", *CLASSES]
        mean = sum(accuracy[name] for name in CLASSES) / len(CLASSES)  # there are as many of each
        assert accuracy["mean"] == pytest.approx(mean)


def evaluate(trained: Trained, subnet: str | Path, **more: Any) -> str:
    files = str(["configs/train.json", "configs/evaluate.json"])
    options = {"dataset_dir": trained.scans, "subnet": subnet, "num_workers": 0, "batch_size": 8, "calibrated#count": 8} | more
    return monai(["run", "--config_file", files, *arguments(options)], cwd=trained.bundle).stdout


def test_evaluation_on_the_trainings_validation_repeats_it(trained: Trained, tmp_path: Path) -> None:
    evaluate(trained, "middle", **{"validate#scans": "$@scans.val", "output_dir": tmp_path})
    written = json.loads((tmp_path / "middle" / "evaluation.json").read_text())
    member = next(m for m in TrainedBundle.open(trained.bundle).family().members if m.name == "middle")
    assert {"mean": written["accuracy"], **written["recall"]} == pytest.approx(member.scores)
    matrix = torch.tensor(written["confusion"]["matrix"])
    assert matrix.sum(1).tolist() == [4, 4, 4, 4] and matrix.diagonal().sum() / 16 == pytest.approx(written["accuracy"])
    assert all(0 <= area <= 1 for area in written["auc"].values())


def test_another_member_gets_its_statistics_when_it_is_evaluated(trained: Trained, tmp_path: Path) -> None:
    copy = shutil.copytree(trained.bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("eval"))
    own = replace(trained, bundle=Path(copy))  # its statistics are added to
    bundle = TrainedBundle.open(own.bundle)
    space = bundle.network_family.space
    subnet = space.narrow({"depth": 1, "kernel": 1}).largest()
    (tmp_path / "own.json").write_text(json.dumps({"subnet": subnet.to_json()}))
    with pytest.raises(ProXError, match="give --dataset, the folder of scans"):
        classification_of(TrainedClassifier(bundle), str(tmp_path / "own.json"))
    evaluate(own, tmp_path / "own.json")
    assert classification_of(TrainedClassifier(bundle), str(tmp_path / "own.json")).name == "own"


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", ["smallest", pytest.param("largest", marks=pytest.mark.slow)])
def test_inference_and_exported_members_predict_alike(trained: Trained, tmp_path: Path, name: str) -> None:
    """A member within the family, and as a bundle of its own without us; of lower and of full resolution."""
    images = trained.scans / "test" / "DME"
    options = {"dataset_dir": images, "output_dir": tmp_path / "within", "subnet": name}
    monai(["run", "--config_file", "configs/inference.json", *arguments(options)], cwd=trained.bundle)
    alone = write_bundle(classification_of(TrainedClassifier(TrainedBundle.open(trained.bundle)), name), tmp_path / name)
    options = {"dataset_dir": images, "output_dir": tmp_path / "alone"}
    command = ["run", "--config_file", "configs/inference.json", *arguments(options)]
    monai(command, cwd=alone, without=["monai_prox"])
    refused = monai(command, cwd=trained.bundle, without=["monai_prox"], check=False)  # the family's needs us
    assert refused.returncode != 0 and "monai_prox" in refused.stderr
    header, *within = table(tmp_path / "within" / "predictions.csv")
    assert header == ["image", "class", *CLASSES] and [row[0] for row in within] == sorted(map(str, images.iterdir()))
    assert all(row[1] == CLASSES[max(range(4), key=lambda i: float(row[2 + i]))] for row in within)
    for own, exported in zip(within, table(tmp_path / "alone" / "predictions.csv"), strict=True):
        assert exported[0] == own[0]
        assert list(map(float, exported[1:])) == pytest.approx(list(map(float, own[2:])), abs=2e-6)


@pytest.mark.parametrize(
    ("name", "file"), [("smallest", "a.onnx"), ("largest", "a.ts"), pytest.param("largest", "a.onnx", marks=pytest.mark.slow)]
)
def test_files_for_devices_classify_as_the_bundle_does(trained: Trained, tmp_path: Path, name: str, file: str) -> None:
    images = trained.scans / "test" / "NORMAL"
    files = {"subnet": name, "dataset_dir": images, "output_dir": tmp_path / "wanted"}
    monai(["run", "--config_file", "configs/inference.json", *arguments(files)], cwd=trained.bundle)
    format = {".onnx": "onnx", ".ts": "torchscript"}[Path(file).suffix]
    output_of("export", trained.bundle, "--subnet", name, "--format", format, "--output", tmp_path / file)
    output_of("predict", tmp_path / file, "-i", images, "-o", tmp_path / "found", "--threads", "1")
    header, *wanted = table(tmp_path / "wanted" / "predictions.csv")
    again, *found = table(tmp_path / "found" / "predictions.csv")
    assert again == header and len(found) == len(wanted) == 4
    for own, theirs in zip(found, wanted, strict=True):
        assert Path(own[0]).name == Path(theirs[0]).name and own[1] == theirs[1]
        np.testing.assert_allclose([float(v) for v in own[2:]], [float(v) for v in theirs[2:]], atol=1e-3)


def test_a_published_classifier_passes_the_zoos_test(trained: Trained, tmp_path: Path) -> None:
    said = {"authors": "A", "copyright": "B", "licence": Licence.of("mit")}
    (tmp_path / "schema.json").write_text("{}")
    publish(open_trained(trained.bundle), ["smallest"], tmp_path / "oct", Details(**said), schema=tmp_path / "schema.json")
    card = (tmp_path / "oct" / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card and "Accuracy is the mean over the classes" in card
    check_zoo_test(tmp_path / "oct", "oct_smallest")


def test_a_search_finds_members_and_exports_them(trained: Trained, tmp_path: Path) -> None:
    """Members that the training has not validated get statistics of their norms from its images."""
    output = tmp_path / "search"
    output_of(
        "search", trained.bundle, "--dataset", trained.scans, "--trials", 7, "--cases", 4, "--max-params", 2e6, "-o", output
    )
    (found,) = output.glob("*/front.json")
    front = json.loads(found.read_text())
    assert front["measure"] == "accuracy" and front["cases"] == {"some": 4, "all": 16, "left_out": {}}
    assert len(front["members"]) == 7 and all(one["price"]["parameters"] <= 2e6 for one in front["members"])
    assert front["classes"] and all(
        list(one["classes"]) == front["classes"] for one in [*front["members"], *front["finalists"]]
    )
    assert "data:image/png;base64," in (found.parent / "report.html").read_text(), "the training's plot, of the folder eval"
    named = [member.subnet.to_json() for member in TrainedBundle.open(trained.bundle).family().members]
    other = next(one for one in front["finalists"] if one["subnet"] not in named)
    file = tmp_path / "member.ts"
    exported = [*shlex.split(other["command"])[1:], "--format"]
    output_of(*exported, "torchscript", "--output", file)
    assert Model(file).description.member == other["name"]
    output_of(*exported, "bundle", "--output", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "models" / "model.pt").is_file()


def test_a_classifier_in_integers_is_compared_by_accuracy(trained: Trained, tmp_path: Path) -> None:
    source = TrainedClassifier(TrainedBundle.open(trained.bundle), trained.scans)
    loss = export_file(source, "smallest", tmp_path / "int8.onnx", "onnx", int8=True, most_loss=1)
    assert loss is not None and (loss.calibrated, loss.measured) == (8, 8) and "Accuracy" in str(loss)
    assert Model(tmp_path / "int8.onnx").description == source.describe("smallest")


def test_a_search_knows_what_the_training_held_out(trained: Trained, tmp_path: Path) -> None:
    """By the names that it noted; another split, or scans that are not there, are seen."""
    bundle = TrainedBundle.open(trained.bundle)
    held_out = TrainedClassifier(bundle, trained.scans).held_out()
    assert sorted(name.split()[1] for name in held_out.names) == sorted(bundle.held_out())
    train, val = (sorted(path.name for path in (trained.scans / part).rglob("*.jpeg")) for part in ("train", "val"))
    other = replace(bundle, file=replace(bundle.file, validation_cases=(train[0], val[0])))
    source = TrainedClassifier(other, trained.scans)
    assert sorted(name.split()[1] for name in source.held_out().names) == sorted([train[0], val[0]])
    missing = TrainedClassifier(replace(bundle, file=replace(bundle.file, validation_cases=("gone.jpeg",))), trained.scans)
    with pytest.raises(ProXError, match="of 1 scans that were held out in training, 0 are found by their names"):
        missing.held_out()
    with pytest.raises(ProXError, match="give --dataset, the folder of scans"):
        TrainedClassifier(bundle, None).held_out()


def test_our_commands_take_the_bundle(trained: Trained, tmp_path: Path) -> None:
    listed = output_of("family", trained.bundle)
    assert "DRUSEN" in listed and "Accuracy by class, of scans that training held out" in " ".join(listed.split())
    output = tmp_path / "smallest"
    assert output_of("export", trained.bundle, "--subnet", "smallest", "--output", output).splitlines()[0] == str(output)
    assert config(output, "metadata")["prox_member"]["name"] == "smallest"
    assert "is not trained" in prox("family", BUNDLE).error


@pytest.mark.slow
def test_monais_checks_pass(trained: Trained, tmp_path: Path) -> None:
    size = {"_meta_#network_data_format#inputs#image#spatial_shape": [64, 64]}
    check_network(trained.bundle, tmp_path, (1, 64, 64), **size)


@pytest.mark.slow
def test_monais_checks_pass_for_an_exported_member(trained: Trained, tmp_path: Path) -> None:
    member = write_bundle(
        classification_of(TrainedClassifier(TrainedBundle.open(trained.bundle)), "smallest"), tmp_path / "smallest"
    )
    check_zoo_rules(
        member, ["LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md", "docs/data_license.txt"]
    )
    check_network(member, tmp_path, (1, 48, 48))


@pytest.mark.parametrize(
    ("kind", "names"), [("train", ["train"]), ("infer", ["train", "evaluate"]), ("infer", ["inference"])], ids=str
)
def test_the_bundle_has_the_properties_that_workflows_ask_for(
    trained: Trained, kind: str, names: list[str], tmp_path: Path
) -> None:
    images = trained.scans / "test" / "CNV" if names == ["inference"] else trained.scans
    space = {"space": SPACE} if names == ["train"] else {}
    places = {"output_dir": str(tmp_path), "dataset_dir": str(images)}
    check_properties(trained.bundle, names, kind, **places, num_workers=0, **space)


def test_metadata_obey_the_schema(trained: Trained, tmp_path: Path) -> None:
    member = write_bundle(
        classification_of(TrainedClassifier(TrainedBundle.open(trained.bundle)), "smallest"), tmp_path / "smallest"
    )
    for bundle in (trained.bundle, member):
        check_metadata(bundle, tmp_path)


# ---------------------------------------------------------------------- going on, side by side, and what is refused
def train(trained: Trained, output: Path, check: bool = True, extra: tuple[str, ...] = (), **overrides: Any) -> str:
    places = {"dataset_dir": trained.scans, "ckpt_dir": output / "models", "output_dir": output / "eval"}
    command = ["run", "--config_file", TRAIN, *arguments(TINY | places | overrides), *extra]
    done = monai(command, cwd=trained.root, check=check)
    assert check or done.returncode != 0
    return done.stdout + done.stderr


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(trained: Trained, tmp_path: Path) -> None:
    train(trained, tmp_path / "whole", extra=("--train#saver#n_saved", "9"), epochs=8)
    train(trained, tmp_path / "resumed", ckpt=tmp_path / "whole" / "models" / "checkpoint_epoch=6.pt", epochs=8)
    for file in ("model.pt", "statistics.pt", "checkpoint_epoch=8.pt"):
        whole, resumed = (torch.load(tmp_path / run / "models" / file, weights_only=True) for run in ("whole", "resumed"))
        assert equal(whole, resumed), file


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["prox_paper", "progressive_shrinking"])
def test_other_recipes_train(trained: Trained, tmp_path: Path, recipe: str) -> None:
    stages = 7 if recipe == "prox_paper" else 6
    said = train(trained, tmp_path, recipe=recipe, epochs=stages)
    assert "teacher previous" in said or "teacher first" in said
    bundle = TrainedBundle.open(tmp_path / "models")
    transformed = bundle.kernel_transforms is not None
    assert (tmp_path / "models" / "kernel_transforms.pt").is_file() == transformed == (recipe != "prox_paper")
    assert isinstance(bundle.supernet(), SuperNet) and all(member.scores for member in bundle.family().members)


@pytest.mark.slow
def test_two_processes_train_one_supernet(trained: Trained, tmp_path: Path, programs: Programs) -> None:
    """Validation is shared out, and logged once."""
    said = train_in_two_processes(trained.root, "roct_prox", tmp_path, programs, dataset_dir=trained.scans, **TINY)
    assert "val_accuracy_largest" in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dataset_dir": "nowhere"}, "there is no folder nowhere; give one with train and test"),
        ({"space": {"resolution": [16, 64]}}, "at least the network's stride of 32 pixels"),
        ({"validation": 2}, "validation is 2; it is a fraction between 0 and 1"),
        pytest.param({"epochs": 0}, "the number of epochs is 0; it must be a whole number, at least 1", marks=pytest.mark.slow),
        ({"iterations": 0}, "the number of iterations of an epoch is 0; it must be a whole number, at least 1"),
    ],
    ids=["no data", "space", "validation", "epochs", "iterations"],
)
def test_what_cannot_work_is_said_before_training(
    trained: Trained, tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    said = train(trained, tmp_path, check=False, **overrides)
    assert said.splitlines()[-1].startswith("error: ") and message in said.splitlines()[-1]
    assert "Epoch" not in said and not (tmp_path / "models").exists()


def test_a_scan_whose_pixels_are_broken_is_named(tmp_path: Path, trained: Trained) -> None:
    scans = write_phantom_scans(tmp_path, patients={"train": 1, "val": 1, "test": 1}, size=(64, 64))
    broken = next((scans / "train" / "CNV").iterdir())
    broken.write_bytes(broken.read_bytes()[:-300])
    said = train(trained, tmp_path, check=False, dataset_dir=scans)
    assert f"{broken} cannot be read as an image" in said.splitlines()[-1]


def test_lists_of_scans_are_all_the_data_that_a_training_needs(tmp_path: Path, trained: Trained) -> None:
    scans = read_scans(trained.scans)
    lists = [[{"image": str(scan.image), "label": scan.label} for scan in part] for part in (scans.train, scans.val)]
    given = {"dataset_dir": "nowhere", "train#dataset#data": lists[0], "validate#dataset#data": lists[1]}
    classes = {"classes": ["a", "b", "c", "d"]}
    train(trained, tmp_path, **given, **classes, epochs=1)
    family = json.loads((tmp_path / "models" / "family.json").read_text())
    assert family["plan"]["classes"] == classes["classes"]
    assert family["validation_cases"] == [scan.name for scan in scans.val]
    options = {"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}
    evaluate(trained, "largest", **given, **options)
    assert (tmp_path / "eval" / "largest" / "evaluation.json").is_file()
    wrong = given | {"validate#dataset#data": [lists[1][0] | {"label": "CNV"}]}
    assert "it must have an image, a file, and a label, one of 0 (CNV)" in train(trained, tmp_path, check=False, **wrong)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="there is no folder roct in the folder that MONAI_PROX_DATA names")
def test_real_scans_are_trained_and_evaluated_on(tmp_path: Path, trained: Trained) -> None:
    """That the pipeline runs on them counts; 8 test scans say nothing about accuracy."""
    train(trained, tmp_path, dataset_dir=DATA)
    options = {"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}
    evaluate(Trained(trained.root, trained.bundle, DATA), "largest", **options)
    written = json.loads((tmp_path / "eval" / "largest" / "evaluation.json").read_text())
    assert written["images"] == len(read_scans(DATA).test) == 8
