"""From a Decathlon task to stock models by nnU-Net's own commands, and into an installation without us.

Twice: on synthetic images with a network that has hardly trained, and in a campaign on real images with an environment that has
only nnU-Net. The latter needs the folder Task04_Hippocampus of the Medical Segmentation Decathlon below the folder that
MONAI_PROX_DATA names, and a package index.
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.architectures import FOUR_DIMENSIONS
from helpers.commands import forked, fresh
from helpers.environments import install
from helpers.made_once import made_once
from helpers.nnunet_task import (
    CUT,
    FULLRES,
    Prepared,
    ProXTrainerQuick,
    cut_plans,
    environment,
    folders,
    prepare,
    run,
    write_trainers,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.data.phantom import write_phantom_task
from monai_prox.nnunet.variants import ProXTrainerAdam
from monai_prox.trained.nnunet_folder import FINAL

TASK = "Task04_Hippocampus"
CASES = 5
# Four levels, of which a member may lack one: with two, nnU-Net has no output left to weigh under deep supervision.
FEATURES = (4, 8, 16, 16)
# At most two tiles per axis: those nnU-Net and MONAI lay alike, and a network this weak would show where they do not.
PATCHES = {"synthetic": (40, 40, 40), "real": (24, 40, 24)}
# Of the synthetic task, so that it is predicted and exported sooner. Depth is elastic at the lowest level, and at the highest.
FEW_LAYERS = {"n_conv_per_stage": [1, 1, 1, 2], "n_conv_per_stage_decoder": [1, 1, 2]}
IMAGES = {"synthetic": 1, "real": 2}  # that are predicted


class ProXTrainerShort(ProXTrainerAdam):
    """Long enough that its members predict more than background, each something else."""

    epochs = 10
    iterations_per_epoch = 75
    validation_iterations_per_epoch = 1

    def initialize(self) -> None:
        torch.set_num_threads(1)  # nnU-Net's command takes all cores, and on tiny layers threads wait for each other
        super().initialize()


class nnUNetTrainerOneStep(nnUNetTrainer):  # noqa: N801 (nnU-Net's own style)
    """One step that changes nothing, so that its checkpoint shows what it started from."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1
        self.initial_lr = 0.0


# ---------------------------------------------------------------------- without this package
@dataclass(frozen=True)
class Stock:
    """nnU-Net and MONAI where this package is not installed. python: of another environment; None for this one without us."""

    python: Path | None

    def __call__(self, words: Sequence[object], environment: dict[str, str], *, cwd: Path | None = None) -> str:
        """Standard output of a console script, or of MONAI's ``python -m``, which has to succeed."""
        module = words[0] == "monai.bundle"
        if self.python is None:
            done = forked(words, environment, cwd=cwd, module=module, without=["monai_prox"])
        else:
            done = fresh(words, environment, cwd=cwd, python=self.python, launcher=["-m"] if module else [])
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        return done.stdout

    def predicting(self, command: Sequence[object]) -> list[object]:
        """The command, on the CPU. In the other environment each process of a prediction would be a new Python.

        Of nnU-Net's commands nnUNetv2_predict alone can do without them.
        """
        processes = 0 if self.python is not None and command[0] == "nnUNetv2_predict" else 1
        return [*command, "-device", "cpu", "-npp", processes, "-nps", processes]


HERE = Stock(None)
QUICK = "--disable_tta"


@pytest.fixture(scope="module", params=["synthetic", pytest.param("real", marks=pytest.mark.slow)])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stock(way: str, decathlon: Path) -> Stock:
    return Stock(None if way == "synthetic" else made_once("stock", install) / "bin" / "python")


# ---------------------------------------------------------------------- with this package
@pytest.fixture(scope="module")
def decathlon(way: str) -> Path:
    """A task's folder; without real images nothing of the campaign runs."""
    if way == "synthetic":
        return (
            made_once("end_to_end_task", lambda root: write_phantom_task(root, cases=CASES, test_cases=1)) / "Task990_Phantom"
        )
    if not os.environ.get("MONAI_PROX_DATA"):
        pytest.skip(f"MONAI_PROX_DATA is not set; it names the folder that has {TASK}")
    task = Path(os.environ["MONAI_PROX_DATA"], TASK).resolve()
    if not (task / "imagesTr").is_dir():
        pytest.skip(f"MONAI_PROX_DATA has no {TASK}/imagesTr")
    return task


@dataclass(frozen=True)
class Trained:
    """A dataset in nnU-Net's folders, and what ProXTrainer has made of it."""

    prepared: Prepared
    trainer: str

    @property
    def options(self) -> list[str]:
        return ["-tr", self.trainer]

    @property
    def ours(self) -> dict[str, str]:
        """The environment of commands that see our trainer, and load batches in its process: then the seed decides them."""
        return self.prepared.environment(nnUNet_extTrainer=self.prepared.root / "trainers", nnUNet_n_proc_DA="0")

    @property
    def theirs(self) -> dict[str, str]:
        """The environment of commands that have the results of the training, but not the trainers."""
        return self.prepared.environment()

    @property
    def model(self) -> Path:
        """After ``nnUNetv2_train`` of fold 0."""
        return self.prepared.root / "nnUNet_results" / self.prepared.name / f"{self.trainer}__{CUT}__{FULLRES}"

    @property
    def images(self) -> Path:
        """The first raw images, in a folder as nnU-Net predicts it."""
        return self.prepared.root / "images"

    @property
    def largest_voxels(self) -> dict[str, np.ndarray]:
        """What ``nnUNetv2_predict`` with our trainer makes of the images: the largest member's segmentations."""
        return voxels(self.prepared.root / "predicted", self.images)

    @property
    def coarse(self) -> Path:
        """The largest member, but for its resolution."""
        return self.prepared.root / "coarse.json"

    @property
    def exported(self) -> dict[str, tuple[Path, list[str]]]:
        """By member, what ``monai-prox export`` has printed: its model folder, and commands that predict with it."""
        printed = json.loads((self.prepared.root / "exported.json").read_text())
        return {
            name: (Path(lines[0]), [line for line in lines if line.startswith("nnUNetv2_predict")])
            for name, lines in printed.items()
        }


@pytest.fixture(scope="module")
def trained(way: str, decathlon: Path) -> Trained:
    """Tests add to what is there, and change nothing."""
    trainer = ProXTrainerQuick if way == "synthetic" else ProXTrainerShort
    identifier, name = (990, "Dataset990_Phantom") if way == "synthetic" else (4, "Dataset004_Hippocampus")

    def fill(root: Path) -> None:
        prepare(first_cases(decathlon, root / decathlon.name), root)
        write_trainers(root / "trainers", trainer)
        made = Trained(Prepared(root, identifier, name), trainer.__name__)
        plans = cut_plans(made.prepared.plans(), FULLRES, CUT, PATCHES[way], FEATURES, prox={"space": FOUR_DIMENSIONS})
        if way == "synthetic":
            plans["configurations"][FULLRES]["architecture"]["arch_kwargs"] |= FEW_LAYERS
        made.prepared.write_plans(plans)
        run(["nnUNetv2_train", identifier, FULLRES, 0, *made.options, "-p", CUT, "-device", "cpu", "--npz"], made.ours)
        if way == "synthetic":
            make_decisive(made.model / "fold_0" / FINAL)
        made.images.mkdir()
        for image in sorted((root / "nnUNet_raw" / name / "imagesTr").glob("*_0000.nii.gz"))[: IMAGES[way]]:
            (made.images / image.name).symlink_to(image)
        where = ["-i", made.images, "-o", root / "predicted", "-d", identifier, "-c", FULLRES, "-p", CUT, "-f", 0]
        run([*HERE.predicting(["nnUNetv2_predict", *where, *made.options]), QUICK], made.ours)
        members = json.loads((made.model / "fold_0" / "family.json").read_text())["members"]
        largest = next(member["subnet"] for member in members if member["name"] == "largest")
        made.coarse.write_text(json.dumps(largest | {"resolution": [0.75]}))
        printed = {}
        for member, subnet in {"smallest": "smallest", "largest": "largest", "coarse": made.coarse}.items():
            printed[member] = run(
                ["monai-prox", "export", made.model, "--subnet", subnet, "--fine-tune"], made.ours
            ).splitlines()
        (root / "exported.json").write_text(json.dumps(printed))

    return Trained(Prepared(made_once(f"end_to_end_{way}", fill), identifier, name), trainer.__name__)


def first_cases(decathlon: Path, task: Path) -> Path:
    """A task of links to the first cases of another one."""
    names = sorted(path.name for path in (decathlon / "labelsTr").glob("[!.]*.nii.gz"))[:CASES]
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True)
        for name in names:
            (task / part / name).symlink_to(decathlon / part / name)
    entries = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    changed = {"numTraining": len(names), "training": entries, "numTest": 0, "test": []}
    (task / "dataset.json").write_text(json.dumps(json.loads((decathlon / "dataset.json").read_text()) | changed))
    return task


def make_decisive(file: Path) -> None:
    """Makes the last layers random: a hardly trained network's classes would tie in half precision."""
    checkpoint = torch.load(file, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for key, weight in checkpoint["network_weights"].items():
        if "seg_layers" in key:
            weight.copy_(torch.randn(weight.shape, generator=generator))
    torch.save(checkpoint, file)


def voxels(folder: Path, images: Path) -> dict[str, np.ndarray]:
    """The segmentations in ``folder``: one per image, on its grid, of the task's labels."""
    segmentations = {}
    for image in sorted(images.glob("*_0000.nii.gz")):
        name = image.name.replace("_0000", "")
        segmentation, original = nib.load(folder / name), nib.load(image)
        assert segmentation.shape == original.shape and np.allclose(segmentation.affine, original.affine)
        segmentations[name] = np.asarray(segmentation.dataobj)
        assert set(np.unique(segmentations[name])) <= {0, 1, 2}
    return segmentations


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_every_watched_member_is_validated(trained: Trained) -> None:
    family = json.loads((trained.model / "fold_0" / "family.json").read_text())
    assert [member["name"] for member in family["members"]] == ["smallest", "small", "middle", "large", "largest"]
    macs = [member["macs"] for member in family["members"]]
    assert macs == sorted(set(macs))
    assert family["orientations"] == {"RAS": CASES}
    for member in family["members"]:
        assert set(member["dice"]) == {"mean", "1", "2"}
    others = {folder.parent.parent.name for folder in (trained.model / "fold_0" / "members").glob("*/validation/summary.json")}
    assert others == {"smallest", "small", "middle", "large"}


def test_nnunet_compares_our_trainer_with_others(trained: Trained) -> None:
    """Members' own validations do not disturb it."""
    where = ["-c", FULLRES, "-p", CUT, "-f", 0, "-np", 1, "--disable_ensembling"]
    run(["nnUNetv2_find_best_configuration", trained.prepared.identifier, *trained.options, *where], trained.ours)
    found = json.loads((trained.model.parent / "inference_information.json").read_text())
    assert found["best_model_or_ensemble"]["selected_model_or_models"] == [
        {"configuration": FULLRES, "trainer": trained.trainer, "plans_identifier": CUT}
    ]
    largest = json.loads((trained.model / "fold_0" / "validation" / "summary.json").read_text())
    assert found["all_results"][trained.model.name] == pytest.approx(largest["foreground_mean"]["Dice"])


def test_nnunet_compares_and_ensembles_exported_members(trained: Trained, stock: Stock, tmp_path: Path) -> None:
    """By the Dice of their validations; what it finds best predicts by the commands that it prints.

    Commands that read no model are those of this environment.
    """
    members = {name: trained.exported[name][0] for name in ("smallest", "largest")}
    plans = [folder.name.split("__")[1] for folder in members.values()]
    where = ["-c", FULLRES, "-p", *plans, "-f", 0, "-np", 1]
    HERE(["nnUNetv2_find_best_configuration", trained.prepared.identifier, *where], trained.theirs)
    results = trained.model.parent
    found = json.loads((results / "inference_information.json").read_text())
    family = json.loads((trained.model / "fold_0" / "family.json").read_text())
    dice = {member["name"]: member["dice"]["mean"] for member in family["members"]}
    for name, folder in members.items():
        assert found["all_results"][folder.name] == pytest.approx(dice[name])
    (ensemble,) = set(found["all_results"]) - {folder.name for folder in members.values()}
    assert ensemble.startswith("ensemble___")

    predicted = [tmp_path / name for name in members]
    for name, output in zip(members, predicted, strict=True):
        command = with_folders(trained.exported[name][1][1], trained.images, output)
        stock([*stock.predicting(command), QUICK, "--save_probabilities"], trained.theirs)
    HERE(["nnUNetv2_ensemble", "-i", *predicted, "-o", tmp_path / "ensemble", "-np", 1], trained.theirs)
    postprocessing = found["best_model_or_ensemble"]
    files = ["-pp_pkl_file", postprocessing["postprocessing_file"], "-plans_json", postprocessing["some_plans_file"]]
    where = ["-i", tmp_path / "ensemble", "-o", tmp_path / "postprocessed", "-np", 1]
    HERE(["nnUNetv2_apply_postprocessing", *where, *files], trained.theirs)
    assert voxels(tmp_path / "postprocessed", trained.images).keys() == voxels(tmp_path / "ensemble", trained.images).keys()


def test_stock_nnunet_validates_an_exported_member(trained: Trained, stock: Stock, tmp_path: Path) -> None:
    """Also one that the training did not validate. It segments the held-out case as nnU-Net predicts it."""
    family = json.loads((trained.model / "fold_0" / "family.json").read_text())
    largest = next(member["subnet"] for member in family["members"] if member["name"] == "largest")
    first, *widths = largest["width"]
    (tmp_path / "narrow.json").write_text(json.dumps(largest | {"width": [first, *(width // 2 for width in widths)]}))
    command = ["monai-prox", "export", trained.model, "--subnet", tmp_path / "narrow.json", "--fine-tune"]
    folder, printed, *_ = run(command, trained.ours).splitlines()
    validation = Path(folder, "fold_0", "validation")
    assert [file.name for file in validation.iterdir()] == ["summary.json"]
    plans = Path(folder).name.split("__")[1]
    train = ["nnUNetv2_train", trained.prepared.identifier, FULLRES, 0, "-p", plans, "-device", "cpu"]
    (stock if stock.python else run)([*train, "--val", "--npz"], trained.theirs)
    (scored,) = json.loads((validation / "summary.json").read_text())["metric_per_case"]
    name = Path(scored["prediction_file"]).name
    assert (validation / name.replace(".nii.gz", ".npz")).is_file()
    (tmp_path / "images").mkdir()
    image = name.replace(".nii.gz", "_0000.nii.gz")
    (tmp_path / "images" / image).symlink_to(trained.prepared.root / "nnUNet_raw" / trained.prepared.name / "imagesTr" / image)
    predict = with_folders(printed, tmp_path / "images", tmp_path / "masks")
    stock(stock.predicting(predict), trained.theirs, cwd=tmp_path)
    assert same(voxels(validation, tmp_path / "images"), voxels(tmp_path / "masks", tmp_path / "images"))


def of_nnunet(trained: Trained, stock: Stock, name: str, printed: int = 0) -> dict[str, np.ndarray]:
    """What stock nnU-Net predicts with an exported member by one of the commands that the export has printed, once a run."""

    def fill(output: Path) -> None:
        command = with_folders(trained.exported[name][1][printed], trained.images, output)
        stock([*stock.predicting(command), QUICK], trained.theirs, cwd=output)

    return voxels(made_once(f"{trained.prepared.root.name} {name} {printed}", fill), trained.images)


def with_folders(command: str, images: Path, output: Path) -> list[str]:
    return [{"INPUT": str(images), "OUTPUT": str(output)}.get(word, word) for word in shlex.split(command)]


# ---------------------------------------------------------------------- where this package is not installed
def test_the_other_installation_is_without_us(stock: Stock, trained: Trained) -> None:
    if stock.python is None:
        with pytest.raises(AssertionError, match=r"ModuleNotFoundError: (No module named|import of) '?monai_prox"):
            stock(["monai-prox", "--help"], trained.theirs)
        return
    missing = "import importlib.util, nnunetv2, sys; print(importlib.util.find_spec('monai_prox'), sys.prefix)"
    done = fresh([missing], trained.theirs, cwd=trained.prepared.root, python=stock.python, launcher=["-c"])
    found, prefix = done.stdout.split()
    assert found == "None" and Path(prefix) == stock.python.parents[1]


@pytest.mark.parametrize(("name", "command"), [("largest", 1), ("coarse", 0)])
def test_stock_nnunet_predicts_with_an_exported_member(name: str, command: int, trained: Trained, stock: Stock) -> None:
    """By the very commands that the export has printed; the largest predicts what our trainer's checkpoint does."""
    commands = [shlex.split(line)[0] for line in trained.exported[name][1]]
    assert commands == ["nnUNetv2_predict_from_modelfolder", "nnUNetv2_predict"]
    assert same(of_nnunet(trained, stock, name, command), trained.largest_voxels) == (name == "largest")
    assert any(
        len(np.unique(segmentation)) > 1 for segmentation in trained.largest_voxels.values()
    )  # there is something to differ


FORMATS = {"bundle": "member", "onnx": "member.onnx", "openvino": "member.xml", "torchscript": "member.ts"}


@pytest.mark.parametrize(
    ("format", "name"),
    [
        *(("bundle", "coarse"), ("onnx", "coarse")),
        *(pytest.param(format, "largest", marks=pytest.mark.slow) for format in FORMATS),
    ],
)
def test_an_exported_bundle_or_file_predicts_as_nnunet_does(
    format: str, name: str, trained: Trained, stock: Stock, tmp_path: Path
) -> None:
    """MONAI's own command where this package is not installed, or ours, against stock nnU-Net's with the same member."""
    subnet = trained.coarse if name == "coarse" else name
    model, output = tmp_path / FORMATS[format], tmp_path / "ours"
    run(["monai-prox", "export", trained.model, "--subnet", subnet, "--format", format, "--output", model], trained.ours)
    if format == "bundle":
        bundle = ["--config_file", model / "configs" / "inference.json", "--bundle_root", model]
        where = ["--dataset_dir", trained.images, "--output_dir", output]
        stock(["monai.bundle", "run", *bundle, *where], trained.theirs, cwd=tmp_path)
    else:
        # nnU-Net's comparison of trainers may have found a postprocessing, which nnUNetv2_predict leaves to another command
        predict = ["monai-prox", "predict", model, "--no-postprocessing"]
        run([*predict, "-i", trained.images, "-o", output], trained.ours)
    found, nnunet = voxels(output, trained.images), of_nnunet(trained, stock, name)
    assert min(np.mean(found[case] == nnunet[case]) for case in nnunet) >= 0.999
    assert any(len(np.unique(segmentation)) > 1 for segmentation in nnunet.values())


def test_an_exported_member_travels_in_a_zip(trained: Trained, stock: Stock, tmp_path: Path) -> None:
    """To another machine, which has nothing of the dataset."""
    plans = trained.exported["largest"][0].name.split("__")[1]
    archive = tmp_path / "model.zip"
    where = ["-d", trained.prepared.identifier, "-o", archive, "-c", FULLRES, "-f", 0, "-p", plans]
    stock(["nnUNetv2_export_model_to_zip", *where], trained.theirs)
    elsewhere = environment(**folders(tmp_path / "elsewhere"))
    stock(["nnUNetv2_install_pretrained_model_from_zip", archive], elsewhere)
    command = with_folders(trained.exported["largest"][1][1], trained.images, tmp_path / "output")
    stock([*stock.predicting(command), QUICK], elsewhere)
    assert same(voxels(tmp_path / "output", trained.images), trained.largest_voxels)


def test_stock_nnunet_fine_tunes_an_exported_member(trained: Trained, stock: Stock, tmp_path: Path) -> None:
    """It preprocesses at the member's resolution, and starts from the member's weights."""
    prepared, folder = trained.prepared, trained.exported["smallest"][0]
    plans = folder.name.split("__")[1]
    trainers = write_trainers(tmp_path / "trainers", nnUNetTrainerOneStep)
    env = prepared.environment(nnUNet_extTrainer=trainers)
    stock(["nnUNetv2_preprocess", "-d", prepared.identifier, "-plans_name", plans, "-c", FULLRES, "-np", 1], env)
    weights = folder / "fold_0" / FINAL
    command = ["nnUNetv2_train", prepared.identifier, FULLRES, 0, "-tr", "nnUNetTrainerOneStep", "-p", plans]
    # nnU-Net's search imports all trainers of its package, and with them those that our installation has put there
    (stock if stock.python else run)([*command, "-pretrained_weights", weights, "-device", "cpu"], env)

    fold = prepared.root / "nnUNet_results" / prepared.name / f"nnUNetTrainerOneStep__{plans}__{FULLRES}" / "fold_0"
    assert (fold / "validation" / "summary.json").is_file()
    (log,) = fold.glob("training_log_*.txt")
    assert "train_loss nan" not in log.read_text()
    before = torch.load(weights, weights_only=True)["network_weights"]
    after = torch.load(fold / FINAL, weights_only=False)["network_weights"]
    assert before.keys() == after.keys()
    taken = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if ".seg_layers." not in name} <= taken  # those nnU-Net never takes over
