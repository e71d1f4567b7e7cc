"""DICOM series in a folder, by what its files are. Files may have any names and lie in folders within it.

Messages name a series by its folder or by its SeriesInstanceUID. Names of files, and most of what is in them, may tell who the
patient is.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

START, MARK = 128, b"DICM"  # every DICOM file has the mark there
BARE = (b"\x02\x00", b"\x08\x00")  # with what files begin that lack all before their elements: the first group's number
UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # it becomes part of paths
LONGEST_UID = 64
LONGEST_NAME = 200  # bytes; most systems allow 255, of which endings and temporary names take some


@dataclass(frozen=True)
class Series:
    """name: of its folder below the one that was searched, with _ between folders, or its SeriesInstanceUID. files: its images,
    in no order. damaged: DICOM files in its folders that cannot be read, some of which may be its images.
    """

    name: str
    files: tuple[Path, ...]
    damaged: int = 0


def is_dicom(path: Path) -> bool:
    """Raises OSError where the file cannot be read."""
    with path.open("rb") as file:
        file.seek(START)
        return file.read(len(MARK)) == MARK


def _is_bare(path: Path) -> bool:
    """Whether it may be a DICOM file that lacks the mark, and must not be left out of a series without a word."""
    with path.open("rb") as file:
        return file.read(2) in BARE and file.read(2)[1:] == b"\x00"


def find_series(folder: Path) -> list[Series]:
    """All series of images, by name; [] where there is no DICOM file. Reports, segmentations and the like are left out."""
    marked, damaged = list[Path](), Counter[Path]()
    for path in _files(folder, damaged):
        try:
            if path.is_file() and is_dicom(path):
                marked.append(path)
            elif path.is_file() and _is_bare(path):
                damaged[path.parent] += 1
        except OSError:
            damaged[path.parent] += 1
    if not marked:
        return []
    from monai_prox.runtime.dicom_headers import NO_IMAGE, series_of  # pydicom, which those who have no DICOM do not need

    files = defaultdict[str, list[Path]](list)
    for path in marked:
        uid = series_of(path)
        if uid == NO_IMAGE:
            continue
        if uid is None or len(uid) > LONGEST_UID or not UID.fullmatch(uid):
            damaged[path.parent] += 1
        else:
            files[uid].append(path)
    folders = {uid: {path.parent for path in paths} for uid, paths in files.items()}
    names = _names(folder, folders)
    found = [Series(names[uid], tuple(paths), sum(damaged[of] for of in folders[uid])) for uid, paths in files.items()]
    alone = set(damaged).difference(*folders.values())
    found += [Series(_name(folder, of), (), damaged[of]) for of in alone]
    return sorted(found, key=lambda series: series.name)


def _files(folder: Path, damaged: Counter[Path]) -> Iterator[Path]:
    """Hidden ones are left out, unfinished ones of this package among them. Links to folders are followed, each folder once.

    damaged: gets the folders that cannot be read.
    """
    seen = set[str]()
    for place, folders, names in os.walk(
        folder, onerror=lambda error: damaged.update([Path(error.filename)]), followlinks=True
    ):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _names(root: Path, folders: Mapping[str, set[Path]]) -> dict[str, str]:
    """By SeriesInstanceUID: of a folder that is this series' alone, else the UID itself."""
    shared = Counter(folder for of in folders.values() for folder in of)
    names = {uid: uid for uid in folders}
    for uid, of in folders.items():
        if len(of) == 1 and shared[folder := next(iter(of))] == 1:
            names[uid] = _name(root, folder) or uid
    taken = Counter(names.values())
    return {uid: name if taken[name] == 1 and len(os.fsencode(name)) <= LONGEST_NAME else uid for uid, name in names.items()}


def _name(root: Path, folder: Path) -> str:
    return "_".join(folder.relative_to(root).parts) or root.resolve().name
