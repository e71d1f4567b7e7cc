"""Retinal OCT scans in the layout of their public data sets.

Kermany et al., Cell 2018 (Mendeley Data rscbjbr9sj):

OCT2017/
  train/CNV/CNV-1016042-1.jpeg    class, patient, number of the scan
  val/                            optional
  test/

OCTMNIST (Yang et al., Scientific Data 2023): one .npz with {train,val,test}_images (N, H, W) and _labels (N, 1).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from monai_prox.errors import ProXError
from monai_prox.runtime.classification import SUFFIXES, find_scans

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")  # also OCTMNIST's order
SPLITS = ("train", "val", "test")
PATIENT = re.compile(r"^[A-Za-z]+-(\d+)-\d+$")
SMALLEST = 32  # pixels per axis: the stride of MobileNetV3
NAMED = 3  # files that a message names
MOST_TIMES = 100  # largest ratio of inflated to compressed bytes; images with noise compress little


@dataclass(frozen=True)
class Scan:
    """A retinal scan.

    Args:
        image: a file, or an array (H, W) from 0 to 255.
        label: index of the class.
        patient: the patient, or None if the name of the file does not contain it.
    """

    image: Path | NDArray[np.uint8]
    label: int
    patient: str | None = None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.image.name if isinstance(self.image, Path) else "a scan of the .npz"


@dataclass(frozen=True)
class OctScans:
    """Scans for training, validation and test. No patient is in two of them.

    Args:
        classes: names in the order of the labels.
        train: scans for training.
        val: scans for validation.
        test: scans for the test.
        left_out: number of scans for training or validation that are not used, because their patients are in validation or
            test.
    """

    classes: tuple[str, ...]
    train: tuple[Scan, ...]
    val: tuple[Scan, ...]
    test: tuple[Scan, ...]
    left_out: int = 0

    def balanced_weights(self) -> list[float]:
        """The probability to draw each training scan, not normalised, such that all classes are drawn equally often.

        Returns:
            One weight per scan.
        """
        counts = Counter(scan.label for scan in self.train)
        return [1 / counts[scan.label] for scan in self.train]

    def count(self, split: Sequence[Scan]) -> dict[str, int]:
        """The number of scans by class.

        Args:
            split: the scans.
        """
        numbers = Counter(scan.label for scan in split)
        return {name: numbers[label] for label, name in enumerate(self.classes)}


def read_scans(path: Path | str, *, classes: Sequence[str] = CLASSES, validation: float | None = None) -> OctScans:
    """Reads a data set of retinal scans. Headers of files are read, pixels are not.

    Patients of the test are neither in training nor in validation. Patients of the validation are not in training. A scan
    counts as a patient of its own if its name does not contain the patient.

    Args:
        path: a folder with the folders train and test, or an .npz file of OCTMNIST.
        classes: names of the classes, which are names of folders. An .npz file has to have as many.
        validation: fraction of the patients of each class for validation, taken from train and val together. None means the
            folder val or, if there is none, a tenth of the patients of train.

    Raises:
        ProXError: a class is unknown or empty, or files are not images, are in colour, or are smaller than 32 pixels. The
            message has the number of these files and the names of the first.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "octmnist.npz"
    >>> images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4)[:, None]
    >>> np.savez(file, **{f"{s}_images": images for s in SPLITS}, **{f"{s}_labels": labels for s in SPLITS})
    >>> scans = read_scans(file)
    >>> scans.count(scans.train)
    {'CNV': 1, 'DME': 1, 'DRUSEN': 1, 'NORMAL': 1}
    """
    path = Path(path)
    if validation is not None and not 0 < validation < 1:
        raise ProXError(f"validation is {validation!r}; it is a fraction between 0 and 1, or None")
    if path.suffix == ".npz":
        return _read_npz(path, tuple(classes))
    if not path.is_dir():
        raise ProXError(f"there is no folder {path}; give one with train and test, which have a folder of scans for each class")
    for split in ("train", "test"):
        if not (path / split).is_dir():
            raise ProXError(f"{path} has no folder {split}; there must be train and test, and may be val")
    splits = {split: _read_split(path / split, tuple(classes)) for split in SPLITS if (path / split).is_dir()}
    check_scans(scan for split in splits.values() for scan in split)
    test, pool = splits["test"], splits["train"]
    tested = {scan.patient for scan in test} - {None}
    if "val" in splits and validation is None:
        val = [scan for scan in splits["val"] if scan.patient not in tested]
    else:
        pool = [*pool, *splits.get("val", [])]
        val = _validation([scan for scan in pool if scan.patient not in tested], 0.1 if validation is None else validation)
    held_out, chosen = tested | {scan.patient for scan in val} - {None}, {id(scan) for scan in val}
    train = [scan for scan in pool if scan.patient not in held_out and id(scan) not in chosen]
    left_out = sum(map(len, splits.values())) - len(train) - len(val) - len(test)
    scans = OctScans(tuple(classes), tuple(train), tuple(val), tuple(test), left_out)
    for split in ("train", "val"):
        _check_classes(scans, split, f"{path}, once patients of the other splits are taken out")
    return scans


def _read_split(folder: Path, classes: tuple[str, ...]) -> list[Scan]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise ProXError(
            f"{folder} has {len(unknown)} folders of no known class, {_first(unknown)}; known: {', '.join(classes)}"
        )
    scans = []
    for label, name in enumerate(classes):
        files = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        files = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not files:
            raise ProXError(f"{folder / name} has no scans ({', '.join(SUFFIXES)}); every class needs some in every split")
        for file in files:
            match = PATIENT.match(file.stem)
            scans.append(Scan(file, label, match and match[1]))
    return scans


def _validation(scans: list[Scan], fraction: float) -> list[Scan]:
    """The scans of a fraction of the patients of each class, at least of one, evenly spaced in the order of their numbers."""
    chosen: list[Scan] = []
    for label in sorted({scan.label for scan in scans}):
        patients: dict[Any, list[Scan]] = {}
        for scan in scans:
            if scan.label == label:
                patients.setdefault(scan.patient or scan.name, []).append(scan)
        names = sorted(patients)
        count = max(1, round(fraction * len(names)))
        chosen += [scan for index in range(count) for scan in patients[names[index * len(names) // count]]]
    return chosen


def _read_npz(path: Path, classes: tuple[str, ...]) -> OctScans:
    try:
        with ZipFile(path) as archive:
            inflated, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
        if inflated > MOST_TIMES * size:
            raise ValueError(f"its {size:,} bytes would become {inflated:,}; at most {MOST_TIMES} times as many are allowed")
        with np.load(path, allow_pickle=False) as arrays:
            data = {key: arrays[key] for key in (f"{split}_{part}" for split in SPLITS for part in ("images", "labels"))}
    except Exception as error:  # numpy, zipfile and zlib raise errors of many kinds
        raise ProXError(f"{path} is no .npz of OCTMNIST: {error}") from error
    splits: dict[str, tuple[Scan, ...]] = {}
    for split in SPLITS:
        images, labels = data[f"{split}_images"], data[f"{split}_labels"].reshape(-1)
        if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(labels):
            raise ProXError(
                f"{path}: {split}_images is {images.dtype} {images.shape} with {len(labels)} labels; it must be uint8 "
                "(N, H, W) with N labels"
            )
        wrong = sorted(set(labels.tolist()) - set(range(len(classes))))
        if wrong:
            raise ProXError(f"{path}: {split}_labels has {_first(wrong)}; the classes are 0 to {len(classes) - 1}")
        splits[split] = tuple(Scan(image, int(label)) for image, label in zip(images, labels, strict=True))
    scans = OctScans(classes, splits["train"], splits["val"], splits["test"])
    for split in SPLITS:
        _check_classes(scans, split, str(path))
    return scans


def _check_classes(scans: OctScans, split: str, source: str) -> None:
    empty = [name for name, count in scans.count(getattr(scans, split)).items() if not count]
    if empty:
        raise ProXError(f"{source}: nothing of {', '.join(empty)} is left in {split}; every class needs some in every split")


def check_scans(scans: Iterable[Scan]) -> None:
    """Checks by their headers that scans are grey-scale images that are large enough.

    Args:
        scans: the scans.

    Raises:
        ProXError: some are not. The message has the number of these and the names of the first.
    """
    wrong: dict[str, list[str]] = {}
    for scan in scans:
        if not isinstance(scan.image, Path):
            continue
        try:
            with Image.open(scan.image) as image:
                mode, size = image.mode, image.size
        except (UnidentifiedImageError, OSError):
            wrong.setdefault("cannot be read as an image", []).append(str(scan.image))
            continue
        if mode != "L":
            wrong.setdefault("are no 8-bit grey-scale images", []).append(f"{scan.image} ({mode})")
        if min(size) < SMALLEST:
            too_small = f"are smaller than the {SMALLEST} pixels of the network's stride"
            wrong.setdefault(too_small, []).append(f"{scan.image} ({size[0]}x{size[1]})")
    if wrong:
        raise ProXError("; ".join(f"{len(names)} scans {problem}, {_first(names)}" for problem, names in wrong.items()))


def _first(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:NAMED])) + (", ..." if len(names) > NAMED else "")


def scan_files(folder: Path | str) -> list[str]:
    """The scans in a folder, sorted.

    Args:
        folder: the folder.

    Returns:
        Paths of image files.

    Raises:
        ProXError: there are none, or ``check_scans`` refuses them.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("L", (64, 64)).save(folder / "scan.png")
    >>> [Path(file).name for file in scan_files(folder)]
    ['scan.png']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ProXError(f"there is no folder {folder}; give one with scans ({', '.join(SUFFIXES)})")
    files = find_scans(folder)
    check_scans(Scan(file, 0) for file in files)
    return [str(file) for file in files]


def read_scan(scan: Path | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reads the pixels of a scan.

    Args:
        scan: a file, or an array (H, W) from 0 to 255.

    Returns:
        (1, H, W), from 0 to 1.

    Raises:
        ProXError: the file cannot be read.
    """
    if isinstance(scan, np.ndarray):
        return np.asarray(scan[None] / np.float32(255), dtype=np.float32)
    try:
        with Image.open(scan) as image:
            return np.asarray(np.asarray(image.convert("L"))[None] / np.float32(255), dtype=np.float32)
    except (UnidentifiedImageError, OSError) as error:
        raise ProXError(f"{scan} cannot be read as an image: {error}") from error
