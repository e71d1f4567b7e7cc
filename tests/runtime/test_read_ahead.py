"""The next case is read while one is predicted, and never at another one's expense."""

import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.descriptions import DESCRIBED
from helpers.refusals import refused

from monai_prox.runtime import memory, read_ahead
from monai_prox.runtime.cases import Case, find_cases
from monai_prox.runtime.description import Description, Normalisation
from monai_prox.runtime.images import Image
from monai_prox.runtime.prediction import predict

DESCRIPTION = replace(
    DESCRIBED,
    outputs=2,
    patch=(16, 16, 16),
    spacing=(1.0, 1.0, 1.0),
    normalisation=(Normalisation(scheme="CTNormalization", lower=-100, upper=100),),
)
SIDE = 20  # voxels an axis


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    (tmp_path / "images").mkdir()
    for number in range(4):
        image = sitk.GetImageFromArray(np.full((SIDE,) * 3, 2 * number - 3, np.int16))
        sitk.WriteImage(image, tmp_path / "images" / f"case_{number}_0000.nii.gz")
    return find_cases(tmp_path / "images", DESCRIPTION)


class Reading:
    """Cases as they are read, and an event for each."""

    def __init__(self, cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[tuple[str, bool]] = []  # and whether it was in another thread
        self.begun = {case.name: threading.Event() for case in cases}
        self.failing: set[str] = set()
        within, main = read_ahead.read_case, threading.current_thread()

        def reading(case: Case, description: Description) -> Image:
            ahead = threading.current_thread() is not main
            self.read.append((case.name, ahead))
            self.begun[case.name].set()
            if ahead and case.name in self.failing:
                raise MemoryError
            return within(case, description)

        monkeypatch.setattr(read_ahead, "read_case", reading)


def positive(x: np.ndarray) -> np.ndarray:
    """Its label is 1 where voxels are positive."""
    return np.concatenate([np.zeros_like(x), x], axis=1)


def labels_in(folder: Path) -> dict[str, int]:
    return {path.name[:6]: int(sitk.GetArrayFromImage(sitk.ReadImage(path)).max()) for path in folder.glob("*.nii.gz")}


def outcomes(cases: list[Case], output: Path, network: Any = positive, **options: Any) -> dict[str, str | None]:
    return {case.name: problem for case, problem in predict(DESCRIPTION, network, cases, output, **options)}


def test_the_next_case_is_read_while_one_is_predicted(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, waited = Reading(cases, monkeypatch), []
    following = iter(cases[1:])

    def network(x: np.ndarray) -> np.ndarray:
        if not waited or waited[-1][0] != len(reading.read):
            case = next(following, None)
            waited.append((len(reading.read), case is None or reading.begun[case.name].wait(60)))
        return positive(x)

    assert set(outcomes(cases, tmp_path / "masks", network).values()) == {None}
    assert all(in_time for _, in_time in waited)
    assert reading.read == [("case_0", False), ("case_1", True), ("case_2", True), ("case_3", True)]
    assert labels_in(tmp_path / "masks") == {"case_0": 0, "case_1": 0, "case_2": 1, "case_3": 1}


def test_a_case_that_failed_ahead_is_read_again_at_its_turn(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading(cases, monkeypatch)
    reading.failing = {"case_1", "case_3"}
    assert set(outcomes(cases, tmp_path / "masks").values()) == {None}
    expected = [("case_0", False), ("case_1", True), ("case_1", False), ("case_2", True), ("case_3", True), ("case_3", False)]
    assert reading.read == expected
    assert labels_in(tmp_path / "masks") == {"case_0": 0, "case_1": 0, "case_2": 1, "case_3": 1}


@pytest.mark.parametrize("free", [None, 200_000])
def test_nothing_is_read_ahead_without_memory_for_two(
    free: int | None, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading(cases, monkeypatch)
    monkeypatch.setattr(memory, "available", lambda: free)
    assert set(outcomes(cases, tmp_path / "masks").values()) == {None}
    assert reading.read == [(case.name, False) for case in cases]


def test_finished_cases_are_not_read(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("case_0", "case_2"):
        (tmp_path / "masks" / f"{name}.nii.gz").touch()
    reading = Reading(cases, monkeypatch)
    assert set(outcomes(cases, tmp_path / "masks", overwrite=False).values()) == {None}
    assert reading.read == [("case_1", False), ("case_3", True)]


def test_nobody_waits_for_what_is_read_ahead(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an interruption."""
    release, within, main = threading.Event(), read_ahead.read_case, threading.current_thread()

    def reading(case: Case, description: Description) -> Image:
        assert threading.current_thread() is main or release.wait(60)
        return within(case, description)

    monkeypatch.setattr(read_ahead, "read_case", reading)
    running = predict(DESCRIPTION, positive, cases, tmp_path / "masks")
    next(running)
    running.close()
    (left,) = [thread for thread in threading.enumerate() if thread.name == "read ahead"]
    release.set()
    left.join()


def test_a_case_that_runs_out_of_memory_gets_what_was_read_ahead(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, failed = Reading(cases, monkeypatch), []

    def network(x: np.ndarray) -> np.ndarray:
        if not failed:
            failed.append(reading.begun["case_1"].wait(60))
            raise MemoryError
        return positive(x)

    assert set(outcomes(cases, tmp_path / "masks", network).values()) == {None}
    assert reading.read[:2] == [("case_0", False), ("case_1", True)]
    assert reading.read[2:] == [(case.name, False) for case in cases]

    def greedy(x: np.ndarray) -> np.ndarray:
        raise MemoryError("too little")

    assert set(outcomes(cases, tmp_path / "masks", greedy).values()) == {"too little"}


def test_the_next_case_fits_beside_the_present_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 100)
    with memory.reserving(60):
        memory.check_fits(40)
        refused("it would take 0.0 MB of memory, and there are 0.0 MB", memory.check_fits, 41)
        other = threading.Thread(target=memory.check_fits, args=(100,))
        other.start()
        other.join()
    memory.check_fits(100)


def test_what_failed_ahead_leaves_nothing_in_memory(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its voxels nor the frames that had them."""
    left: list[weakref.ref[np.ndarray]] = []
    prepare, main = read_ahead.prepare, threading.current_thread()

    def failing(image: Image, *arguments: Any) -> Any:
        if threading.current_thread() is not main:
            left.append(weakref.ref(image.voxels))
            raise MemoryError
        assert not [of for of in left if of() is not None]
        return prepare(image, *arguments)

    monkeypatch.setattr(read_ahead, "prepare", failing)
    assert set(outcomes(cases, tmp_path / "masks").values()) == {None} and len(left) == 3
