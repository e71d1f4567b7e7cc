"""``monai-prox plan``: what it shows is what ProXTrainer trains, and the entry is all that it changes in a plans file."""

import json
import os
import random
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.cases import with_cases
from helpers.hostile import spoil_json
from helpers.in_process import Done, prox
from helpers.nnunet_task import BARE_DATASET, FULLRES, TWO_MEMBERS, Prepared, bare_plans, make_trainer
from helpers.searches import made_up_device
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

from monai_prox.core import cost
from monai_prox.latency.case import CaseCosts
from monai_prox.latency.device import Device
from monai_prox.nnunet.plan_entry import PlannedTraining, plan_training
from monai_prox.nnunet.planned_family import PlannedFamily
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.nnunet.variants import ProXTrainerPaper
from monai_prox.report import count

pytest_plugins = ["helpers.nnunet_fixtures"]
NAME = "Dataset990_Phantom"
SPACE = {"depth": "full", "width": [0.5, 1.0], "levels": 0, "resolution": [1.0]}


def put(bare: Path, plans: Mapping[str, Any]) -> Path:
    """The plans as nnU-Net writes them, for a dataset that is planned."""
    folder = bare / "nnUNet_preprocessed" / NAME
    (folder / "dataset.json").write_text(json.dumps(BARE_DATASET))
    file = folder / f"{plans['plans_name']}.json"
    file.write_text(json.dumps(plans, indent=4))
    return file


def plan(*words: object, configuration: str = FULLRES) -> Done:
    return prox("plan", 990, "-c", configuration, "-p", "nnUNetPlans", *words)


def said(done: Done) -> str:
    assert done.code == 0, done.err
    return " ".join(done.out.split())


KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "PlainConvUNet": ({}, FULLRES),
    "ResidualEncoderUNet": ({"kind": "ResidualEncoderUNet"}, FULLRES),
    "two axes": ({"patch": (16, 24)}, "2d"),
}


# ---------------------------------------------------------------------- what is shown is what is trained
@pytest.mark.parametrize(("kind", "configuration"), KINDS.values(), ids=KINDS)
def test_a_written_entry_trains_what_was_shown(kind: dict[str, Any], configuration: str, bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans", **kind))
    words = ["--space", json.dumps(SPACE), "--recipe", "prox_paper", "--no-monitor"]
    shown = said(plan(*words, configuration=configuration))
    assert shown == said(plan(*words, "--write", configuration=configuration)).replace("written:", "with --write:")
    trainer = make_trainer(json.loads(file.read_text()), cls=ProXTrainer)
    trainer.initialize()
    planned = plan_training(file.parent, "nnUNetPlans", configuration, "ProXTrainer", {})
    assert planned.members and {member.name: member.subnet for member in planned.members} == trainer.named_members
    assert planned.engine.schedule == trainer.engine.schedule and planned.recipe == trainer.recipe_name == "prox_paper"
    assert planned.engine.supernet.family.space == trainer.supernet.family.space
    assert planned.engine.monitor is None and trainer.engine.monitor is None and "Monitor: off" in shown
    for name, subnet in trainer.named_members.items():
        family, patch = trainer.supernet.family, trainer.configuration_manager.patch_size
        costs = [count(cost.parameters(family, subnet)), count(cost.macs(family, subnet, patch))]
        assert re.search(rf"{name} │ {costs[0]} │ {costs[1]}", shown), (name, shown)
    assert f"{trainer.supernet.family.space.size():,} members" in shown and "Recipe prox_paper, 1000 epochs" in shown
    for stage, start in zip(trainer.engine.schedule.stages, trainer.engine.schedule.starts, strict=True):
        assert f"{stage.name} from epoch {start}: " in shown


@pytest.mark.parametrize("recipe", ["prox", "prox_paper", "progressive_shrinking", "sandwich"])
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_every_recipe_can_be_shown(recipe: str, kind: str, bare: Path) -> None:
    put(bare, bare_plans(kind, name="nnUNetPlans"))
    shown = said(plan("--recipe", recipe, "--space", "default"))
    assert f"Recipe {recipe}, 1000 epochs of ProXTrainer" in shown
    assert f'with --write: {{"space": "default", "recipe": "{recipe}"}}' in shown


def test_a_trainer_s_own_settings_count_for_what_the_plan_does_not_say(bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans", patch=(32, 32, 32)))
    planned = plan_training(file.parent, "nnUNetPlans", FULLRES, "ProXTrainerPaper", {})
    assert planned.recipe == "prox_paper" and planned.engine.supernet.family.choices == ProXTrainerPaper.choices
    shown = said(plan("-tr", "ProXTrainer_20epochs"))
    assert "Recipe prox, 20 epochs of ProXTrainer_20epochs" in shown and "Monitor: threshold 0.005, patience 3" in shown
    assert "the plan's entry: none" in shown and "--write" not in shown
    assert shown.endswith(f"Train: nnUNetv2_train {NAME} {FULLRES} 0 -tr ProXTrainer_20epochs -p nnUNetPlans")


def test_an_entry_of_a_configuration_that_is_inherited_counts(bare: Path) -> None:
    plans = bare_plans(name="nnUNetPlans", prox={"space": TWO_MEMBERS, "monitor": False})
    plans["configurations"]["3d_lowres"] = {"inherits_from": FULLRES, "spacing": [2.0, 2.0, 2.0]}
    file = put(bare, plans)
    shown = said(plan(configuration="3d_lowres"))
    assert "2 members" in shown and "Monitor: off" in shown
    shown = said(plan("--recipe", "sandwich", "--write", configuration="3d_lowres"))
    entry = {"space": TWO_MEMBERS, "monitor": False, "recipe": "sandwich"}
    assert f"the plan's entry: {json.dumps(plans['configurations'][FULLRES]['prox'])}" in shown
    assert f"written: {json.dumps(entry)}" in shown
    plans["configurations"]["3d_lowres"]["prox"] = entry
    assert json.loads(file.read_text()) == plans


@pytest.mark.slow
@pytest.mark.parametrize("plans", ["nnUNetPlans", "nnUNetResEncUNetMPlans"])
@pytest.mark.parametrize("configuration", [FULLRES, "2d"])
def test_the_plans_that_nnunet_makes_change_by_the_entry_alone(
    plans: str, configuration: str, in_phantom: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = in_phantom.preprocessed
    folder = tmp_path / "nnUNet_preprocessed" / NAME
    folder.mkdir(parents=True)
    for name in (f"{plans}.json", "dataset.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    said(prox("plan", NAME, "-c", configuration, "-p", plans, "--space", "default", "--write"))
    before, after = ((place / f"{plans}.json").read_text().splitlines() for place in (source, folder))
    added = [line for line in after if line not in before]
    assert "".join(line.strip() for line in added[-3:]) == '"prox": {"space": "default"}' and len(after) == len(before) + 3


# ---------------------------------------------------------------------- what is written
def test_nothing_else_in_the_file_changes(bare: Path) -> None:
    plans = bare_plans(name="nnUNetPlans") | {"of a user": {"z": 1, "a": [1.5e-7, "µ"]}}
    file = put(bare, plans)
    file.chmod(0o640)
    before = file.read_text()
    shown = said(plan("--recipe", "sandwich"))
    assert file.read_text() == before and 'with --write: {"recipe": "sandwich"}' in shown
    said(plan("--recipe", "sandwich", "--write"))
    after = file.read_text()
    assert after.replace(',\n            "prox": {\n                "recipe": "sandwich"\n            }', "") == before != after
    assert stat.S_IMODE(file.stat().st_mode) == (0o640 if os.name == "posix" else 0o666)
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".")] == []


def test_the_precision_is_shown_and_asked_for(bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans", prox={"space": TWO_MEMBERS}))
    assert "Precision: fp16 Final validation" in said(plan())
    assert "Precision: bf16 Final validation" in said(plan("--precision", "bf16", "--write"))
    entry = {"space": TWO_MEMBERS, "precision": "bf16"}
    assert json.loads(file.read_text())["configurations"][FULLRES]["prox"] == entry
    refused = plan("--precision", "fp32", "--write")
    assert refused.error.startswith("the plan's 'precision' is 'fp16' or 'bf16', got 'fp32'") and refused.out == ""
    assert json.loads(file.read_text())["configurations"][FULLRES]["prox"] == entry


def test_the_final_validation_is_shown_and_asked_for(bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans", prox={"space": TWO_MEMBERS}))
    assert "Final validation: smallest, largest the plan" in said(plan())
    asked = ["--validate", "smallest", "--validate", "smallest", "--no-validate-mirroring"]
    assert "Final validation: smallest, largest, without mirroring the plan" in said(plan(*asked, "--write"))
    entry = {"space": TWO_MEMBERS, "validate": ["smallest", "largest"], "validate_mirroring": False}
    assert json.loads(file.read_text())["configurations"][FULLRES]["prox"] == entry
    assert "Final validation: largest, without mirroring the plan" in said(plan("--validate", "largest"))
    before = file.read_text()
    assert "'validate' lists members, of smallest, largest, and always" in plan("--validate", "middle", "--write").error
    assert file.read_text() == before


@pytest.mark.parametrize(("word", "value"), [("2", 2), ("fill", "fill")])
def test_the_members_of_a_batch_are_shown_and_asked_for(word: str, value: int | str, bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans", prox={"space": TWO_MEMBERS}))
    assert "Members a batch: 1 Precision" in said(plan())
    assert f"Members a batch: {value} Precision" in said(plan("--members-per-batch", word, "--write"))
    entry = {"space": TWO_MEMBERS, "members_per_batch": value}
    assert json.loads(file.read_text())["configurations"][FULLRES]["prox"] == entry
    before = file.read_text()
    for wrong in ("0", "-1", "1.5", "full", "1000000000", "True", ""):
        refused = plan("--members-per-batch", wrong, "--write").error
        assert "the plan's 'members_per_batch' is a whole number from 1 to 8, or 'fill', got " in refused
    assert file.read_text() == before


def test_an_entry_is_shown_and_replaced_with_write_alone(bare: Path) -> None:
    former = {"space": TWO_MEMBERS, "recipe": "prox", "monitor": {"threshold": 0.002}}
    plans = bare_plans(name="nnUNetPlans", prox=former)
    file = put(bare, plans)
    before = file.read_text()
    shown = said(plan())
    assert f"the plan's entry: {json.dumps(former)}" in shown and "--write" not in shown
    assert "Monitor: threshold 0.002, patience 3" in shown
    shown = said(plan("--space", "default"))
    assert f"the plan's entry: {json.dumps(former)}" in shown
    assert f"with --write: {json.dumps(former | {'space': 'default'})}" in shown and file.read_text() == before
    said(plan("--space", "default", "--write"))
    plans["configurations"][FULLRES]["prox"] = former | {"space": "default"}
    assert json.loads(file.read_text()) == plans
    shown = said(plan("--space", "default", "--write"))
    assert "written" not in shown, "it is there already"


def test_a_link_to_plans_stays_one(bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans"))
    target = file.rename(bare / "shared.json")
    file.symlink_to(target)
    said(plan("--recipe", "sandwich", "--write"))
    assert file.is_symlink() and '"prox"' in target.read_text()


def test_a_file_that_cannot_be_written_stays(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans"))
    before = file.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("monai_prox.nnunet.plan_entry.shutil.copymode", full)
    done = plan("--recipe", "sandwich", "--write")
    assert done.code == 1 and done.err == f"error: {file}: No space left on device\n"
    assert file.read_text() == before and not list(file.parent.glob(".*"))


# ---------------------------------------------------------------------- one line where something is wrong
def strange(plans: dict[str, Any], **entries: Any) -> dict[str, Any]:
    plans["configurations"][FULLRES]["architecture"] |= entries
    return plans


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "big"], "the search space 'big' is not known; known by name: default, paper"),
        (["--space", "{'width': [1]}"], "--space is not valid JSON: "),
        (["--space", '{"width": [2]}'], "width must be ascending fractions that end in 1, got "),
        (["--space", "none.json"], "there is no file none.json"),
        (
            ["--recipe", "fast"],
            "the recipe 'fast' is not known; known: prox, prox_paper, progressive_shrinking, sandwich, adopt",
        ),
        (["-c", "3d_huge"], "has no configuration '3d_huge'; it has 3d_fullres"),
        (["-p", "Other"], "Other.json; there are nnUNetPlans"),
        (["-tr", "nnUNetTrainer"], "the trainer is nnUNetTrainer, which trains no family; take ProXTrainer or "),
        (["-tr", "Nobody"], "the trainer is 'Nobody': RuntimeError: Could not find requested nnunet trainer Nobody"),
    ],
)
def test_what_cannot_be_planned_is_one_line(words: list[str], message: str, bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans"))
    before = file.read_text()
    assert message in plan(*words).error
    assert message in plan(*words, "--no-monitor", "--write").error
    assert plan("--write").error.startswith("--write has nothing to write; give --space, --recipe, --monitor, --no-monitor, ")
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        (strange(bare_plans(name="nnUNetPlans"), network_class_name="my.Net"), "plans ask for the network my.Net; supported"),
        (
            bare_plans(name="nnUNetPlans", prox={"spaces": 1}),
            "the plan's 'prox' entry may have 'space', 'recipe', ",
        ),
        (
            bare_plans(name="nnUNetPlans", prox=[1]),
            "'validate_mirroring' and 'precision', got [1]",
        ),
    ],
    ids=["network", "entry", "list"],
)
def test_plans_that_cannot_be_elastic_are_refused_in_one_line(plans: dict[str, Any], message: str, bare: Path) -> None:
    put(bare, plans)
    for words in ([], ["--space", "default", "--write"]):
        assert message in plan(*words).error


@pytest.mark.parametrize("name", ["nnUNetPlans.json", "dataset.json"])
def test_spoilt_files_are_refused_in_one_line_and_stay_or_are_planned(name: str, bare: Path) -> None:
    happened = set()
    for seed in range(30):
        file = put(bare, bare_plans(name="nnUNetPlans", prox={"space": SPACE})).with_name(name)
        spoil_json(file, random.Random(seed))
        before = file.read_bytes()
        done = plan("--recipe", "sandwich", "--write")
        happened.add(done.code)
        assert done.code == 0 or (done.error and file.read_bytes() == before), seed
    assert happened == {0, 1}


def test_the_second_step_of_a_cascade_is_refused(bare: Path) -> None:
    plans = bare_plans(name="nnUNetPlans")
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": FULLRES, "previous_stage": "3d_lowres"}
    put(bare, plans)
    assert plan(configuration="3d_cascade_fullres").error.startswith("3d_cascade_fullres is the second step of a cascade")


def test_what_is_not_planned_is_one_line(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nnUNetPlans.json; plan the dataset first: nnUNetv2_plan_and_preprocess -d DATASET" in plan().error
    monkeypatch.delenv("nnUNet_preprocessed")
    assert plan().error.startswith("nnUNet_preprocessed is not set, ")


def test_a_variant_that_may_have_another_length_is_named() -> None:
    class Mine(ProXTrainer, nnUNetTrainerNoDA):
        pass

    class Short(Mine):
        epochs = 5

    names = {cls: PlannedTraining(Path(), "2d", {}, cls, None, {}, None).mixed_in for cls in (ProXTrainer, Mine, Short)}  # type: ignore[arg-type]
    assert names == {ProXTrainer: [], Mine: ["nnUNetTrainerNoDA"], Short: []}


# ---------------------------------------------------------------------- what a case takes on a device
def device_of(file: Path) -> tuple[PlannedFamily, Path]:
    """A made-up device's file of the members of a plan."""
    family = PlannedFamily(plan_training(file.parent, "nnUNetPlans", FULLRES, "ProXTrainer", {}))
    path = file.with_name("device.json")
    path.write_text(json.dumps(with_cases(made_up_device(family), family)))
    return family, path


def rows_of_the_table(shown: str) -> dict[str, list[str]]:
    """The cells of the last table by member, its headings left out."""
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in shown.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in rows if row[0] and len(row) in (5, 6)}


def test_members_of_a_plan_have_seconds_and_gigabytes_a_case(bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans", prox={"space": SPACE | {"resolution": [0.75, 1.0]}}))
    family, path = device_of(file)
    before = file.read_text()
    costs = CaseCosts.of(family, Device.read(path, family.supernet.family, family.size))
    members = {member.name: member.subnet for member in family.planned.members}
    seconds = {name: costs.seconds(subnet) for name, subnet in members.items()}
    done = plan("--profile", path)
    shown = rows_of_the_table(done.out)
    assert done.code == 0 and "A case of 38 x 49 x 34 voxels of 1 x 1 x 1 mm" in done.out and "ithin the budget" not in done.out
    for name, subnet in members.items():
        gigabytes = costs.ram_gb(subnet)
        assert gigabytes is not None
        assert shown[name][0] == str(costs.tiles(subnet))
        assert shown[name][2:] == [f"{seconds[name]:.3g}", f"{gigabytes:.3g}"]
    order = sorted(seconds, key=lambda name: seconds[name])
    limit = (seconds[order[1]] + seconds[order[2]]) / 2
    done = plan("--profile", path, "--max-seconds", limit, "--max-ram-gb", 4)
    shown = rows_of_the_table(done.out)
    assert {name for name in members if shown[name][-1] == "yes"} == set(order[:2])
    assert f"Within the budget: {', '.join(name for name in members if name in order[:2])}" in done.out
    assert "beside the network within 0.0%" in done.out and file.read_text() == before
    assert "Within the budget: none of these members" in plan("--profile", path, "--max-ram-gb", 0.001).out
    size = ["--case-shape", 60, 50, 40, "--case-spacing", 1, 1, 1.5]
    larger = rows_of_the_table(plan("--profile", path, *size).out)
    assert all(float(larger[name][2]) > seconds[name] for name in members)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-seconds", 5], "--max-seconds: for a device's file; give one by --profile, see "),
        (["--case-shape", 9, 9, 9, "--case-spacing", 1, 1, 1], "--case-shape: for a device's file"),
        (["--profile", "DEVICE", "--case-shape", 9, 9, 9], "--case-shape needs --case-spacing, too"),
        (["--profile", "DEVICE", "--case-spacing", 1, 1, 1], "--case-spacing needs --case-shape, too"),
        (["--profile", "DEVICE", "--case-shape", 9, 9, 0, "--case-spacing", 1, 1, 1], "an image of (9, 9, 0) voxels"),
        (["--profile", "DEVICE", "--max-seconds", 0], "the most time a case, s is 0.0; it must be above 0"),
        (["--profile", "DEVICE", "--space", "default"], "was measured with another family"),
        (["--profile", "none.json"], "there is no file none.json"),
    ],
)
def test_a_budget_that_cannot_be_shown_is_one_line(words: list[object], message: str, bare: Path) -> None:
    file = put(bare, bare_plans(name="nnUNetPlans", prox={"space": SPACE}))
    _, path = device_of(file)
    assert message in plan(*[path if word == "DEVICE" else word for word in words]).error
