"""Every command of README.md, as it stands there: on tiny tasks, with a trainer of a few steps, in a folder of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import environments
from helpers.bundle_commands import ROOT, Trained, monai, trained_once
from helpers.commands import fresh, pip
from helpers.made_once import made_once
from helpers.nnunet_task import (
    FULLRES,
    TWO_MEMBERS,
    Prepared,
    ProXTrainerQuick,
    cut_plans,
    environment,
    folders,
    run,
    write_trainers,
)

pytest_plugins = ["helpers.nnunet_fixtures"]

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
SETUP = [line for line in LINES if line.startswith("python3 -m venv")]
BUNDLES = [line for line in LINES if "bundles/" in line or "_smallest" in line]
NNUNET = [line for line in LINES if line not in (*SETUP, *BUNDLES)]
NAME = ProXTrainerQuick.__name__
HIPPOCAMPUS = "Dataset004_Hippocampus"
QUICK = ["--trials", "2", "--cases", "1", "--finalists", "1"]


def words_of(line: str) -> list[list[str]]:
    """The commands of a line, each by its words."""
    return [shlex.split(command, comments=True) for command in line.split(" && ")]


def test_readme_can_be_read_in_minutes() -> None:
    assert len(README.split()) < 1000
    assert {language for language, _ in BLOCKS} == {"bash", "python"}


# ---------------------------------------------------------------------- nnU-Net
@pytest.fixture(scope="module")
def hippocampus(phantom: Prepared) -> Prepared:
    """The phantom as if it were nnU-Net's dataset 4, with a plan for tiny networks. It may be trained on once."""

    def fill(root: Path) -> None:
        folders(root)
        raw, preprocessed = root / "nnUNet_raw", root / "nnUNet_preprocessed" / HIPPOCAMPUS
        (raw / HIPPOCAMPUS).symlink_to(phantom.root / "nnUNet_raw" / phantom.name)
        preprocessed.mkdir()
        for path in phantom.preprocessed.iterdir():
            (preprocessed / path.name).symlink_to(path)
        plans = cut_plans(phantom.plans(), FULLRES, "nnUNetPlans", (16, 16, 16), shallow=True, prox={"space": TWO_MEMBERS})
        (preprocessed / "nnUNetPlans.json").unlink()
        Prepared(root, 4, HIPPOCAMPUS).write_plans(plans | {"dataset_name": HIPPOCAMPUS})

    return Prepared(made_once("readme", fill), 4, HIPPOCAMPUS)


def shortened(command: Sequence[str]) -> list[str]:
    """A command with the tiny trainer, on the processor, and a search of two members."""
    short = [NAME if word == "ProXTrainer" else word for word in command]
    if command[0] == "nnUNetv2_predict":
        return [*short, "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    if command[0] == "nnUNetv2_train":
        return [*short, "-device", "cpu"]
    if "-d" in command:
        short += ["-tr", NAME]
    return [*short, *QUICK] if command[1] == "search" else short


def test_the_commands_for_nnunet(hippocampus: Prepared, tmp_path: Path) -> None:
    (tmp_path / "IMAGES").mkdir()
    image = min((hippocampus.root / "nnUNet_raw" / HIPPOCAMPUS / "imagesTr").glob("*.nii.gz"))
    shutil.copy(image, tmp_path / "IMAGES")
    written = tmp_path / "SEGMENTATIONS" / image.name.replace("_0000", "")
    trainers = write_trainers(tmp_path / "trainers", ProXTrainerQuick)
    env = hippocampus.environment(nnUNet_extTrainer=trainers, nnUNet_results=tmp_path, nnUNet_n_proc_DA="0")
    for line in NNUNET:
        (command,) = words_of(line)
        run(shortened(command), env, cwd=tmp_path)
        if "SEGMENTATIONS" in command:
            written.unlink()
    model = tmp_path / HIPPOCAMPUS / f"{NAME}__nnUNetPlans__3d_fullres"
    assert len(list((model / "search").glob("**/report.html"))) == 1
    assert (tmp_path / HIPPOCAMPUS / "nnUNetTrainer__nnUNetPlans-prox-smallest__3d_fullres").is_dir()


# ---------------------------------------------------------------------- MONAI
def test_the_commands_for_monai(tmp_path: Path) -> None:
    """Bundles are trained by the same commands once for all tests of a run."""
    trained: dict[str, Trained] = {}
    (tmp_path / "bundles").mkdir()
    here = tmp_path
    for line in BUNDLES:
        for command in words_of(line):
            if "--config_file" in command and command[5].startswith("bundles/"):
                bundle = command[5].split("/")[1]
                trained[bundle] = trained_once(bundle, bundle, new=bundle == "hippocampus_prox")
                assert command[:6] == ["python", "-m", "monai.bundle", *trained[bundle].command[:3]]
                assert {word for word in command[6:] if word.startswith("--")} <= {"--task", "--dataset_dir"}
                (tmp_path / "bundles" / bundle).symlink_to(trained[bundle].bundle)
                (tmp_path / "IMAGES").unlink(missing_ok=True)
                (tmp_path / "IMAGES").symlink_to(trained[bundle].task / "imagesTr")
            elif command[0] == "cd":
                here = tmp_path / command[1]
            elif command[0] == "monai-prox":
                run(command, os.environ, cwd=here)
            else:
                monai([str(tmp_path / word) if word == "IMAGES" else word for word in command[3:]], cwd=here)
    assert set(trained) == {"brats_prox", "msd_prox"}
    assert len(list((here / "OUT").glob("*.nii.gz"))) == len(list((tmp_path / "IMAGES").iterdir()))


# ---------------------------------------------------------------------- Python
def test_the_python_runs() -> None:
    (code,) = (block for language, block in BLOCKS if language == "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert type(names["network"]).__name__ == "MobileNetV3"


# ---------------------------------------------------------------------- setting up
def test_ci_runs_the_test_command() -> None:
    """With the very line of .ci/run that looks for it."""
    (look,) = re.findall(r"^command=\$\((sed .* README\.md)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    found = subprocess.run(["bash", "-c", look], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found == [line for line in SETUP if "pytest" in line]


@pytest.mark.slow
def test_the_first_command_sets_up(tmp_path: Path) -> None:
    """Packages but this one are those of this environment. tests/cli/test_demo.py runs the demo."""
    (line,) = (line for line in SETUP if "pytest" not in line)
    venv, install, demo = words_of(line)
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "models", "eval", "results", "__pycache__"))
    assert venv == ["python3", "-m", "venv", ".venv"]
    environments.install(checkout / ".venv")
    python = checkout / ".venv" / "bin" / "python"
    assert install == [".venv/bin/pip", "install", "."]
    pip(python, "install", "--no-deps", checkout)
    assert demo == [".venv/bin/monai-prox", "demo"]
    done = fresh(["monai-prox", "demo", "--help"], environment(), cwd=tmp_path, python=python)
    assert done.returncode == 0, done.stdout + done.stderr
