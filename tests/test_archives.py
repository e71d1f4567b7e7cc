"""Archives from outside: what is in them stays where it belongs, and only what was published is unpacked.

nnU-Net's own command installs zips of models; here a task's .tar is downloaded and an .npz of scans is read, nothing else.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused
from monai.apps import DecathlonDataset

from monai_prox.data.decathlon import download
from monai_prox.data.oct import SPLITS, read_scans

TASK = "Task04_Hippocampus"


def published(folder: Path, names: dict[str, bytes | str], monkeypatch: pytest.MonkeyPatch, *, whole: bool = True) -> None:
    """An archive as if it had been downloaded, with the checksum of the real one. A text is the target of a link."""
    folder.mkdir()
    path = folder / f"{TASK}.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in names.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    checksum = hashlib.md5(path.read_bytes()).hexdigest() if whole else "0" * 32
    monkeypatch.setattr("monai.apps.utils.get_filename_from_url", lambda url: path.name)  # it would ask the network
    monkeypatch.setitem(DecathlonDataset.md5, TASK, checksum)


def test_a_task_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the refusals below would show nothing."""
    published(tmp_path / "data", {f"{TASK}/dataset.json": b"{}"}, monkeypatch)
    assert (download(TASK, tmp_path / "data") / "dataset.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "names",
    [
        {"../outside": b"x"},
        {f"{TASK}/../../outside": b"x"},
        {"ABSOLUTE": b"x"},
        {f"{TASK}/link": "../..", f"{TASK}/link/outside": b"x"},
    ],
    ids=["above", "above from within", "absolute", "through a link"],
)
def test_nothing_is_unpacked_outside_of_the_folder(
    names: dict[str, bytes | str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    published(tmp_path / "data", {name.replace("ABSOLUTE", str(outside)): of for name, of in names.items()}, monkeypatch)
    refused(f"{TASK} cannot be downloaded", download, TASK, tmp_path / "data")
    assert not outside.exists()


def test_another_archive_than_the_published_one_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path / "data", {f"{TASK}/dataset.json": b"{}"}, monkeypatch, whole=False)
    refused(f"{TASK} cannot be downloaded", download, TASK, tmp_path / "data")
    assert not (tmp_path / "data" / TASK).exists()


# ---------------------------------------------------------------------- an .npz is a zip
def test_a_crafted_npz_is_refused(tmp_path: Path) -> None:
    """Broken, with a member that claims terabytes, and one whose name leads out."""
    arrays = {
        f"{split}_{part}": np.zeros((2, 32, 32) if part == "images" else (2, 1), np.uint8)
        for split in SPLITS
        for part in ("images", "labels")
    }
    path = tmp_path / "octmnist.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        refused("octmnist.npz", read_scans, path)
    huge = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 100), }"
    header = b"\x93NUMPY\x01\x00" + (len(huge) + 1).to_bytes(2, "little") + huge + b"\n"
    for name in ("train_images.npy", "../outside.npy"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, header)
        refused("octmnist.npz", read_scans, path)
    assert not (tmp_path.parent / "outside.npy").exists()
