"""Options of ``monai-prox export`` by format and by kind of family: each does something, or is refused."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from helpers.in_process import output_of, prox
from helpers.nnunet_task import FULLRES, SHALLOW, TWO_MEMBERS, bare_model, bare_plans, environment, run, write_held_out
from helpers.refusals import refused

from monai_prox.cli import export_command
from monai_prox.export.device_file import export_file
from monai_prox.export.options import folds_of, one_fold
from monai_prox.trained import door
from monai_prox.trained.nnunet_folder import FINAL, ModelFolder
from monai_prox.trained.source import Trained

pytest_plugins = ["helpers.nnunet_fixtures"]

BUNDLES = Path(__file__).parents[2] / "bundles"
FORMATS = ("nnunet", "bundle", "onnx", "openvino", "torchscript")
SOURCES = ("nnunet", "bundle", "classifier")
OPTIONS: dict[str, tuple[str, ...]] = {
    "fine_tune": ("--fine-tune",),
    "fold": ("--fold", "2"),
    "folds": ("--fold", "0", "2"),
    "every fold": ("--fold", "every"),
    "int8 of folds": ("--int8", "--fold", "0,2"),
    "fold all": ("--fold", "all"),
    "any_patch": ("--any-patch",),
    "int8": ("--int8",),
    "half": ("--half",),
    "portable": ("--portable",),
    "dataset": ("--dataset", "data"),
    "int8 and dataset": ("--int8", "--calibration", "data"),
    "overwrite": ("--overwrite",),
}
DEVICE = ("onnx", "openvino", "torchscript")
# Of each option the pairs of format and source that take it; all others are refused
TAKEN: dict[str, set[tuple[str, str]]] = {
    "fine_tune": {("nnunet", "nnunet")},
    "fold": set(product(FORMATS, ["nnunet"])),
    "folds": set(product(("nnunet", *DEVICE), ["nnunet"])),
    "every fold": set(product(("nnunet", *DEVICE), ["nnunet"])),
    "int8 of folds": set(),
    "fold all": set(product(FORMATS, ["nnunet"])),
    "any_patch": set(product(DEVICE, ["nnunet", "bundle"])),
    "int8": set(product(DEVICE[:2], SOURCES)),
    "half": set(product(DEVICE[:2], SOURCES[:2])),
    "portable": set(product(DEVICE, SOURCES)),
    "dataset": set(product(("bundle", *DEVICE), ["classifier"])),
    "int8 and dataset": set(product(DEVICE[:2], SOURCES)),
    "overwrite": set(product(FORMATS, SOURCES)) - {("nnunet", "bundle"), ("nnunet", "classifier")},
}


@pytest.fixture
def families(bare: Path) -> dict[str, Path]:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW)).path
    for other in ("fold_2", "fold_all"):
        shutil.copytree(model / "fold_0", model / other)
    return {"nnunet": model, "bundle": BUNDLES / "hippocampus_prox", "classifier": BUNDLES / "roct_prox"}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_reaches_what_exports_or_is_refused(
    option: str, families: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every format and source; what exports is replaced by what writes down with which options it was called."""
    seen: list[dict[str, Any]] = []

    def noting(*names: str) -> Callable[..., Any]:
        return lambda *values, **named: seen.append(dict(zip(names, values, strict=True)) | named)

    def opening(path: Path, *, fold: tuple[str, ...], dataset: Path | None, checkpoint: str | None) -> Trained:
        opened.append({"folds": fold, "dataset": dataset})
        return open_trained(path, fold=fold, dataset=dataset, checkpoint=checkpoint)

    open_trained, opened = door.open_trained, list[dict[str, Any]]()
    to_bundle = "source", "subnet", "output", "overwrite"
    monkeypatch.setattr(export_command, "_export_nnunet", noting(*to_bundle, "fine_tune"))
    monkeypatch.setattr(export_command, "_export_bundle", noting(*to_bundle))
    monkeypatch.setattr(export_command, "_export_file", noting(*to_bundle[:-1], "format"))
    monkeypatch.setattr(export_command, "say_licence", lambda source: None)  # of a family, and one is not trained
    monkeypatch.setattr(door, "open_trained", opening)
    for format, kind in product(FORMATS, SOURCES):
        seen.clear()
        words = ["export", families[kind], "--subnet", "largest", "--format", format, "--output", tmp_path / "out"]
        done = prox(*words, *OPTIONS[option])
        if (format, kind) not in TAKEN[option]:
            assert not seen, (format, kind)
            named = "a bundle's members become" if format == "nnunet" != kind else OPTIONS[option][0].removeprefix("--")
            assert named in done.error or "--fold is for nnU-Net" in done.error, (format, kind)
            continue
        assert done.code == 0, (format, kind, done.err)
        given = {name: value for one in (*seen, opened[-1]) for name, value in one.items()}
        wanted: dict[str, Any] = {
            "fold": {"folds": ("fold_2",)},
            "folds": {"folds": ("fold_0", "fold_2")},
            "every fold": {"folds": ("fold_every",)},
            "fold all": {"folds": ("fold_all",)},
            "dataset": {"dataset": Path("data")},
            "int8 and dataset": {"dataset": Path("data"), "int8": True},
        }.get(option, {option: True})
        assert wanted.items() <= given.items(), (format, kind, given)


def test_a_file_of_a_classifier_of_any_patch_is_refused_also_without_the_command(tmp_path: Path) -> None:
    source = door.open_trained(BUNDLES / "roct_prox")
    options: dict[str, Any] = {"any_patch": True}
    said = "--any-patch is for members that segment"
    refused(said, export_file, source, "largest", tmp_path / "a.onnx", "onnx", **options)


def test_folds_are_numbers_or_words() -> None:
    for given in (["0,2"], ["0", "2"], ["0 2"], ["0, 2"], [" 0,2 ", "0"]):
        assert folds_of(given) == ("fold_0", "fold_2")
    assert folds_of(["all"]) == ("fold_all",) and folds_of(["07", "all"]) == ("fold_7", "fold_all") and folds_of([]) == ()
    assert folds_of(["every"]) == ("fold_every",)
    for wrong in ("-1", "", "1.0", "fold_0", "ALL", "0-4", "../x"):
        refused("--fold is one or more numbers such as 0 or 0,1,2, or all or every; got", folds_of, [wrong])
    assert one_fold((), "a search") is None and one_fold(("fold_all",), "a search") == "fold_all"
    refused("a search has the network of one fold; give one --fold, got 0, all", one_fold, ("fold_0", "fold_all"), "a search")
    refused("a search has the network of one fold; give one --fold, got every", one_fold, ("fold_every",), "a search")


@pytest.fixture
def model(bare: Path) -> ModelFolder:
    """With the folds 2, 10 and all, and copies of a fold that are none."""
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW), folds=(2, 10))
    write_held_out_of(model)
    shutil.copytree(model.path / "fold_10", model.path / "fold_all")
    for name in ("fold_old", "fold_2_before"):
        shutil.copytree(model.path / "fold_10", model.path / name)
    return ModelFolder.open(model.path)


def write_held_out_of(model: ModelFolder) -> None:
    (model.path / "fold_0").symlink_to(model.path / "fold_2")
    write_held_out(model, ["one"])
    (model.path / "fold_0").unlink()


def test_folds_are_those_that_nnunet_names(model: ModelFolder) -> None:
    assert model.folds == ("fold_2", "fold_10", "fold_all")


@pytest.mark.parametrize(
    ("options", "folds"),
    [((), ["2", "10", "all"]), (("--fold", "10"), ["10"]), (("--fold", "all", "--output", "a b"), ["all"])],
)
def test_the_printed_commands_work_as_printed(
    options: tuple[str, ...], folds: list[str], model: ModelFolder, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"nnUNet_raw": bare / "raw", "nnUNet_preprocessed": bare, "nnUNet_results": model.path.parents[1]}
    env, images = environment(**known), bare / "raw" / "Dataset990_Phantom" / "imagesTr"
    monkeypatch.chdir(tmp_path)
    folder, *commands = output_of("export", model.path, "--subnet", "smallest", *options).splitlines()
    exported = tmp_path / folder
    assert sorted(path.name for path in exported.glob("fold_*")) == sorted(f"fold_{fold}" for fold in folds)
    programs = [shlex.split(command)[0] for command in commands]
    elsewhere = "--output" in options  # where nnUNetv2_predict does not look
    assert programs == ["nnUNetv2_predict_from_modelfolder", *([] if elsewhere else ["nnUNetv2_predict"])]
    for number, command in enumerate(commands):
        output = tmp_path / f"predicted {number}"
        words = [{"INPUT": images, "OUTPUT": output}.get(word, word) for word in shlex.split(command)]
        run([*words, "-device", "cpu", "-npp", "0", "-nps", "0"][: None if number else -4], env, cwd=tmp_path)
        assert (output / "one.nii.gz").is_file()


def test_what_is_found_by_name_is_only_in_the_results_of_this_shell(
    model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("nnUNet_results")
    for _ in range(2):  # without one, and with another
        (words,) = output_of("export", model.path, "--subnet", "smallest", "--overwrite").splitlines()[1:]
        assert words.startswith("nnUNetv2_predict_from_modelfolder")
        monkeypatch.setenv("nnUNet_results", str(tmp_path))


def test_a_fold_that_is_not_there_is_named(model: ModelFolder) -> None:
    error = prox("export", model.path, "--subnet", "smallest", "--fold", "2,3").error
    assert "has no finished fold_3; finished are fold_2, fold_10, fold_all" in error
    assert not list(model.path.parent.glob("nnUNetTrainer*"))


@pytest.mark.parametrize("command", [["search"], ["profile", "pack"], ["profile", "measure"]], ids=" ".join)
def test_other_commands_take_one_fold(
    command: list[str], model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where they would write
    words = [*command, model.path, "--fold"]
    assert "has the network of one fold; give one --fold, got 2, 10" in prox(*words, "2,10").error
    if command[0] == "profile":
        assert "--dataset is for classifiers" in prox(*words, "10", "--dataset", tmp_path).error
    else:
        assert "fold_all trained on all cases" in prox(*words, "all").error
    assert FULLRES in str(model.path) and (model.path / "fold_2" / FINAL).is_file()
