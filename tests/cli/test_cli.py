"""The command ``monai-prox`` as a user runs it: what it prints, and one line where something is wrong."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.commands import forked
from helpers.nnunet_task import CUT, FULLRES, TWO_MEMBERS, VARIABLES, attempt, bare_model, bare_plans, environment, folders, run
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from monai_prox.cli.doctor import trainers_folder
from monai_prox.files import write_json
from monai_prox.trained.nnunet_folder import FINAL, ModelFolder

pytest_plugins = ["helpers.nnunet_fixtures"]


@pytest.fixture
def model(bare: Path) -> ModelFolder:
    return bare_model(bare_plans(prox={"space": TWO_MEMBERS}))


def prox(*arguments: object, cwd: Path, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    return attempt(["monai-prox", *arguments], environment(**variables), cwd=cwd)


def the_error(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that failed as it should: on one line of standard error, and nothing else there."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_help_names_the_commands(tmp_path: Path) -> None:
    text = run(["monai-prox", "--help"], environment(), cwd=tmp_path)
    for command in ("demo", "export", "predict", "family", "search", "profile", "doctor", "trainers"):
        assert command in text


# ---------------------------------------------------------------------- family
def test_family_for_programs_is_json_and_nothing_else(model: ModelFolder, tmp_path: Path) -> None:
    done = prox("family", model.path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    members = json.loads(done.stdout)
    assert members == json.loads((model.path / "fold_0" / "family.json").read_text())["members"]
    assert [member["name"] for member in members] == ["smallest", "largest"]


def test_family_for_people_is_a_table(model: ModelFolder, tmp_path: Path) -> None:
    done = prox("family", model.path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("member", "parameters", "MACs", "smallest", "largest"):
        assert word in " ".join(done.stdout.split())
    assert "smallest: levels 3, resolution 0.75, depth 2, decoder depth 2, width 4-16, kernel 3" in done.stdout


def test_the_family_has_the_labels_names_and_says_what_its_dice_are_of(model: ModelFolder, tmp_path: Path) -> None:
    """fold_all is validated on what it was trained on: it counts only where there is nothing else."""
    data = json.loads((model.path / "fold_0" / "family.json").read_text())

    def fold(name: str, dice: float) -> None:
        scored = [member | {"dice": {"mean": dice, "1": dice, "2": dice}} for member in data["members"]]
        (model.path / name).mkdir(exist_ok=True)
        (model.path / name / FINAL).touch()
        write_json(data | {"members": scored}, model.path / name / "family.json")

    fold("fold_0", 0.5)
    fold("fold_1", 0.7)
    fold("fold_all", 1.0)
    members = ModelFolder.open(model.path).family().members
    assert members[0].scores == {key: pytest.approx(0.6) for key in ("mean", "anterior", "posterior")}
    said = " ".join(prox("family", model.path, cwd=tmp_path).stdout.split())
    assert "anterior" in said and "posterior" in said and "0.600" in said and "cases that the folds held out" in said
    for name in ("fold_0", "fold_1"):
        shutil.rmtree(model.path / name)
    said = " ".join(prox("family", model.path, cwd=tmp_path).stdout.split())
    assert (
        "1.000" in said and "cases that it was trained on, for fold_all holds none out" in said and "cases that the" not in said
    )


# ---------------------------------------------------------------------- export
def test_export_prints_the_folder_and_how_to_predict(model: ModelFolder, tmp_path: Path) -> None:
    command = ["monai-prox", "export", model.path, "--subnet", "smallest"]
    said = run(command, environment(**folders(tmp_path)), cwd=tmp_path)
    folder = model.path.parent / f"nnUNetTrainer__{CUT}-prox-smallest__{FULLRES}"
    lines = said.splitlines()
    assert lines[0] == str(folder) and (folder / "fold_0" / FINAL).is_file()
    assert f"nnUNetv2_predict_from_modelfolder -m {shlex.quote(str(folder))} -f 0 -i INPUT -o OUTPUT" in said
    assert f"nnUNetv2_predict -d Dataset990_Phantom -c {FULLRES} -p {CUT}-prox-smallest -f 0 -i INPUT -o OUTPUT" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subnet", "tiny"], "there is no member 'tiny'; known: smallest, largest"),
        (["--subnet", "tiny.json"], "there is no file tiny.json"),
        (["--subnet", "largest", "--format", "docx"], "the format 'docx' is not known; allowed: "),
        (["--subnet", "largest", "--format", "onnx"], "give --output, the folder of the bundle, or the file to write"),
        (["--subnet", "largest", "--format", "onnx", "--output", "m.xml"], "a file of the format onnx ends in .onnx"),
        (
            ["--subnet", "largest", "--format", "onnx", "--output", "m.onnx", "--int8"],
            "has no validation/summary.json, so no case is known that it was not trained on",
        ),
        (
            ["--subnet", "largest", "--format", "torchscript", "--output", "m.ts", "--int8"],
            "there is no int8 for torchscript; allowed: onnx, openvino",
        ),
        (
            ["--subnet", "largest", "--int8"],
            "--int8, --half, --any-patch and --portable are for files for devices, --format onnx, openvino, torchscript, html",
        ),
        (["--subnet", "largest", "--fine-tune"], "nnUNet_preprocessed is not set"),
        (["--subnet", "largest", "--output", str(Path(__file__, "exported"))], f"cannot write {Path(__file__, 'exported')}"),
    ],
    ids=[
        "unknown member",
        "missing file",
        "format",
        "no file",
        "wrong ending",
        "nothing held out",
        "integers of torch",
        "integers of nnU-Net",
        "fine-tune",
        "unwritable",
    ],
)
def test_an_export_that_cannot_be_is_one_line(arguments: list[str], message: str, model: ModelFolder, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert message in the_error(prox("export", model.path, *arguments, cwd=tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [["family"], ["export", "--subnet", "largest"]], ids=["family", "export"])
def test_a_missing_model_folder_is_one_line(command: list[str], tmp_path: Path) -> None:
    model = Path("no", "model")
    error = the_error(prox(command[0], model, *command[1:], cwd=tmp_path))
    assert error == f"there is no folder {model}"
    (tmp_path / model).mkdir(parents=True)
    error = the_error(prox(command[0], model, *command[1:], cwd=tmp_path))
    assert error.startswith(f"{model} is no bundle of a supernet, nor its models: there is no family.json")
    assert "it is not a trained model folder: it has no plans.json, expected e.g. nnUNet_results/" in error


def test_a_truncated_checkpoint_is_one_line(model: ModelFolder, tmp_path: Path) -> None:
    file = model.path / "fold_0" / FINAL
    file.write_bytes(file.read_bytes()[:1000])
    error = the_error(prox("export", model.path, "--subnet", "largest", cwd=tmp_path))
    assert f"{file} is not a whole checkpoint of nnU-Net" in error


def test_brackets_in_a_path_are_printed_as_they_are(model: ModelFolder, tmp_path: Path) -> None:
    """The printer would take them for markup."""
    assert the_error(prox("family", "[old] model", cwd=tmp_path)) == "there is no folder [old] model"
    done = prox("export", model.path, "--subnet", "largest", "--output", "[new] model", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "[new] model"


# ---------------------------------------------------------------------- doctor and trainers
def test_doctor_finds_nothing_missing(tmp_path: Path) -> None:
    done = prox("doctor", cwd=tmp_path, **folders(tmp_path), nnUNet_extTrainer=trainers_folder())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing" not in done.stdout
    for name in (*VARIABLES, "nnunetv2", "torch", "ProXTrainer", "device"):
        assert name in done.stdout


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    known = folders(tmp_path)
    set_wrongly = {"nnUNet_raw": tmp_path / "nowhere", "nnUNet_results": known["nnUNet_results"]}
    done = prox("doctor", cwd=tmp_path, **set_wrongly, nnUNet_extTrainer=trainers_folder())
    assert done.returncode == 1
    missing = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line.startswith("missing")]
    assert [name for _, name, _ in missing] == ["nnUNet_raw", "nnUNet_preprocessed"]
    assert missing[0][2] == f"{tmp_path}/nowhere is not a folder; mkdir -p {tmp_path}/nowhere"
    assert missing[1][2] == "not set; export nnUNet_preprocessed=/a/folder"


def test_trainers_is_a_folder_in_which_nnunet_finds_ours(tmp_path: Path) -> None:
    folder = Path(run(["monai-prox", "trainers"], environment(), cwd=tmp_path).strip())
    assert folder.is_absolute() and (folder / "prox_trainers.py").is_file()
    trainer = recursive_find_python_class(str(folder), "ProXTrainer_100epochs", None, base_folder=str(folder))
    assert trainer is not None and trainer.epochs == 100


# ---------------------------------------------------------------------- demo
@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_one_line_with_the_pip_command(package: str, model: ModelFolder, tmp_path: Path) -> None:
    words = ["monai-prox", "export", model.path, "--subnet", "smallest", "--format", "onnx", "--output", tmp_path / "s.onnx"]
    done = forked(words, environment(), without=[package])
    assert the_error(done) == f'this command needs a package: {package} is not installed: pip install "monai-prox[onnx]"'


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "--device is 'gpu'; allowed: cpu, cuda, mps. Of several GPUs, choose by CUDA_VISIBLE_DEVICES"),
        ("cuda:1", "--device is 'cuda:1'; allowed: cpu, cuda, mps"),
        ("mps", "--device is mps, and torch finds none on this machine"),
    ],
)
def test_demo_on_an_unknown_device_is_one_line_before_any_work(device: str, message: str, tmp_path: Path) -> None:
    assert message in the_error(prox("demo", "--work", tmp_path / "work", "--device", device, cwd=tmp_path))
    assert not (tmp_path / "work").exists()


def test_demo_of_an_unknown_task_names_those_known(tmp_path: Path) -> None:
    error = the_error_of_demo("NoSuchTask", tmp_path)
    assert error.startswith("NoSuchTask is neither a folder nor a Decathlon task to download; known tasks: Task01_BrainTumour")


def test_demo_of_a_folder_that_is_no_task_says_what_lacks(tmp_path: Path) -> None:
    (tmp_path / "Task04_Hippocampus" / "imagesTr").mkdir(parents=True)
    assert "Task04_Hippocampus has no dataset.json" in the_error_of_demo("Task04_Hippocampus", tmp_path)


def the_error_of_demo(task: str, folder: Path) -> str:
    """The last line of standard error; progress bars go to standard output."""
    done = prox("demo", "--task", task, "--work", "work", cwd=folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Traceback" not in done.stdout
    return line.removeprefix("error: ")
