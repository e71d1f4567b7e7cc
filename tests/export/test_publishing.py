"""A family as the model zoo and Hugging Face want it: what is written, what is asked, what is checked, and what is sent."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import huggingface_hub
import monai.bundle
import pytest
import torch
import yaml
from helpers.bundle_checks import check_zoo_rules, check_zoo_test, schema, zoo_test
from helpers.bundle_commands import trained_once
from helpers.in_process import prox
from helpers.made_once import made_once
from helpers.nnunet_task import SHALLOW, TWO_MEMBERS, bare_folders, bare_model, bare_plans
from helpers.pipelines import trained_organ
from helpers.refusals import refused
from huggingface_hub.errors import HfHubHTTPError
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.export.bundle import license_text
from monai_prox.export.publishing import checks
from monai_prox.export.publishing.details import Details
from monai_prox.export.publishing.folder import publish
from monai_prox.export.publishing.hub import upload
from monai_prox.export.publishing.licence import Licence
from monai_prox.export.publishing.licence_tags import TAGS
from monai_prox.export.publishing.member_bundle import bundle_name, check_name
from monai_prox.trained.door import open_trained
from monai_prox.trained.family_file import FamilyFile

pytest_plugins = ["helpers.nnunet_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

NAME, OWNER = "phantom_mri", "our-clinic"
MEMBERS = ("smallest", "largest")
SAID = ["--authors", "A. Müller; B. Ito", "--copyright", "Copyright (c) 2026 Our Clinic", "--licence", "cc-by-sa-4.0"]
SHAREALIKE = Licence.of("cc-by-sa-4.0")
NECESSARY = ["LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"]


def details(**changes: Any) -> Details:
    return Details(**{"authors": "A", "copyright": "B", "licence": SHAREALIKE, **changes})


@pytest.fixture(scope="module")
def schema_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not the zoo's, which is not everywhere."""
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    path.write_text(json.dumps({"type": "object", "properties": {"authors": {"type": "string"}}, "required": ["authors"]}))
    return path


@pytest.fixture(scope="module")
def family() -> Path:
    """A model folder of two folds, of which the first was validated better."""

    def fill(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            bare_folders(folder, patch)
            model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW), folds=(0, 1))
        for fold, mean in enumerate((0.75, 0.25)):
            path = model.path / f"fold_{fold}"
            known = FamilyFile.read(path / "family.json")
            scores = [{"mean": mean + 0.0625 * place, "1": 0.5, "2": 0.5} for place in range(2)]
            validated = [replace(member, scores=of) for member, of in zip(known.members, scores, strict=True)]
            replace(known, members=tuple(validated), validated_epoch=known.epochs).write(path)
        model.path.rename(folder / "model")

    return made_once("publishing", fill) / "model"


@pytest.fixture(scope="module")
def published(family: Path, schema_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / NAME
    command = ["publish", family, "--to", folder, *SAID, "--owner", OWNER, "--version", "1.2.0", "--schema", schema_file]
    with pytest.warns(UserWarning, match="orientation is not known") as caught:
        done = prox(*command)
    assert done.code == 0, done.err
    assert sum("orientation is not known" in str(warning.message) for warning in caught) == 1, "not one for each member"
    lines = done.out.splitlines()
    found = "files complete; metadata fits its schema; network fits its metadata"
    assert [line for line in lines if found in line] == [f"{NAME}_{member}: {found}" for member in MEMBERS]
    assert f"monai-prox upload {folder} --owner {OWNER}" in lines
    return folder


@pytest.fixture
def own(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(published, tmp_path / NAME))


def bundle(folder: Path, member: str) -> Path:
    return folder / "models" / f"{NAME}_{member}"


# ---------------------------------------------------------------------- what is written
def test_the_card_has_tags_members_and_their_front(published: Path) -> None:
    begin, front, card = (published / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert begin == "" and yaml.safe_load(front) == {
        "license": "cc-by-sa-4.0",
        "library_name": "monai",
        "pipeline_tag": "image-segmentation",
        "tags": ["monai", "medical"],
    }
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("| [")]
    places = [f"[{NAME}_{member}](https://huggingface.co/{OWNER}/{NAME}_{member})" for member in MEMBERS]
    assert [row[0] for row in rows] == places
    assert [row[3] for row in rows] == ["0.750", "0.812"], "of the fold whose networks are published, not of the mean"
    assert "whole cases that fold_0 held out" in card and "A. Müller; B. Ito" in card
    assert "not stated in its dataset.json" in card, "the licence of the data"
    assert "![Dice over MACs of the members](front.png)" in card
    assert (published / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("member", MEMBERS)
def test_a_bundle_says_what_its_publisher_said(published: Path, member: str) -> None:
    folder = bundle(published, member)
    check_zoo_rules(folder, [*NECESSARY, "docs/data_license.txt"])
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    archive = {"metadata.json": b""}
    torch.jit.load(folder / "models" / "model.ts", _extra_files=archive)
    for written in (metadata, json.loads(archive["metadata.json"])):
        assert (written["authors"], written["copyright"]) == ("A. Müller; B. Ito", "Copyright (c) 2026 Our Clinic")
        assert (written["version"], list(written["changelog"])) == ("1.2.0", ["1.2.0"])
    code, weights = (folder / "LICENSE").read_text(encoding="utf-8").split(f"\n{'-' * 79}\n")
    assert license_text().strip() in code and "all files except the model weights" in code
    assert "Copyright (c) 2026 Our Clinic" in weights and "cc-by-sa-4.0" in weights and "Apache" not in weights
    readme = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert "`cc-by-sa-4.0`" in readme.partition("# License")[2] and "their trainers' to license" not in readme
    assert not list(folder.glob("prox_export.json"))


def test_large_files_are_found_at_their_addresses(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By MONAI's own download, with the digests."""
    folder, asked = bundle(published, "smallest"), []
    weights = {name: (folder / "models" / name).read_bytes() for name in ("model.pt", "model.ts")}
    shutil.copyfile(folder / "large_files.yml", tmp_path / "large_files.yml")

    def download(url: str, filepath: str, **digest: Any) -> None:
        asked.append(url)
        content = weights[Path(filepath).name]
        digest.pop("fuzzy", None)  # of earlier versions
        assert digest == {"hash_type": "sha256", "hash_val": hashlib.sha256(content).hexdigest()}

    monkeypatch.setattr("monai.bundle.scripts.download_url", download)
    monai.bundle.download_large_files(str(tmp_path))
    assert asked == [f"https://huggingface.co/{OWNER}/{NAME}_smallest/resolve/1.2.0/models/{name}" for name in weights]

    elsewhere = details(url="https://example.org/weights/")
    assert elsewhere.address("a", "models/model.pt") == "https://example.org/weights/a/models/model.pt"
    assert details().address("a", "models/model.pt") is None


@pytest.mark.parametrize(("member", "weights"), [("smallest", True), ("largest", False)])
def test_the_zoos_test_passes(own: Path, member: str, weights: bool) -> None:
    """Also before the large files are there."""
    if not weights:
        shutil.rmtree(bundle(own, member) / "models")
    check_zoo_test(own, f"{NAME}_{member}")


def test_the_zoos_test_fails_for_another_network(own: Path) -> None:
    """One whose outputs are others than the bundle says."""
    path = bundle(own, "smallest") / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["postprocessing"]["transforms"].insert(-1, {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x + 200"})
    path.write_text(json.dumps(config))
    assert "AssertionError" in zoo_test(own, f"{NAME}_smallest").stderr


def test_a_published_folder_is_replaced_as_long_as_nobody_has_changed_it(own: Path, family: Path, schema_file: Path) -> None:
    command = ["publish", family, "--to", own, *SAID, "--members", "smallest", "--schema", schema_file]
    assert "exists" in prox(*command).error
    (own / "README.md").write_text("my own card", encoding="utf-8")
    assert "README.md there were not exported" in prox(*command, "--overwrite").error
    assert (own / "README.md").read_text(encoding="utf-8") == "my own card"
    (own / "README.md").unlink()
    done = prox(*command, "--overwrite")
    assert done.code == 0 and "There is no large_files.yml" in done.out
    assert [path.name for path in (own / "models").iterdir()] == [f"{NAME}_smallest"]
    card = (own / "README.md").read_text(encoding="utf-8")
    assert f"[{NAME}_smallest](models/{NAME}_smallest)" in card and "huggingface" not in card


def test_a_members_file_is_published_by_its_name(family: Path, schema_file: Path, tmp_path: Path) -> None:
    subnet = open_trained(family).family().find("smallest")[1]
    (tmp_path / "under-2M.json").write_text(json.dumps(subnet.to_json()))
    done = publish(open_trained(family), [str(tmp_path / "under-2M.json")], tmp_path / "a", details(), schema=schema_file)
    assert list(done.checks) == ["a_under_2M"]
    assert "0.750" in (tmp_path / "a" / "README.md").read_text(), "it is a member that was measured"
    twice = ["smallest", "smallest"]
    refused("the bundle b_smallest", publish, open_trained(family), twice, tmp_path / "b", details(), schema=schema_file)


def test_a_bundles_family_with_several_channels_in_an_image(tmp_path: Path, schema_file: Path) -> None:
    trained = trained_once("brats_prox", "brats_prox")
    publish(open_trained(trained.bundle), ["smallest"], tmp_path / "brain", details(), schema=schema_file)
    check_zoo_test(tmp_path / "brain", "brain_smallest")


def test_a_stock_model_is_a_family_of_one(bare: Path, schema_file: Path) -> None:
    model = bare_model(bare_plans(**SHALLOW), cls=nnUNetTrainer)
    done = publish(open_trained(model.path), (), bare / "stock", details(), schema=schema_file)
    assert len(done.checks) == 1
    card = (bare / "stock" / "README.md").read_text()
    assert "A network of nnU-Net as a MONAI bundle." in card and "Trained by `nnUNetTrainer`, as one network." in card
    assert "The members were not measured." in card and not (bare / "stock" / "front.png").exists()


def test_files_of_a_pipelines_family_stay_its_own(tmp_path: Path, schema_file: Path) -> None:
    own = Path(shutil.copytree(trained_organ() / "bundle", tmp_path / "bundle"))
    metadata = json.loads((own / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["dtype"] = "float32"
    (own / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (own / "LICENSE").write_bytes("of somebody, © him\n".encode("latin-1"))

    done = publish(open_trained(own), ["smallest"], tmp_path / "organ", details(), schema=schema_file)
    found = ["files complete but for large_files.yml", "metadata fits its schema", "network not run: its test does"]
    assert done.checks == {"organ_smallest": found}, "its metadata named no schema"
    check_zoo_test(tmp_path / "organ", "organ_smallest")
    written = tmp_path / "organ" / "models" / "organ_smallest"
    assert b"of somebody, \xa9 him" in (written / "LICENSE").read_bytes().partition(b"Model Weights License")[0]
    assert "# License of the weights" in (written / "docs" / "README.md").read_text()
    (own / "configs" / "metadata.json").unlink()
    refused("has no configs/metadata.json", publish, open_trained(own), ["smallest"], tmp_path / "a", details())


# ---------------------------------------------------------------------- what is asked
def test_without_a_terminal_what_is_missing_is_named(family: Path, tmp_path: Path) -> None:
    error = prox("publish", family, "--to", tmp_path / NAME, "--authors", "A").error
    assert re.search("^give --licence, --copyright: ", error)
    assert not (tmp_path / NAME).exists()


def test_at_a_terminal_the_command_asks(
    family: Path, tmp_path: Path, schema_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("C. Okafor\nmit\n"))
    given = ["--copyright", "Copyright (c) C. Okafor", "--members", "smallest", "--schema", schema_file]
    done = prox("publish", family, "--to", tmp_path / NAME, *given)
    assert done.code == 0, done.err
    assert "Licence of the weights" in done.out and "Copyright of" not in done.out
    assert "license: mit\n" in (tmp_path / NAME / "README.md").read_text()
    assert json.loads((bundle(tmp_path / NAME, "smallest") / "configs" / "metadata.json").read_text())["authors"] == "C. Okafor"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"tag": "Apache 2.0"}, "such as apache-2.0"),
        ({"tag": "unknown"}, "--licence is 'unknown'"),
        ({"tag": "other"}, "needs --licence-name"),
        ({"tag": "other", "name": "mine-1.0"}, "--licence-file"),
        ({"tag": "other", "name": "My Own", "file": __file__}, "--licence-name is 'My Own'"),
        ({"tag": "mit", "name": "mine-1.0"}, "--licence-name is for --licence other"),
        ({"tag": "mit", "file": "nowhere"}, "there is no file nowhere"),
    ],
)
def test_a_licence_is_one_that_hugging_face_knows(said: dict[str, str], what: str) -> None:
    file = Path(said["file"]) if "file" in said else None
    refused(what, Licence.of, said["tag"], name=said.get("name"), file=file)


def test_licences_become_files(tmp_path: Path) -> None:
    apache = Licence.of("apache-2.0")
    assert apache.file(license_text(), "B") == license_text(), "one licence of all files"
    (tmp_path / "mine").write_text("Do what is right.\n")
    mine = Licence.of("other", name="mine-1.0", file=tmp_path / "mine")
    assert mine.tags() == {"license": "other", "license_name": "mine-1.0", "license_link": "LICENSE"}
    assert mine.file("code\n", "B").endswith("B\n\nmine-1.0 (mine-1.0)\n\nDo what is right.\n")
    assert {"apache-2.0", "cc-by-nc-sa-4.0", "cc0-1.0"} <= set(TAGS) and not {"unknown", "other"} & set(TAGS)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"authors": " "}, "--authors is ' '"),
        ({"authors": "$import os"}, "would be read as an expression"),
        ({"copyright": "a\nb"}, "--copyright is 'a\\nb'; it must be one line"),
        ({"version": "1.0"}, "--version is '1.0'"),
        ({"owner": "a/b"}, "--owner is 'a/b'"),
        ({"url": "ftp://a"}, "--url is 'ftp://a'"),
        ({"url": "https://a", "owner": "b"}, "give one of them"),
    ],
)
def test_what_is_said_is_checked(said: dict[str, str], what: str) -> None:
    refused(what, details, **said)


def test_names_do_for_bundles_and_their_tests() -> None:
    assert check_name("a_B2") == "a_B2" and bundle_name("a", "x.y-z") == "a_x_y_z"
    for name in ("2a", "a-b", "", "a.b", "a" * 65):
        refused("give --name", check_name, name)


# ---------------------------------------------------------------------- what is checked
def test_metadata_fits_the_zoos_schema(published: Path, tmp_path: Path) -> None:
    path = schema(tmp_path)
    assert checks.check_metadata(bundle(published, "smallest"), path) == "metadata fits its schema"


def test_a_bundle_that_fails_a_check_is_not_published(own: Path, family: Path, tmp_path: Path) -> None:
    (tmp_path / "strict.json").write_text(json.dumps({"properties": {"authors": {"type": "number"}}}))
    done = prox("publish", family, "--to", tmp_path / "a", *SAID, "--schema", tmp_path / "strict.json")
    assert "a_smallest/configs/metadata.json does not fit its schema: ValueError: 'A. Müller; B. Ito' is not of" in done.error
    assert not (tmp_path / "a").exists()

    smallest = bundle(own, "smallest")
    metadata = json.loads((smallest / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] += 1
    (smallest / "configs" / "metadata.json").write_text(json.dumps(metadata))
    refused(f"{NAME}_smallest: the network does not fit", checks.check_network, smallest)
    with (smallest / "docs" / "film.avi").open("wb") as file:
        file.truncate(26 * 2**20)
    refused("docs/film.avi has more than 25 MiB", checks.check_files, smallest)
    (smallest / "LICENSE").unlink()
    refused(f"{NAME}_smallest has no LICENSE", checks.check_files, smallest)


def test_a_schema_that_cannot_be_had_is_no_fault(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(checks, "download_url", offline)
    found = checks.find_schema({"schema": "https://example.org/schema.json"}, tmp_path, None)
    assert "https://example.org/schema.json could not be downloaded (<urlopen error no network>)" in str(found)
    assert checks.check_metadata(bundle(published, "smallest"), found) == f"metadata not checked: {found}"
    assert "names no schema" in str(checks.find_schema({"schema": "file:///etc/passwd"}, tmp_path, None))
    (tmp_path / "no.json").write_text("{")
    refused("no.json is not valid JSON", checks.find_schema, {}, tmp_path, tmp_path / "no.json")


# ---------------------------------------------------------------------- what is sent
class Response:
    """What a refusal of Hugging Face's carries."""

    headers: dict[str, str] = {}
    request = None
    status_code = 403
    text = ""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Hugging Face, with folders below ``root`` as repositories, and its calls. ``refuse``: one that fails with ``error``."""
    state = SimpleNamespace(root=tmp_path / "hub", calls=[], refuse=None, error=None)

    class Api:
        def __init__(self, token: str | None = None) -> None:
            assert token is None, "the library finds the token itself"

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
            if repo_id == state.refuse:
                raise state.error
            state.calls.append(("repo", repo_id, "private" if private else "public"))

        def upload_folder(self, repo_id: str, folder_path: str) -> str:
            shutil.copytree(folder_path, state.root / repo_id)
            return f"https://huggingface.co/{repo_id}"

        def create_tag(self, repo_id: str, tag: str, exist_ok: bool) -> None:
            state.calls.append(("tag", repo_id, tag))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    return state


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_bundle_becomes_a_repository_with_the_licence_that_was_said(
    own: Path, published: Path, hub: SimpleNamespace
) -> None:
    """MONAI's own function would guess apache-2.0, for that is the licence of the configurations."""
    readme = bundle(own, "largest") / "docs" / "README.md"
    readme.write_bytes(readme.read_bytes() + "What we found out since, in Latin-1: é\n".encode("latin-1"))
    (bundle(own, "largest") / "scripts" / "__pycache__").mkdir()
    (bundle(own, "largest") / "scripts" / "__pycache__" / "transforms.pyc").touch()

    done = prox("upload", own, "--owner", OWNER)
    assert done.code == 0 and done.err == "", done
    repositories = [f"{OWNER}/{NAME}{ending}" for ending in ("_largest", "_smallest", "")]
    assert done.out.splitlines() == [f"https://huggingface.co/{repository}" for repository in repositories]
    sent = hub.root / repositories[0]
    left = {"docs/README.md", "large_files.yml"}  # what a repository has in another place, or needs not
    assert names(sent) == (names(bundle(published, "largest")) - left) | {"README.md"}
    begin, front, text = (sent / "README.md").read_bytes().split(b"---\n", 2)
    assert begin == b"" and yaml.safe_load(front)["license"] == "cc-by-sa-4.0"
    assert text == readme.read_bytes()
    assert "Apache License" in (sent / "LICENSE").read_text()
    assert names(hub.root / repositories[2]) == {"README.md", "front.png", "LICENSE"}
    assert (hub.root / repositories[2] / "README.md").read_bytes() == (own / "README.md").read_bytes()
    assert hub.calls == [
        *(call for name in repositories[:2] for call in [("repo", name, "private"), ("tag", name, "1.2.0")]),
        ("repo", repositories[2], "private"),
    ]


@pytest.mark.parametrize("error", [HfHubHTTPError("403 Forbidden\nfor url", response=Response()), Exception("no route")])
def test_one_repository_that_fails_stops_none_of_the_others(own: Path, hub: SimpleNamespace, error: Exception) -> None:
    hub.refuse, hub.error = f"{OWNER}/{NAME}_largest", error
    done = prox("upload", own, "--owner", OWNER, "--public", "--latest")
    assert done.code == 1 and len(done.out.splitlines()) == 2
    said, failed = done.err.splitlines()
    assert said == "failed:" and failed.startswith(f"https://huggingface.co/{hub.refuse}: {str(error).splitlines()[0]}")
    assert ("tag", f"{OWNER}/{NAME}_smallest", "latest_version") in hub.calls
    assert {call[2] for call in hub.calls if call[0] == "repo"} == {"public"}


def changed_card(folder: Path, change: Callable[[str], str]) -> None:
    card = folder / "README.md"
    card.write_text(change(card.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda folder: (folder / "README.md").unlink(), "there is no"),
        (lambda folder: changed_card(folder, lambda text: text.replace("license: ", "licence: ")), "name the license"),
        (lambda folder: changed_card(folder, lambda text: text[4:]), "name the license"),
        (lambda folder: changed_card(folder, lambda text: text.replace("cc-by-sa-4.0", "free", 1)), "has the license 'free'"),
        (lambda folder: changed_card(folder, lambda text: text.replace(OWNER, "others")), "publish the family with --owner"),
        (lambda folder: shutil.rmtree(folder / "models"), "there is no bundle in"),
        (lambda folder: (bundle(folder, "smallest") / "secret").symlink_to("/etc/hostname"), "is a link out of"),
        (lambda folder: (bundle(folder, "smallest") / "configs" / "metadata.json").write_text("{}"), "the version in"),
    ],
)
def test_what_is_no_published_family_is_not_sent(
    own: Path, hub: SimpleNamespace, change: Callable[[Path], Any], what: str
) -> None:
    change(own)
    assert what in prox("upload", own, "--owner", OWNER).error
    assert hub.calls == []


def test_the_token_and_the_package_are_asked_for(own: Path, hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    refused("set HF_TOKEN, or run `hf auth login`", upload, own, OWNER)
    assert hub.calls == []
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "huggingface_hub is not installed: pip install" in prox("upload", own, "--owner", OWNER).error
