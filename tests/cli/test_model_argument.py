"""nnU-Net's -d, -c, -tr, -p and -f in the place of a model folder."""

import json
from pathlib import Path

import pytest
from helpers.in_process import prox
from helpers.nnunet_task import CUT, FULLRES, TWO_LEVELS, TWO_MEMBERS, bare_model, bare_plans, write_held_out
from helpers.searches import hurry
from nnunetv2.utilities.file_path_utilities import get_output_folder

from monai_prox.cli.model_argument import dataset_name, folds_together, model_folder
from monai_prox.errors import ProXError
from monai_prox.files import write_json
from monai_prox.trained.nnunet_folder import ModelFolder

pytest_plugins = ["helpers.nnunet_fixtures"]
NAME = "Dataset990_Phantom"
COMMANDS = {
    "family": ["family"],
    "export": ["export", "--subnet", "smallest"],
    "search": ["search"],
    "profile pack": ["profile", "pack"],
    "profile measure": ["profile", "measure"],
}


@pytest.fixture
def model(bare: Path) -> ModelFolder:
    """Of ProXTrainerTiny, as nnU-Net's commands call it by -tr."""
    return bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **TWO_LEVELS), folds=(0, 1))


def named(model: ModelFolder) -> list[str]:
    trainer, plans, configuration = model.path.name.split("__")
    return ["-c", configuration, "-tr", trainer, "-p", plans]


@pytest.mark.parametrize("dataset", ["990", NAME])
def test_a_dataset_is_a_number_or_a_name(dataset: str, model: ModelFolder) -> None:
    by_name, by_folder = (prox("family", *words, "--json") for words in (["-d", dataset, *named(model)], [model.path]))
    assert by_name.code == 0, by_name.err
    assert by_name.out == by_folder.out and len(json.loads(by_name.out)) == 2


@pytest.mark.parametrize("dataset", ["990", "0990", NAME])
def test_the_defaults_are_nnunets(dataset: str, bare: Path) -> None:
    folder = bare / "nnUNet_results" / NAME / "ProXTrainer__nnUNetPlans__3d_fullres"
    folder.mkdir(parents=True)
    assert model_folder(None, dataset, None, None, None) == folder
    assert str(folder) == get_output_folder(990, "ProXTrainer")
    other = folder.with_name("Mine__nnUNetResEncUNetMPlans__2d")
    other.mkdir()
    assert model_folder(None, dataset, "2d", "Mine", "nnUNetResEncUNetMPlans") == other


@pytest.mark.parametrize("folds", [["0,1"], ["0", "1"], ["every"]], ids=" ".join)
def test_export_takes_them_and_several_folds(folds: list[str], model: ModelFolder, tmp_path: Path) -> None:
    done = prox("export", "-d", 990, *named(model), "-f", *folds, "--subnet", "smallest")
    assert done.code == 0, done.err
    folder = model.path.parent / f"nnUNetTrainer__{CUT}-prox-smallest__{FULLRES}"
    assert done.out.splitlines()[0] == str(folder)
    assert sorted(path.name for path in folder.glob("fold_*")) == ["fold_0", "fold_1"]


def test_search_and_profile_take_them(model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["one"]).parent))
    words = ["-d", NAME, *named(model), "-f", 0]
    done = prox("search", *words, "--trials", 1, "--finalists", 1)
    assert done.code == 0, done.err
    assert list(model.path.glob("search/macs-*/report.html"))
    file = tmp_path / "here.json"
    done = prox("profile", "measure", *words, "--members", 8, "--runtime", "torch", "--device", "cpu", "-o", file)
    assert done.code == 0 and file.is_file(), done.err


def test_family_of_a_fold_has_its_dice_alone(model: ModelFolder) -> None:
    for number, dice in ((0, 0.5), (1, 0.7)):
        file = model.path / f"fold_{number}" / "family.json"
        data = json.loads(file.read_text())
        write_json(data | {"members": [member | {"dice": {"mean": dice}} for member in data["members"]]}, file)
    for words, dice, said in ((["-f", 1], 0.7, "that fold_1 held out"), ([], 0.6, "that the folds held out")):
        members = json.loads(prox("family", model.path, *words, "--json").out)
        assert [member["dice"]["mean"] for member in members] == [pytest.approx(dice)] * 2
        assert said in " ".join(prox("family", model.path, *words).out.split())
    assert "has no finished fold_3; finished are fold_0, fold_1" in prox("family", model.path, "-f", 3).error


# ---------------------------------------------------------------------- one line where something is wrong
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_folder_and_a_dataset_or_neither_is_one_line(command: list[str], bare: Path) -> None:
    neither = "no model is given; give the trained folder MODEL, or -d DATASET of a model in nnUNet_results"
    assert prox(*command).error == neither
    both = prox(*command, "model", "-d", "990").error
    assert both == "give the folder MODEL or -d DATASET, not both, got 'model' and -d 990"
    assert prox(*command, "model", "-c", "2d", "-p", "x").error.startswith("-c, -p is for -d DATASET; the folder model names")


def test_folds_are_what_follows_their_option() -> None:
    for given in (["model", "-f", "0", "1", "all", "-d", "4"], ["--fold", "0", "2,3", "model"], ["-f", "every", "--", "1"]):
        together = folds_together(given)
        assert " ".join(together).replace(",", " ") == " ".join(given).replace(",", " ")
        option = next(index for index, word in enumerate(together) if word in ("-f", "--fold"))
        assert together[option + 1] in ("0,1,all", "0,2,3", "every")
    for given in (["0", "1"], ["-d", "4", "1"], ["-f", "model", "1"], ["-f"], ["-o", "0", "1", "-f", "0"]):
        assert folds_together(given) == given


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("991", "the dataset is 991; in nnUNet_raw, nnUNet_preprocessed and nnUNet_results nnU-Net finds no dataset with this"),
        (
            "990",
            "the dataset is 990; in nnUNet_raw, nnUNet_preprocessed and nnUNet_results nnU-Net finds Dataset990_Other, Data",
        ),
        ("Phantom", "the dataset is 'Phantom'; it must be a number such as 4, or a name such as Dataset004_Hippocampus"),
        ("Dataset990/../x", "the dataset is 'Dataset990/../x'; a name such as Dataset004_Hippocampus has no folders in it"),
    ],
)
def test_a_dataset_that_is_not_known_is_one_line(dataset: str, message: str, bare: Path) -> None:
    (bare / "nnUNet_raw" / "Dataset990_Other").mkdir()
    assert prox("family", "-d", dataset).error.startswith(message)
    with pytest.raises(ProXError):
        dataset_name(dataset)


def test_a_model_that_is_not_there_names_those_that_are(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model.path.with_name("ProXTrainer__nnUNetPlans__3d_fullres")
    assert prox("family", "-d", NAME).error == (
        f"there is no folder {folder}; of {NAME} there are {model.path.name}: choose by -c, -tr and -p"
    )
    assert "; there is no model of Dataset991_Other: choose" in prox("family", "-d", "Dataset991_Other").error
    monkeypatch.delenv("nnUNet_results")
    assert prox("family", "-d", NAME).error.startswith("nnUNet_results is not set, ")
