"""The next case is read while one is predicted, and never at another one's expense."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.descriptions import DESCRIBED

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


def test_what_is_given_up_reads_no_more(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(cases, monkeypatch)
    running = predict(DESCRIPTION, positive, cases, tmp_path / "masks")
    next(running)
    running.close()
    assert len(reading.read) <= 2 and not [thread for thread in threading.enumerate() if "read ahead" in thread.name]
