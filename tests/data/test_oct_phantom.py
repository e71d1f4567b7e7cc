"""Synthetic B-scans."""

from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused

from monai_prox.data.oct import CLASSES, read_scans
from monai_prox.data.oct_phantom import scan, write_phantom_scans

FEW = {"train": 2, "val": 1, "test": 1}


def test_a_data_set_is_written_that_is_read(tmp_path: Path) -> None:
    folder = write_phantom_scans(tmp_path, patients=FEW, size=(64, 80))
    scans = read_scans(folder)
    assert scans.left_out == 0
    assert scans.count(scans.train) == dict.fromkeys(CLASSES, 4) and scans.count(scans.test) == dict.fromkeys(CLASSES, 2)
    assert len({s.patient for s in (*scans.train, *scans.val, *scans.test)}) == 4 * len(CLASSES)
    assert "SYNTHETIC" in (folder / "phantom.json").read_text()


def test_a_data_set_is_used_again_and_never_mixed(tmp_path: Path) -> None:
    folder = write_phantom_scans(tmp_path, patients=FEW, size=(64, 64))
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*.jpeg")}
    assert write_phantom_scans(tmp_path, patients=FEW, size=(64, 64)) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.jpeg")} == times
    refused("exists and was not made with", write_phantom_scans, tmp_path, patients=FEW, size=(64, 64), seed=1)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_scan_is_a_function_of_its_arguments(kind: str) -> None:
    one = scan(kind, size=(96, 128), patient=(0, 7), number=1)
    assert one.shape == (96, 128) and one.dtype == np.uint8
    assert np.array_equal(one, scan(kind, size=(96, 128), patient=(0, 7), number=1))
    for other in ({"patient": (1, 7), "number": 1}, {"patient": (0, 8), "number": 1}, {"patient": (0, 7), "number": 2}):
        assert not np.array_equal(one, scan(kind, size=(96, 128), **other))


def test_severity_is_of_lesions_alone() -> None:
    def grown(kind: str) -> np.ndarray:
        scans = [scan(kind, size=(96, 128), patient=(0, 7), number=1, severity=severity) for severity in (1.0, 2.0)]
        return np.mean(scans[0] != scans[1])

    assert grown("NORMAL") == 0 and all(grown(kind) > 0.001 for kind in CLASSES if kind != "NORMAL")


def test_the_vitreous_is_dark_and_the_epithelium_bright() -> None:
    image = scan("NORMAL", size=(224, 224), patient=(0, 1), number=1).astype(float)
    assert image[:40].mean() < 30 < image.max(0).mean()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patients": {"train": 1}}, "patients must be positive numbers for train, val, test, got {'train': 1}"),
        ({"patients": FEW | {"val": 0}}, "patients must be positive numbers"),
        ({"severity": 0.1}, "severity must be from 0.5 to 3, got 0.1"),
        ({"size": (32, 64)}, "size must be two numbers of at least 64 pixels, got [32, 64]"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, wrong: dict, message: str) -> None:
    refused(message, write_phantom_scans, tmp_path, **wrong)
    assert not list(tmp_path.iterdir())
