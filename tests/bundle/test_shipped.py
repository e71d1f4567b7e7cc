"""Bundles that come with the package, made into folders of their own."""

import json
from pathlib import Path

import pytest
from helpers.in_process import prox
from helpers.refusals import refused
from monai.bundle import ConfigParser

from monai_prox.bundle.shipped import init_bundle, shipped, shipped_folder
from monai_prox.cli.completion import BUNDLES
from monai_prox.files import _host


def test_the_bundles_are_those_that_the_shell_completes() -> None:
    assert shipped() == list(BUNDLES)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_is_whole_and_stands_by_itself(name: str, tmp_path: Path) -> None:
    done = prox("init-bundle", name, tmp_path / "mine")
    assert "`bundles`" not in (tmp_path / "mine" / "docs" / "README.md").read_text()
    assert done.code == 0 and "python -m monai.bundle run --config_file configs/train.json" in done.out
    source, made = shipped_folder() / name, tmp_path / "mine"
    written = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    assert written == {path.relative_to(source) for part in ("configs", "docs") for path in (source / part).iterdir()} | {
        Path("LICENSE")
    }
    for path in (source / "configs").glob("*.json"):
        own, others = json.loads((made / "configs" / path.name).read_text()), json.loads(path.read_text())
        assert own.get("bundle_root", ".") == "."
        changed = {"bundle_root": ".", "eval_metrics": {}}  # nothing was validated here, and there are no weights
        others.pop("weights_license", None)
        assert own == others | {key: changed[key] for key in changed.keys() & others.keys()}
    parser = ConfigParser()
    parser.read_config(made / "configs" / "train.json")
    assert parser.get_parsed_content("ckpt_dir") == "./models"


def test_another_task_is_named_wherever_the_example_was(tmp_path: Path) -> None:
    assert prox("init-bundle", "msd_prox", tmp_path / "liver", "--task", "Task03_Liver").code == 0
    readme = (tmp_path / "liver" / "docs" / "README.md").read_text()
    assert "--dataset_dir DATA/Task03_Liver" in readme and "DATA/Task09_Spleen" not in readme
    train, inference = (json.loads((tmp_path / "liver" / "configs" / f"{n}.json").read_text()) for n in ("train", "inference"))
    assert train["task"] == "Task03_Liver" and inference["dataset_dir"] == "/workspace/data/Task03_Liver"
    parser = ConfigParser()
    parser.read_config(tmp_path / "liver" / "configs" / "train.json")
    assert parser.get_parsed_content("dataset_dir") == "/workspace/data/Task03_Liver"


def test_what_cannot_be_made_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refused(
        "there is no bundle 'spleen'; there are brats_prox, hippocampus_prox, msd_prox, roct_prox",
        init_bundle,
        "spleen",
        tmp_path,
    )
    refused("full exists; name a folder that is not there yet", init_bundle, "msd_prox", tmp_path / "full")
    refused("mine.txt exists", init_bundle, "msd_prox", tmp_path / "full" / "mine.txt")
    refused("brats_prox is for one task; msd_prox takes --task", init_bundle, "brats_prox", tmp_path / "b", "Task03_Liver")
    for task in ("Liver", "Task03_Liver/..", "../Task03_Liver"):
        refused("it is the name of a Decathlon task's folder", init_bundle, "msd_prox", tmp_path / "b", task)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused("link exists", init_bundle, "msd_prox", tmp_path / "link")


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be where somebody is, or a link, or on a disk of its own."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / f".configs.{_host()}.999999999.abc.unfinished").mkdir()  # of a process that was killed
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "link")
    assert prox("init-bundle", "roct_prox", ".").code == 0
    assert sorted(path.name for path in Path().iterdir()) == ["LICENSE", "configs", "docs"]
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "configs" / "train.json").is_file()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    refused("mine: No space left on device", init_bundle, "msd_prox", tmp_path / "mine")
    assert not list(tmp_path.iterdir())
