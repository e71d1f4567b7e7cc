"""The family of hippocampus_prox whose weights the repository has, as it is, by the commands that its pages give."""

import hashlib
import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hatchling.builders.sdist import SdistBuilder
from helpers.bundle_checks import LIMIT, REQUIRED, check_metadata, check_network, check_zoo_rules, config, schema
from helpers.in_process import prox

from monai_prox.runtime.model import Model

BUNDLE = Path(__file__).parents[2] / "bundles" / "hippocampus_prox"
if not (BUNDLE / "models" / "model.pt").is_file():
    pytest.skip("a source distribution has no weights", allow_module_level=True)
FAMILY = json.loads((BUNDLE / "models" / "family.json").read_text())
MEMBERS = {member["name"]: member for member in FAMILY["members"]}
PATCH = FAMILY["plan"]["patch_size"]


def test_the_zoos_rules_hold_with_the_weights_as_they_are() -> None:
    check_zoo_rules(BUNDLE, [*REQUIRED, "models/model.pt", "models/family.json"])
    assert (BUNDLE / "models" / "model.pt").stat().st_size < LIMIT


@pytest.mark.slow
def test_monais_checks_pass(tmp_path: Path) -> None:
    check_network(BUNDLE, tmp_path, (1, *PATCH))


def test_the_metadata_obey_the_schema_and_have_the_members_scores(tmp_path: Path) -> None:
    metadata = config(BUNDLE, "metadata")
    assert metadata["eval_metrics"] == {f"dice {name}": round(member["dice"]["mean"], 4) for name, member in MEMBERS.items()}
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == PATCH
    check_metadata(BUNDLE, tmp_path)


def test_the_licence_of_the_weights_is_that_of_their_images_wherever_it_is_asked_for() -> None:
    licence, readme = ((BUNDLE / "docs" / name).read_text() for name in ("data_license.txt", "README.md"))
    weights = hashlib.sha256((BUNDLE / "models" / "model.pt").read_bytes()).hexdigest()
    assert weights in licence, "of these weights and no others"
    for text in (licence, readme, config(BUNDLE, "metadata")["weights_license"]):
        assert "CC-BY-SA 4.0" in text


def test_a_bundle_of_a_member_carries_the_licence_and_whom_to_name(tmp_path: Path) -> None:
    assert prox("export", BUNDLE, "--subnet", "smallest", "--output", tmp_path / "member").code == 0
    assert config(tmp_path / "member", "metadata")["weights_license"] == FAMILY["license"]
    for name in ("data_license.txt", "README.md"):
        said = " ".join((tmp_path / "member" / "docs" / name).read_text().split())
        assert "CC-BY-SA 4.0" in said and "Antonelli et al." in said and "monai-prox developers" in said


def check_licensed_file(format: str, file: Path) -> None:
    """That a file for a device carries the licence, and whoever exports it reads it."""
    done = prox("export", BUNDLE, "--subnet", "smallest", "--format", format, "--output", file)
    assert done.code == 0 and f"Of the family's weights it is said: {FAMILY['license']}" in done.out
    assert Model(file).description.license == FAMILY["license"]


@pytest.mark.slow
def test_a_file_of_torch_carries_the_licence(tmp_path: Path) -> None:
    check_licensed_file("torchscript", tmp_path / "smallest.ts")


def test_what_stays_beside_other_weights_speaks_of_the_repositorys(tmp_path: Path) -> None:
    """init-bundle copies the documents and the changelog, and a training leaves them as they are."""
    assert prox("init-bundle", BUNDLE.name, tmp_path / "mine").code == 0
    for note in config(tmp_path / "mine", "metadata")["changelog"].values():
        assert "weights" not in note or "the repository" in note
    terms = (tmp_path / "mine" / "docs" / "README.md").read_text().partition("# License")[2]
    assert "The repository's weights are licensed" in terms and "models/" not in terms


def test_a_source_distribution_has_no_weights() -> None:
    """.gitignore takes the shared files back in, so the folder alone does not leave them out."""
    builder = SdistBuilder(str(BUNDLE.parents[1]))
    files = [Path(file.distribution_path) for file in builder.recurse_included_files()]
    assert Path("bundles", BUNDLE.name, "docs", "README.md") in files
    assert not [file for file in files if file.match("bundles/*/models/*")]


def test_the_readme_has_the_scores_of_every_member() -> None:
    section = (BUNDLE / "docs" / "README.md").read_text().partition("## Performance")[2].partition("\n## ")[0]
    cells = [re.findall(r"[^|]+", line) for line in section.splitlines() if line.startswith("| ")][1:]
    rows = {name.strip(): [score.strip() for score in scores] for name, _, _, *scores in cells}
    scores = {name: [member["dice"][label] for label in ("mean", "Anterior", "Posterior")] for name, member in MEMBERS.items()}
    assert rows == {name: [f"{score:.3f}" for score in of] for name, of in scores.items()}


def test_a_member_is_listed_and_exported_and_segments(tmp_path: Path) -> None:
    """A held-out case if real images are here; otherwise an image of noise, which has no truth."""
    listed = prox("family", BUNDLE, "--json")
    assert listed.code == 0 and [member["name"] for member in json.loads(listed.out)] == list(MEMBERS)
    file, images, labels = tmp_path / "smallest.onnx", tmp_path / "images", tmp_path / "labels"
    check_licensed_file("onnx", file)
    images.mkdir()
    task = Path(os.environ.get("MONAI_PROX_DATA", ""), "Task04_Hippocampus")
    case = FAMILY["validation_cases"][0]
    if (real := task / "imagesTr" / case).is_file():
        (images / case).symlink_to(real)
    else:
        noise = np.random.default_rng(0).normal(size=PATCH).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), images / case)
    assert prox("predict", file, "-i", images, "-o", labels).code == 0
    found = np.asarray(nib.load(labels / case).dataobj)
    if not real.is_file():
        pytest.skip("there is no Task04_Hippocampus in the folder that MONAI_PROX_DATA names: no Dice was computed")
    truth = np.asarray(nib.load(task / "labelsTr" / case).dataobj)
    for value in (1, 2):
        assert 2 * np.sum((found == value) & (truth == value)) / (np.sum(found == value) + np.sum(truth == value)) > 0.75


def test_whoever_publishes_it_reads_what_its_licence_is(tmp_path: Path) -> None:
    given = ("--authors", "Me", "--copyright", "Copyright (c) Me", "--licence", "cc-by-sa-4.0", "--members", "smallest")
    done = prox("publish", BUNDLE, "--to", tmp_path / "shared", *given, "--schema", schema(tmp_path))
    assert done.code == 0 and "Of the family's weights it is said: CC-BY-SA 4.0" in done.out.replace("\n", " ")
    (licence,) = (tmp_path / "shared").rglob("data_license.txt")
    assert "Antonelli et al." in " ".join(licence.read_text().split())
