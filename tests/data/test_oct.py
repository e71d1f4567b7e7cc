"""Retinal OCT data sets: what is read, which patients go where, and what is refused."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused
from PIL import Image

from monai_prox.data.oct import CLASSES, OctScans, read_scan, read_scans

DATA = Path(os.environ.get("MONAI_PROX_DATA", "")) / "roct"

Patients = Mapping[str, Mapping[str, int]]  # scans by patient, by split


def write(folder: Path, patients: Patients, *, size: tuple[int, int] = (40, 48)) -> Path:
    """Every class has the same patients' numbers, with the digit of the class before them."""
    generator = np.random.default_rng(0)
    for split, scans in patients.items():
        for digit, name in enumerate(CLASSES, start=1):
            (folder / split / name).mkdir(parents=True)
            for patient, count in scans.items():
                for number in range(1, count + 1):
                    image = Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8))
                    image.save(folder / split / name / f"{name}-{digit}{patient}-{number}.jpeg")
    return folder


def names(scans: OctScans, split: str) -> set[str]:
    return {scan.name for scan in getattr(scans, split)}


WHOLE: Patients = {"train": {"01": 3, "02": 1}, "val": {"03": 1}, "test": {"04": 2}}


def test_the_folders_are_the_splits_and_the_classes(tmp_path: Path) -> None:
    scans = read_scans(write(tmp_path / "oct", WHOLE))
    assert scans.classes == ("CNV", "DME", "DRUSEN", "NORMAL") and scans.left_out == 0
    assert scans.count(scans.train) == dict.fromkeys(CLASSES, 4)
    assert scans.count(scans.val) == dict.fromkeys(CLASSES, 1) and scans.count(scans.test) == dict.fromkeys(CLASSES, 2)
    assert {(scan.name, scan.label, scan.patient) for scan in scans.val} == {
        (f"{name}-{label + 1}03-1.jpeg", label, f"{label + 1}03") for label, name in enumerate(CLASSES)
    }


def test_no_patient_is_trained_on_and_held_out(tmp_path: Path) -> None:
    patients = {"train": {"01": 3, "02": 1, "03": 2, "04": 1}, "val": {"03": 1, "04": 5}, "test": {"04": 2}}
    scans = read_scans(write(tmp_path / "oct", patients))
    assert {scan.patient[1:] for scan in scans.train if scan.patient} == {"01", "02"}
    assert {scan.patient[1:] for scan in scans.val if scan.patient} == {"03"}
    assert scans.left_out == len(CLASSES) * (2 + 1 + 5)


@pytest.mark.parametrize("val", [{}, {"val": {"90": 1}}])
def test_a_part_of_the_patients_is_validated_on_where_asked_for(tmp_path: Path, val: Patients) -> None:
    folder = write(tmp_path / "oct", {"train": {f"{i:02}": 1 + i % 3 for i in range(20)}, **val, "test": {"95": 1}})
    scans = read_scans(folder, validation=0.25)
    validated = {scan.patient for scan in scans.val}
    assert len(validated) == 5 * len(CLASSES) and scans.left_out == 0
    assert validated.isdisjoint({scan.patient for scan in scans.train})
    assert len(scans.train) + len(scans.val) == len(CLASSES) * (sum(1 + i % 3 for i in range(20)) + len(val))
    assert read_scans(folder, validation=0.25) == scans


def test_without_a_folder_val_a_tenth_of_the_patients_is(tmp_path: Path) -> None:
    scans = read_scans(write(tmp_path / "oct", {"train": {f"{i:02}": 1 for i in range(20)}, "test": {"95": 1}}))
    assert scans.count(scans.val) == dict.fromkeys(CLASSES, 2) and scans.count(scans.train) == dict.fromkeys(CLASSES, 18)


def test_scans_of_unknown_patients_count_as_one_each(tmp_path: Path) -> None:
    folder = write(tmp_path / "oct", WHOLE)
    for split in ("train", "test"):
        for name in CLASSES:
            Image.new("L", (40, 40)).save(folder / split / name / "scan.png")
    scans = read_scans(folder)
    assert scans.left_out == 0 and sum(scan.patient is None for scan in scans.train) == len(CLASSES)


# ---------------------------------------------------------------------- OCTMNIST
def arrays(**changes: object) -> dict[str, object]:
    generator, data = np.random.default_rng(0), {}
    for split, count in (("train", 12), ("val", 4), ("test", 8)):
        data[f"{split}_images"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        data[f"{split}_labels"] = (np.arange(count) % 4)[:, None].astype(np.uint8)
    return data | changes


def test_octmnist_is_read(tmp_path: Path) -> None:
    data = arrays()
    np.savez(tmp_path / "octmnist.npz", **data)
    scans = read_scans(tmp_path / "octmnist.npz")
    assert (len(scans.train), len(scans.val), len(scans.test)) == (12, 4, 8)
    assert scans.test[5].label == 1 and np.array_equal(scans.test[5].image, data["test_images"][5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": np.zeros((3, 1), np.uint8)}, "val_images is uint8 (4, 28, 28) with 3 labels"),
        ({"val_images": np.zeros((4, 28, 28, 3), np.uint8)}, "val_images is uint8 (4, 28, 28, 3) with 4 labels"),
        ({"val_labels": np.full((4, 1), 7)}, "val_labels has 7; the classes are 0 to 3"),
        ({"val_labels": np.zeros((4, 1), np.uint8)}, "nothing of DME, DRUSEN, NORMAL is left in val"),
        ({"val_images": np.array([{}], dtype=object)}, "is no .npz of OCTMNIST"),
    ],
)
def test_another_npz_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    np.savez(tmp_path / "octmnist.npz", **arrays(**changes))
    refused(message, read_scans, tmp_path / "octmnist.npz")


def test_no_npz_at_all_is_refused(tmp_path: Path) -> None:
    refused("is no .npz of OCTMNIST", read_scans, tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("text")
    refused("is no .npz of OCTMNIST", read_scans, tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    refused("train_images", read_scans, tmp_path / "other.npz")


# ---------------------------------------------------------------------- refusals
def test_what_is_no_scan_is_named_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "oct", WHOLE)
    for number in range(5):
        (folder / "train" / "DME" / f"DME-77-{number}.jpeg").write_bytes(b"no image")
    Image.new("RGB", (50, 50)).save(folder / "val" / "CNV" / "CNV-88-1.jpeg")
    Image.new("L", (50, 31)).save(folder / "test" / "CNV" / "CNV-99-1.jpeg")
    message = refused("5 scans cannot be read as an image", read_scans, folder)
    assert "DME-77-0.jpeg" in message and "DME-77-2.jpeg, ..." in message and "DME-77-3" not in message
    assert "1 scans are no 8-bit grey-scale images" in message and "CNV-88-1.jpeg (RGB)" in message
    assert "1 scans are smaller than the 32 pixels of the network's stride" in message and "CNV-99-1.jpeg (50x31)" in message


def test_unknown_and_empty_classes_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "oct", WHOLE)
    (folder / "val" / "GLAUCOMA").mkdir()
    refused("1 folders of no known class, GLAUCOMA; known: CNV, DME, DRUSEN, NORMAL", read_scans, folder)
    (folder / "val" / "GLAUCOMA").rmdir()
    for file in (folder / "val" / "DRUSEN").iterdir():
        file.unlink()
    refused("DRUSEN has no scans", read_scans, folder)
    (folder / "val" / "DRUSEN").rmdir()
    refused("DRUSEN has no scans", read_scans, folder)


def test_a_class_whose_patients_are_all_held_out_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "oct", {"train": {"01": 2}, "val": {"01": 1}, "test": {"02": 1}})
    refused("nothing of CNV, DME, DRUSEN, NORMAL is left in train", read_scans, folder)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    refused("there is no folder", read_scans, tmp_path / "missing")
    refused("has no folder train", read_scans, tmp_path)
    (tmp_path / "train").mkdir()
    refused("has no folder test", read_scans, tmp_path)
    refused("validation is 1.5; it is a fraction between 0 and 1", read_scans, tmp_path, validation=1.5)


# ---------------------------------------------------------------------- pixels
def test_a_scan_is_one_channel_of_0_to_1(tmp_path: Path) -> None:
    pixels = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    for scan in (tmp_path / "scan.png", pixels):
        image = read_scan(scan)
        assert image.shape == (1, 40, 48) and image.dtype == np.float32
        assert np.array_equal(image[0], pixels / np.float32(255))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "oct", {"train": {"01": 1}})
    file = next((folder / "train" / "CNV").iterdir())
    file.write_bytes(file.read_bytes()[:-200])
    refused(f"{file} cannot be read as an image", read_scan, file)


@pytest.mark.skipif(not DATA.is_dir(), reason="there is no folder roct in the folder that MONAI_PROX_DATA names")
def test_real_scans_are_read() -> None:
    scans = read_scans(DATA)
    assert (len(scans.train), len(scans.val), len(scans.test), scans.left_out) == (23, 5, 8, 0)
    assert scans.count(scans.train) == {"CNV": 6, "DME": 5, "DRUSEN": 6, "NORMAL": 6}
    assert {read_scan(scan.image).shape for scan in (*scans.train, *scans.val, *scans.test)} <= {(1, 496, 768), (1, 496, 512)}
