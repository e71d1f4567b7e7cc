"""From a Decathlon task to stock models by nnU-Net's own commands, on real images, and into an installation without us.

Needs the folder Task04_Hippocampus of the Medical Segmentation Decathlon below the folder that MONAI_PROX_DATA names, and a
package index for the second environment.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunet_task import CUT, FULLRES, Prepared, cut_plans, environment, folders, prepare, run, write_trainers
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.nnunet.variants import ProXTrainerAdam

pytestmark = pytest.mark.slow

TASK = "Task04_Hippocampus"
CASES = 8
TRAINER = ["-tr", "ProXTrainerShort"]
QUICK = ["-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta"]
OFFLINE = (
    "NewConnectionError",
    "Temporary failure in name resolution",
    "No matching distribution found",
    "Network is unreachable",
)


class ProXTrainerShort(ProXTrainerAdam):
    """Long enough that its members predict more than background, each something else."""

    epochs = 10
    iterations_per_epoch = 200
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


@pytest.fixture(scope="module")
def decathlon() -> Path:
    """The task's folder of real images; without it nothing here runs."""
    if not os.environ.get("MONAI_PROX_DATA"):
        pytest.skip(f"MONAI_PROX_DATA is not set; it names the folder that has {TASK}")
    task = Path(os.environ["MONAI_PROX_DATA"], TASK).resolve()
    if not (task / "imagesTr").is_dir():
        pytest.skip(f"MONAI_PROX_DATA has no {TASK}/imagesTr")
    return task


@pytest.fixture(scope="module")
def installation(
    decathlon: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """A new environment with nnU-Net and without us, in the making: its process, its folder, and what pip has to say."""
    root = tmp_path_factory.mktemp("stock")
    subprocess.run([sys.executable, "-m", "venv", root / "environment"], check=True)
    packages = [
        f"{name}=={version(name).partition('+')[0]}" for name in ("nnunetv2", "torch", "monai", "pytorch-ignite", "fire")
    ]
    command = [root / "environment" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with (root / "log").open("w") as log:
        process = subprocess.Popen([*command, *packages], env=environment(), stdout=log, stderr=subprocess.STDOUT)
    yield process, root / "environment", root / "log"
    process.kill()
    process.wait()
    shutil.rmtree(root / "environment")  # several gigabytes


# ---------------------------------------------------------------------- with this package
@pytest.fixture(scope="module")
def hippocampus(decathlon: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The first cases of the task, planned and preprocessed by nnU-Net's commands, with a cut plan beside nnU-Net's."""
    root = tmp_path_factory.mktemp("hippocampus")
    task = root / TASK
    names = sorted(path.name for path in (decathlon / "labelsTr").glob("hippocampus_*.nii.gz"))[:CASES]
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True)
        for name in names:
            (task / part / name).symlink_to(decathlon / part / name)
    entries = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    changed = {"numTraining": len(names), "training": entries, "numTest": 0, "test": []}
    (task / "dataset.json").write_text(json.dumps(json.loads((decathlon / "dataset.json").read_text()) | changed))
    prepared = prepare(task, root)
    # Four levels, of which a member may lack one: with two, nnU-Net has no output left to weigh under deep supervision.
    # At most two tiles per axis: those nnU-Net and MONAI lay alike, and a network this weak would show where they do not.
    prepared.write_plans(cut_plans(prepared.plans(), FULLRES, CUT, (24, 40, 24), (4, 8, 16, 16)))
    return prepared


@pytest.fixture(scope="module")
def ours(hippocampus: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of commands that see ProXTrainerShort, and load batches in its process: then the seed decides them."""
    trainers = write_trainers(tmp_path_factory.mktemp("trainers") / "short", ProXTrainerShort)
    return hippocampus.environment(nnUNet_extTrainer=trainers, nnUNet_n_proc_DA="0")


@pytest.fixture(scope="module")
def trained(installation: object, hippocampus: Prepared, ours: dict[str, str]) -> Path:
    """The model folder after ``nnUNetv2_train`` of fold 0; meanwhile the other environment is installed."""
    run(["nnUNetv2_train", 4, FULLRES, 0, *TRAINER, "-p", CUT, "-device", "cpu"], ours)
    return hippocampus.root / "nnUNet_results" / "Dataset004_Hippocampus" / f"ProXTrainerShort__{CUT}__{FULLRES}"


@pytest.fixture(scope="module")
def images(hippocampus: Prepared) -> Path:
    """Two of the raw images, in a folder as nnU-Net predicts it."""
    folder = hippocampus.root / "images"
    folder.mkdir()
    for image in sorted((hippocampus.root / "nnUNet_raw" / hippocampus.name / "imagesTr").glob("*_0000.nii.gz"))[:2]:
        (folder / image.name).symlink_to(image)
    return folder


@pytest.fixture(scope="module")
def largest_voxels(trained: Path, ours: dict[str, str], images: Path) -> dict[str, np.ndarray]:
    """What ``nnUNetv2_predict`` with our trainer makes of the images: the largest member's segmentations."""
    output = images.with_name("predicted_by_our_trainer")
    where = ["-i", images, "-o", output, "-d", 4, "-c", FULLRES, "-p", CUT, "-f", 0]
    run(["nnUNetv2_predict", *where, *TRAINER, *QUICK], ours)
    return voxels(output, images)


@pytest.fixture(scope="module")
def exported(trained: Path, ours: dict[str, str]) -> dict[str, tuple[Path, list[str]]]:
    """By member, what ``monai-prox export`` has printed: its model folder, and commands that predict with it."""
    largest = next(m for m in json.loads((trained / "fold_0" / "family.json").read_text())["members"] if m["name"] == "largest")
    coarse = trained.parent.parent / "coarse.json"
    coarse.write_text(json.dumps(largest["subnet"] | {"resolution": [0.75]}))
    printed = {}
    for name, subnet in {"smallest": "smallest", "middle": "middle", "largest": "largest", "coarse": coarse}.items():
        lines = run(["monai-prox", "export", trained, "--subnet", subnet, "--fine-tune"], ours).splitlines()
        printed[name] = Path(lines[0]), [line for line in lines if line.startswith("nnUNetv2_predict")]
    return printed


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


def test_every_watched_member_is_validated(trained: Path) -> None:
    family = json.loads((trained / "fold_0" / "family.json").read_text())
    assert [member["name"] for member in family["members"]] == ["smallest", "small", "middle", "large", "largest"]
    macs = [member["macs"] for member in family["members"]]
    assert macs == sorted(set(macs))
    for member in family["members"]:
        assert set(member["dice"]) == {"mean", "1", "2"}
    others = {folder.parent.parent.name for folder in (trained / "fold_0" / "members").glob("*/validation/summary.json")}
    assert others == {"smallest", "small", "middle", "large"}


def test_nnunet_compares_our_trainer_with_others(trained: Path, ours: dict[str, str]) -> None:
    """Members' own validations do not disturb it."""
    where = ["-c", FULLRES, "-p", CUT, "-f", 0, "-np", 1, "--disable_ensembling"]
    run(["nnUNetv2_find_best_configuration", 4, *TRAINER, *where], ours)
    found = json.loads((trained.parent / "inference_information.json").read_text())
    assert found["best_model_or_ensemble"]["selected_model_or_models"] == [
        {"configuration": FULLRES, "trainer": "ProXTrainerShort", "plans_identifier": CUT}
    ]
    largest = json.loads((trained / "fold_0" / "validation" / "summary.json").read_text())
    assert found["all_results"][trained.name] == pytest.approx(largest["foreground_mean"]["Dice"])


def with_folders(command: str, images: Path, output: Path) -> str:
    return command.replace(" INPUT ", f" {images} ").replace(" OUTPUT", f" {output}")


# ---------------------------------------------------------------------- without this package
@pytest.fixture(scope="module")
def stock(installation: tuple[subprocess.Popen[bytes], Path, Path]) -> Path:
    """The interpreter of the new environment."""
    process, folder, log = installation
    said = "" if process.wait() == 0 else log.read_text()
    if any(word in said for word in OFFLINE):
        pytest.skip(f"the package index cannot be reached: {said.splitlines()[-1]}")
    assert process.returncode == 0, said
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def theirs(hippocampus: Prepared) -> dict[str, str]:
    """The environment of commands that have the results of the training, but not the trainers."""
    return hippocampus.environment()


def test_the_other_environment_is_without_us(stock: Path, theirs: dict[str, str], tmp_path: Path) -> None:
    missing = "import importlib.util, nnunetv2; print(importlib.util.find_spec('monai_prox'), nnunetv2.__path__[0])"
    found, nnunet = run(["python", "-c", missing], theirs, python=stock, cwd=tmp_path).split()
    assert found == "None"
    assert Path(nnunet).is_relative_to(stock.parent.parent)
    assert not list(Path(nnunet, "training").rglob("*prox*"))


@pytest.mark.parametrize(("name", "command"), [("largest", 1), ("middle", 1), ("coarse", 0)])
def test_stock_nnunet_predicts_with_an_exported_member(
    name: str,
    command: int,
    exported: dict[str, tuple[Path, list[str]]],
    largest_voxels: dict[str, np.ndarray],
    stock: Path,
    theirs: dict[str, str],
    images: Path,
    tmp_path: Path,
) -> None:
    """By the very commands that the export has printed; the largest predicts what our trainer's checkpoint does."""
    commands = [shlex.split(with_folders(command, images, tmp_path / "output")) for command in exported[name][1]]
    assert [words[0] for words in commands] == ["nnUNetv2_predict_from_modelfolder", "nnUNetv2_predict"]
    run([*commands[command], *QUICK], theirs, python=stock, cwd=tmp_path)
    assert same(voxels(tmp_path / "output", images), largest_voxels) == (name == "largest")
    assert any(len(np.unique(segmentation)) > 1 for segmentation in largest_voxels.values())  # there is something to differ


@pytest.mark.parametrize("name", ["largest", "coarse"])
@pytest.mark.parametrize("format", ["bundle", "onnx"])
def test_an_exported_bundle_or_file_predicts_as_nnunet_does(
    format: str,
    name: str,
    trained: Path,
    exported: dict[str, tuple[Path, list[str]]],
    ours: dict[str, str],
    stock: Path,
    theirs: dict[str, str],
    images: Path,
    tmp_path: Path,
) -> None:
    """MONAI's own command where this package is not installed, or ours, against stock nnU-Net's with the same member."""
    subnet = trained.parent.parent / "coarse.json" if name == "coarse" else name
    model, output = tmp_path / f"model.{format}", tmp_path / format
    run(["monai-prox", "export", trained, "--subnet", subnet, "--format", format, "--output", model], ours)
    if format == "bundle":
        bundle = ["--config_file", model / "configs" / "inference.json", "--bundle_root", model]
        where = ["--dataset_dir", images, "--output_dir", output]
        run(["python", "-m", "monai.bundle", "run", *bundle, *where], theirs, python=stock, cwd=tmp_path)
    else:
        run(["monai-prox", "predict", model, "-i", images, "-o", output], ours)
    command = with_folders(exported[name][1][0], images, tmp_path / "nnunet")
    run([*shlex.split(command), *QUICK], theirs, python=stock, cwd=tmp_path)
    found, nnunet = voxels(output, images), voxels(tmp_path / "nnunet", images)
    assert min(np.mean(found[case] == nnunet[case]) for case in nnunet) >= 0.999
    assert any(len(np.unique(segmentation)) > 1 for segmentation in nnunet.values())


def test_an_exported_member_travels_in_a_zip(
    exported: dict[str, tuple[Path, list[str]]],
    largest_voxels: dict[str, np.ndarray],
    stock: Path,
    theirs: dict[str, str],
    images: Path,
    tmp_path: Path,
) -> None:
    """To another machine, which has nothing of the dataset."""
    plans = exported["largest"][0].name.split("__")[1]
    archive = tmp_path / "model.zip"
    run(["nnUNetv2_export_model_to_zip", "-d", 4, "-o", archive, "-c", FULLRES, "-f", 0, "-p", plans], theirs, python=stock)
    elsewhere = environment(**folders(tmp_path / "elsewhere"))
    run(["nnUNetv2_install_pretrained_model_from_zip", archive], elsewhere, python=stock)
    command = with_folders(exported["largest"][1][1], images, tmp_path / "output")
    run([*shlex.split(command), *QUICK], elsewhere, python=stock)
    assert same(voxels(tmp_path / "output", images), largest_voxels)


def test_stock_nnunet_fine_tunes_an_exported_member(
    exported: dict[str, tuple[Path, list[str]]], hippocampus: Prepared, stock: Path, tmp_path: Path
) -> None:
    """It preprocesses at the member's resolution, and starts from the member's weights."""
    plans = exported["smallest"][0].name.split("__")[1]
    trainers = write_trainers(tmp_path / "trainers", nnUNetTrainerOneStep)
    env = hippocampus.environment(nnUNet_extTrainer=trainers)
    run(["nnUNetv2_preprocess", "-d", 4, "-plans_name", plans, "-c", FULLRES, "-np", 1], env, python=stock)
    weights = exported["smallest"][0] / "fold_0" / "checkpoint_final.pth"
    command = ["nnUNetv2_train", 4, FULLRES, 0, "-tr", "nnUNetTrainerOneStep", "-p", plans, "-pretrained_weights", weights]
    run([*command, "-device", "cpu"], env, python=stock)

    fold = hippocampus.root / "nnUNet_results" / hippocampus.name / f"nnUNetTrainerOneStep__{plans}__{FULLRES}" / "fold_0"
    assert (fold / "validation" / "summary.json").is_file()
    (log,) = fold.glob("training_log_*.txt")
    assert "train_loss nan" not in log.read_text()
    before = torch.load(weights, weights_only=True)["network_weights"]
    after = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert before.keys() == after.keys()
    taken = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if ".seg_layers." not in name} <= taken  # those nnU-Net never takes over
