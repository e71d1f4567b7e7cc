"""What a case takes of the memory: the estimate against what is allocated, and cases that are refused."""

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.descriptions import DESCRIBED
from helpers.refusals import refused

from monai_prox.runtime import memory
from monai_prox.runtime.cases import Case, find_cases, read_case
from monai_prox.runtime.description import Description, Normalisation
from monai_prox.runtime.images import Image
from monai_prox.runtime.memory import available, check_fits, needed_for
from monai_prox.runtime.options import PLAIN, Options
from monai_prox.runtime.prediction import label, predict
from monai_prox.runtime.preprocessing import prepare

CT = Normalisation(scheme="CTNormalization", lower=-100, upper=100)
MASKED = Normalisation(scheme="ZScoreNormalization", masked=True)
DESCRIPTION = replace(DESCRIBED, outputs=14, patch=(32, 32, 32), spacing=(1.5, 1.5, 1.5), normalisation=(CT,))
ASKED = {"mirrored": Options(mirror=True), "probabilities": Options(probabilities=True)}
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "CT": ((80, 128, 128), {}),
    "many classes": ((50, 90, 90), {"outputs": 60}),
    "a large patch": ((64, 64, 64), {"patch": (64, 80, 64)}),
    "finer": ((50, 60, 60), {"spacing": (0.7, 0.7, 0.7), "outputs": 2}),
    "no resampling": ((70, 100, 100), {"spacing": (1.0, 1.0, 1.0), "outputs": 3}),
    "turned": ((90, 120, 70), {"transpose": (2, 0, 1), "outputs": 2, "spacing": (2.0, 2.0, 2.0)}),
    "four channels": (
        (90, 100, 80),
        {"channels": tuple("abcd"), "normalisation": (MASKED,) * 4, "regions": (1, 2, 300), "outputs": 3},
    ),
    "z-score": ((90, 120, 100), {"normalisation": (replace(MASKED, masked=False),), "outputs": 2, "spacing": (3.0, 3.0, 3.0)}),
    "postprocessed": ((90, 120, 110), {"postprocessing": ((1,),), "outputs": 2, "spacing": (3.0, 3.0, 3.0)}),
    "probabilities": ((60, 90, 80), {"outputs": 6}),
    "mirrored": ((64, 64, 64), {"patch": (64, 80, 64), "mirroring": (0, 1)}),
    "slices": ((30, 150, 150), {"patch": (64, 64), "spacing": (1.5, 1.5)}),
}


def described(**changes: Any) -> Description:
    return replace(DESCRIPTION, **changes)


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_what_a_case_takes(name: str) -> None:
    """Together with its image, of which a part is cropped away."""
    shape, changes = CASES[name]
    options = ASKED.get(name, PLAIN)
    description = described(**changes)

    def network(x: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).random((1, description.outputs, *x.shape[2:]), dtype=np.float32)

    def once() -> tuple[int, int]:
        voxels = np.ones((len(description.channels), *shape), np.float32)
        voxels[..., :3] = 0
        image, size = Image(voxels, (1.0, 1.0, 1.0), lambda *_: None), voxels.nbytes
        del voxels
        prepared, grid = prepare(image, description, options)
        del image
        label(prepared, grid, description, network, options, keep=lambda _: None)
        return needed_for(grid, description, options), size

    once()  # matrices are kept
    tracemalloc.start()
    estimated, size = once()
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.95 * taken < size + estimated < 1.25 * taken


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three cases, of which the second is large."""
    (tmp_path / "images").mkdir()
    for number, side in enumerate((40, 100, 40)):
        image = sitk.GetImageFromArray(np.full((side,) * 3, number + 1, np.int16))
        sitk.WriteImage(image, tmp_path / "images" / f"case_{number}_0000.nii.gz")
    return tmp_path / "images"


def network(x: np.ndarray) -> np.ndarray:
    return np.zeros((1, DESCRIPTION.outputs, *x.shape[2:]), np.float32)


def limit(monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    monkeypatch.setattr(memory, "available", lambda: count)


def test_a_case_that_would_not_fit_is_refused_and_the_others_are_done(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 10_000_000)
    done: list[str] = []
    cases = find_cases(images, DESCRIPTION)
    found = predict(DESCRIPTION, network, cases, tmp_path / "masks", done=lambda name, _: done.append(name))
    problems = {case.name: problem for case, problem in found}
    refusal = problems.pop("case_1")
    assert refusal is not None and re.fullmatch(r"it would take 1\d\.\d MB of memory, and there are 10\.0 MB", refusal)
    assert problems == {"case_0": None, "case_2": None} and "case_1" not in done
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["case_0.nii.gz", "case_2.nii.gz"]


def test_an_image_that_would_not_fit_is_not_read(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 4_500_000)
    path = images / "case_1_0000.nii.gz"
    refused("it would take 6.0 MB of memory, and there are 4.5 MB", read_case, Case("case_1", (path,)), DESCRIPTION)
    by_nibabel = replace(DESCRIPTION, reader="NibabelIO")
    refused("it would take 6.0 MB of memory, and there are 4.5 MB", read_case, Case("case_1", (path,)), by_nibabel)


def test_nothing_is_refused_where_the_system_does_not_tell(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "missing")
    assert available() is None
    check_fits(10**15)


V1 = {"memory.limit_in_bytes": "3000", "memory.usage_in_bytes": "1000", "memory.stat": "cache 9\ntotal_inactive_file 100\n"}
V2 = {"memory.max": "3000", "memory.current": "1000", "memory.stat": "anon 9\ninactive_file 60\nactive_file 40\n"}


@pytest.mark.parametrize(
    ("process", "folder", "files", "expected"),
    [
        ("4:memory:/docker/1", "memory/docker/1", V1, 2100),
        ("4:memory:/docker/1", "memory/docker", V1, 2100),
        ("0::/", ".", V2, 2100),
        ("0::/user/a", "user", V2, 2100),
        ("0::/user/a", "user/a", V2 | {"memory.max": "max"}, 8192),
        ("0::/user/a", "user/b", V2, 8192),
        ("0::/user/a", "user/a", V2 | {"memory.max": "500"}, 0),
        ("nonsense", ".", V2, 8192),
    ],
)
def test_a_container_has_what_its_group_has(
    process: str, folder: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 20 kB\nMemAvailable:       8 kB\n")
    (tmp_path / "process").write_text(f"{process}\n")
    (tmp_path / "groups" / folder).mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "groups" / folder / name).write_text(text)
    for name, path in {"MEMINFO": "meminfo", "PROCESS": "process", "GROUPS": "groups"}.items():
        monkeypatch.setattr(memory, name, tmp_path / path)
    assert available() == expected


@pytest.mark.skipif(not memory.MEMINFO.is_file(), reason="this system does not tell how much memory there is")
def test_this_machine_tells() -> None:
    found = available()
    assert found is not None and 10**7 < found < 10**14
