"""The demo as a user runs it, with a trainer of a few steps."""

import io
import json
import os
import shlex
import sys
import sysconfig
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.in_process import prox
from helpers.nnunet_task import (
    SHALLOW,
    TWO_MEMBERS,
    VARIABLES,
    Prepared,
    attempt,
    bare_model,
    bare_plans,
    environment,
    run,
    write_held_out,
)
from helpers.programs import Programs
from nnunetv2.utilities.crossval_split import generate_crossval_split
from rich.console import Console
from rich.progress import Progress

from monai_prox.cli.demo import PLANS, _prepare, _write_demo_plans, _write_split, next_commands
from monai_prox.cli.steps import Steps, find_script
from monai_prox.errors import ProXError
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.trained.door import open_trained
from monai_prox.trained.nnunet_folder import FAMILY
from monai_prox.trained.nnunet_plans import family_of

pytest_plugins = ["helpers.nnunet_fixtures", "helpers.program_fixtures"]


@pytest.mark.slow
def test_the_demo_ends_with_stock_models_a_table_and_a_plot(demonstrated: Path) -> None:
    work, output = demonstrated / "prox_demo", (demonstrated / "said").read_text(encoding="utf-8")
    rows = json.loads((work / "table.json").read_text())
    assert [row["name"] for row in rows] == ["smallest", "middle", "largest"]
    assert rows[0]["parameters"] < rows[-1]["parameters"] and rows[0]["macs"] < rows[1]["macs"] < rows[2]["macs"]
    assert all(set(row["scores"]) == {"mean", "anterior", "posterior"} and row["seconds"] > 0 for row in rows)
    assert (work / "family.png").read_bytes().startswith(b"\x89PNG")
    results = work / "nnUNet_results" / "Dataset990_Phantom"
    for name in ("smallest", "middle", "largest"):
        folder = results / f"nnUNetTrainer__nnUNetPlansDemo-prox-{name}__3d_fullres"
        assert (folder / "fold_0" / "checkpoint_final.pth").is_file()
        assert len(list((work / "predictions" / name).glob("*.nii.gz"))) == 2
        assert name in output
    assert "gives 100.000% of the voxels the same label" in output
    assert output.splitlines()[-4:][0] == "Next:" and "monai-prox search" in output.splitlines()[-1]


@pytest.mark.slow
def test_the_demo_of_a_few_slices(tmp_path: Path, programs: Programs) -> None:
    """Three images without a gzip, of one slice each, from within the task's folder, without loader processes."""
    task = tmp_path / "Task208_Nuclei"
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True)
    listed = []
    for index in range(3):
        y, x = np.mgrid[:48, :40]
        label = ((y - 20 - index) ** 2 + (x - 18) ** 2 < 60).astype(np.uint8)[..., None]
        image = (200 * label + np.random.default_rng(index).normal(100, 20, label.shape)).astype(np.float32)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), task / part / f"n{index}.nii")
        listed.append({"image": f"./imagesTr/n{index}.nii", "label": f"./labelsTr/n{index}.nii"})
    data = {"modality": {"0": "light"}, "labels": {"0": "Background", "1": "nucleus"}, "training": listed}
    (task / "dataset.json").write_text(json.dumps(data))
    command = [
        "monai-prox",
        "demo",
        "--task",
        ".",
        "--work",
        tmp_path / "work",
        "--quick",
        "--device",
        "cpu",
    ]
    variables = environment() | {"nnUNet_n_proc_DA": "0"}
    right = (task / "labelsTr" / "n1.nii").read_bytes()
    nib.save(nib.Nifti1Image(np.full((48, 40, 1), 7, np.uint8), np.eye(4)), task / "labelsTr" / "n1.nii")
    refused = attempt(command, variables, cwd=task, start=programs)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: nnUNetv2_plan_and_preprocess failed with exit code 1: Error: Unexpected labels")
    (task / "labelsTr" / "n1.nii").write_bytes(right)
    output = run(command, variables, cwd=task, start=programs)
    rows = json.loads((tmp_path / "work" / "table.json").read_text())
    assert all(row["scores"] == {} and row["seconds"] > 0 for row in rows) and len(rows) == 3
    assert output.splitlines()[:3] == [
        "Task into nnU-Net's raw format",
        "Plan and preprocess",
        "Train the supernet, ProXTrainerDemoQuick",
    ]


def test_the_next_commands_work_where_no_variable_is_set(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search among them only if the training has held out what it can score on."""
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))
    raw = write_held_out(model, ["one"]).rename(tmp_path / "a folder")
    for variable in VARIABLES:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    family, export = next_commands(open_trained(model.path), raw)
    path = model.path / "fold_0" / FAMILY
    written = json.loads(path.read_text())
    for member in written["members"]:
        member["dice"] = {"mean": 0.5, "anterior": 0.5, "posterior": 0.5}
    path.write_text(json.dumps(written))
    commands = next_commands(open_trained(model.path), raw)
    assert commands[:2] == [family, export] and len(commands) == 3
    for command in commands:
        program, *words = shlex.split(command)
        few = ["--trials", "2", "--finalists", "1"] if words[0] == "search" else []
        done = prox(*words, *few)
        assert program == "monai-prox" and done.code == 0, done.err
    assert (tmp_path / "smallest.onnx").is_file() and (model.path / "search").is_dir()


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (
            ["Using 2", "Error: Unexpected labels found in file a.nii.gz.", "RuntimeError: Some images"],
            "Error: Unexpected labels .*",
        ),
        (["Exception in background worker 0:", "torch.OutOfMemoryError: no memory"], r"torch\.OutOfMemoryError: no memory"),
        (["killed"], None),
    ],
    ids=["said", "raised", "nothing"],
)
def test_what_a_failed_step_says_is_in_the_error(output: list[str], why: str | None, tmp_path: Path) -> None:
    """The first of its errors, of which others are consequences."""
    step = steps(tmp_path / "log", Console(file=io.StringIO()))
    told = "" if why is None else f": {why}"
    with pytest.raises(ProXError, match=rf"python failed with exit code 3{told}; its output is in .*log$"):
        step.run(["python", "-c", f"print(*{output}, sep='\\n'); raise SystemExit(3)"], lambda _: None)
    assert [line for line in (tmp_path / "log").read_text().splitlines() if line in output] == output


def steps(log: Path, console: Console) -> Steps:
    return Steps(Progress(console=console, disable=True), log)


def test_what_nnunet_has_planned_is_what_is_trained(phantom: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3d_fullres where there is one, else 2d; nothing is preprocessed again."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    step = steps(tmp_path / "log", Console(file=io.StringIO()))
    for configurations in (("2d", "3d_fullres"), ("2d",)):
        name = f"Dataset{len(configurations):03d}_Phantom"
        folder = tmp_path / "nnUNet_preprocessed" / name
        plans = phantom.plans()
        plans["configurations"] = {one: plans["configurations"][one] for one in configurations}
        for one in configurations:
            (folder / f"nnUNetPlans_{one}").mkdir(parents=True)
            (folder / f"nnUNetPlans_{one}" / "case.pkl").touch()
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
        (tmp_path / "nnUNet_raw" / name).mkdir(parents=True)
        (tmp_path / "nnUNet_raw" / name / "dataset.json").write_text('{"numTraining": 1}')
        assert _prepare(step, 1, name, lambda _: None) == configurations[-1]
    assert not (tmp_path / "log").exists()


def test_nnunet_plans_with_no_more_processes_than_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setenv("nnUNet_def_n_proc", "3")
    step = steps(tmp_path / "log", Console(file=io.StringIO()))
    planned: list[str] = []

    def run(command: list[str], *_: object) -> None:
        planned.extend(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "run", run)
    with pytest.raises(KeyboardInterrupt):
        _prepare(step, 1, "Dataset001_A", lambda _: None)
    assert [planned[planned.index(option) + 1] for option in ("-np", "-npfp")] == ["3", "3"]


def test_scripts_are_found_beside_python_and_where_this_python_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(find_script("nnUNetv2_train")).name.startswith("nnUNetv2_train")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "Scripts"))
    ending = ".EXE" if os.name == "nt" else ""
    with pytest.raises(ProXError, match="nnUNetv2_train is missing; install nnunetv2 into this environment"):
        find_script("nnUNetv2_train")  # one that is on PATH is of another environment
    for folder in ("Scripts", "bin"):
        script = tmp_path / folder / f"nnUNetv2_train{ending}"
        script.parent.mkdir()
        script.touch(0o755)
        assert Path(find_script("nnUNetv2_train")) == script


def test_without_a_terminal_there_is_a_line_a_step(tmp_path: Path) -> None:
    for terminal in (False, True):
        said = io.StringIO()
        step = steps(tmp_path / "log", Console(file=said, force_terminal=terminal))
        with step("Plan and preprocess", 100) as bar:
            assert said.getvalue() == ("" if terminal else "Plan and preprocess\n")
            bar(50)


@pytest.mark.parametrize(
    ("patch", "strides", "expected"),
    [
        ((40, 56, 40), 4, [40, 56, 40]),
        ((128, 160, 96), 6, [64, 64, 64]),
        ((512, 320), 8, [256, 256]),
        ((1024, 1024), 9, [512, 512]),
    ],
    ids=["small", "large", "2d", "deep"],
)
def test_a_plan_is_cut_for_a_cpu_to_what_its_network_takes(
    patch: tuple[int, ...], strides: int, expected: list[int], tmp_path: Path
) -> None:
    """At least two voxels are left on the lowest level."""
    plans = bare_plans(patch=patch)
    (name,) = plans["configurations"]
    kwargs = plans["configurations"][name]["architecture"]["arch_kwargs"]
    axes = len(patch)
    kwargs |= {
        "n_stages": strides,
        "features_per_stage": [min(512, 32 * 2**level) for level in range(strides)],
        "strides": [[1] * axes] + [[2] * axes] * (strides - 1),
        "kernel_sizes": [[3] * axes] * strides,
        "n_conv_per_stage": [2] * strides,
        "n_conv_per_stage_decoder": [2] * (strides - 1),
    }
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    _write_demo_plans(tmp_path, name, "cpu")
    cut = json.loads((tmp_path / f"{PLANS}.json").read_text())["configurations"][name]
    assert cut["patch_size"] == expected and cut["batch_size"] == 2
    family = family_of(cut, input_channels=1, num_classes=2, choices=UNetChoices())
    assert family.space.size() > 1
    _write_demo_plans(tmp_path, name, "cuda")
    assert json.loads((tmp_path / f"{PLANS}.json").read_text())["configurations"][name]["patch_size"] == list(patch)


def test_a_split_holds_a_few_cases_of_nnunet_s_first_fold_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    labels = tmp_path / "Dataset001_A" / "labelsTr"
    labels.mkdir(parents=True)
    for count, name in enumerate("abcdefghijklmno", 1):
        (labels / f"{name}.1.nii.gz").touch()
        held_out = _write_split(tmp_path, "Dataset001_A", 2)
        (fold,) = json.loads((tmp_path / "splits_final.json").read_text())
        assert fold["val"] == held_out and fold["train"]
        if count == 2:
            assert fold == {"train": ["b.1"], "val": ["a.1"]}
    stock = generate_crossval_split([f"{name}.1" for name in "abcdefghijklmno"], seed=12345, n_splits=5)[0]
    assert fold["train"] == list(stock["train"]) and held_out == list(stock["val"])[:2] and len(stock["val"]) == 3
