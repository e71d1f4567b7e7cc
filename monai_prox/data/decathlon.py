"""Tasks in the folder format of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022).

Task04_Hippocampus/
  dataset.json    "modality": {"0": "MRI"}, "labels": {"0": "background", ...}, "training": [{"image", "label"}, ...]
  imagesTr/       NIfTI, (x, y, z), or (x, y, z, channel) where there are several channels
  labelsTr/       NIfTI, (x, y, z)
  imagesTs/       optional, without labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from monai_prox.errors import ProXError
from monai_prox.files import read_json
from monai_prox.runtime.nifti_images import directions, opened

SOURCE = "http://medicaldecathlon.com"
PARTS = ("dataset.json", "imagesTr", "labelsTr")
IMAGES = "*.nii.gz"
SAME_DIRECTION = 1e-2  # cosines


@dataclass(frozen=True)
class Geometry:
    """What a header says, as MONAI loads it. shape: voxels per axis; spacing: mm per axis."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class Case:
    image: Path
    label: Path

    @property
    def name(self) -> str:
        return self.image.name


@dataclass(frozen=True)
class DecathlonTask:
    """A task as its dataset.json describes it.

    channels: their names in order; labels: names, the index is the value in the label images, the first the background.
    """

    folder: Path
    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    cases: tuple[Case, ...]
    licence: str = ""

    @classmethod
    def read(cls, folder: Path | str) -> DecathlonTask:
        """Raises ProXError where ``folder`` is no task, or dataset.json is not whole or names files that are not there."""
        folder = Path(folder)
        check_tree(folder)
        path = folder / "dataset.json"
        data = read_json(path)
        channels, labels = _numbered(data["modality"], path, "modality"), _numbered(data["labels"], path, "labels")
        if len(labels) < 2:
            raise ProXError(f"{path} has the labels {list(labels)}; there must be at least one beside the background")
        licence = str(data.get("licence") or data.get("license") or "")
        return cls(folder, folder.resolve().name, channels, labels, tuple(listed_cases(data, folder)), licence)

    def split(self, validation_cases: int | None = None) -> tuple[list[Case], list[Case]]:
        """Cases for training and for validation: the last ``validation_cases`` by name, a fifth if None.

        The only case of a task of one is in both. Raises ProXError where nothing would be left to train on.
        """
        cases = sorted(self.cases, key=lambda case: case.image.name)
        if len(cases) == 1 and validation_cases in (None, 1):
            return cases, cases
        count = ceil(len(cases) / 5) if validation_cases is None else validation_cases
        if not isinstance(count, int) or not 0 < count < len(cases):
            allowed = f"1 to {len(cases) - 1}" if len(cases) > 1 else "1"
            raise ProXError(f"validation_cases is {count!r}; {self.name} has {len(cases)} cases: allowed are {allowed}")
        return cases[:-count], cases[-count:]

    def geometry(self, case: Case, orientation: str | None = None) -> Geometry:
        """Shape and spacing of a case's image, from the headers.

        orientation: axis codes such as "RAS" of the axes that are meant, None for those of the file. Raises ProXError where
        headers contradict dataset.json or each other.
        """
        image, label = open_header(case.image), open_header(case.label)
        shape = image.shape
        channels = shape[3] if len(shape) == 4 else 1
        if len(shape) not in (3, 4) or channels != len(self.channels):
            raise ProXError(
                f"{case.image} has the shape {shape}, so {channels} channels; dataset.json of {self.name} names "
                f"{len(self.channels)}: {', '.join(self.channels)}"
            )
        if label.shape not in (shape[:3], (*shape[:3], 1)):
            raise ProXError(f"{case.label} has the shape {label.shape}, its image {case.image.name} {shape[:3]}")
        # Of the affine, by which images are resampled; the header's own voxel sizes may say something else
        spacing, labels = (tuple(float(size) for size in voxel_sizes(one.affine)) for one in (image, label))
        if not all(isfinite(size) and size > 0 for size in spacing):
            raise ProXError(f"{case.image} has the voxel size {spacing} mm; it must be positive")
        if any(abs(own - other) > 0.01 * own for own, other in zip(spacing, labels, strict=True)):
            raise ProXError(f"{case.label} has the voxel size {labels} mm, its image {case.image.name} {spacing}")
        return geometry_of(image, orientation)


def check_tree(folder: Path) -> None:
    """Raises ProXError, with what to do, unless ``folder`` has the tree of a task with labelled training cases."""
    if not folder.is_dir():
        raise ProXError(
            f"there is no folder {folder}; give the folder of a Decathlon task as dataset_dir, with dataset.json, imagesTr and "
            f"labelsTr in it. The tasks are at {SOURCE}, e.g. Task04_Hippocampus.tar, and unpack to such a folder"
        )
    for part in PARTS:
        if not (folder / part).exists():
            raise ProXError(f"{folder} has no {part}; a Decathlon task has dataset.json, imagesTr and labelsTr ({SOURCE})")
    data = read_json(folder / "dataset.json")
    missing = [key for key in ("labels", "modality") if not isinstance(data, dict) or key not in data]
    if missing:
        raise ProXError(f"{folder / 'dataset.json'} lacks {', '.join(missing)}, which the Decathlon's files have")


def find_task(task: str, dataset_dir: Path | str, *, download_missing: bool = False) -> DecathlonTask:
    """The task in ``dataset_dir``; where it is missing and ``download_missing``, it is fetched by its name first."""
    folder = Path(dataset_dir)
    if not isinstance(download_missing, bool):
        raise ProXError(f"download is {download_missing!r}; write True or False")
    if download_missing and not (folder / "dataset.json").is_file():
        if folder.name != task:
            raise ProXError(f"dataset_dir is {folder}; to download {task} it must end in {task}")
        download(task, folder.parent)
    return DecathlonTask.read(folder)


def download(task: str, folder: Path) -> Path:
    """Fetches a task by its name, e.g. Task04_Hippocampus, into ``folder``. Raises ProXError where that fails."""
    from monai.apps import DecathlonDataset, download_and_extract

    if task not in DecathlonDataset.resource:
        known = ", ".join(DecathlonDataset.resource)
        raise ProXError(f"{task} is neither a folder nor a Decathlon task to download; known tasks: {known}")
    if not (folder / task / "dataset.json").is_file():
        try:
            url, checksum = DecathlonDataset.resource[task], DecathlonDataset.md5[task]
            download_and_extract(url, folder / f"{task}.tar", folder, checksum, hash_type="md5")
        except Exception as error:  # many kinds, from DNS to a wrong checksum
            raise ProXError(
                f"{task} cannot be downloaded ({type(error).__name__}: {str(error)[:120]}); fetch "
                f"{DecathlonDataset.resource[task]} elsewhere, unpack it and give its folder instead of its name"
            ) from None
    return folder / task


def image_files(folder: Path | str) -> list[str]:
    """Images to predict: a task's imagesTs, else its imagesTr, else what lies in ``folder`` itself; sorted.

    Raises ProXError where there are none.
    """
    for place in (Path(folder, "imagesTs"), Path(folder, "imagesTr"), Path(folder)):
        found = sorted(str(path) for path in place.glob(IMAGES) if not path.name.startswith("."))
        if found:
            return found
    raise ProXError(f"there is no image ({IMAGES}) in {folder}, its imagesTs or its imagesTr")


def _numbered(entries: Any, path: Path, key: str) -> tuple[str, ...]:
    """The names of {"0": name, "1": name, ...}."""
    if not isinstance(entries, dict) or sorted(entries) != sorted(str(number) for number in range(len(entries))) or not entries:
        raise ProXError(f'{path}: {key} must be numbered without gaps, {{"0": name, "1": name, ...}}, got {entries!r:.160}')
    return tuple(str(entries[str(number)]) for number in range(len(entries)))


def listed_cases(data: dict[str, Any], folder: Path) -> Sequence[Case]:
    """Of a task's dataset.json. Raises ProXError where it lists none, or files that are not there or not the task's."""
    listed = data.get("training")
    if not isinstance(listed, list) or not listed:
        raise ProXError(f"{folder / 'dataset.json'} lists no training cases")
    cases = []
    for entry in listed:
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            raise ProXError(f"{folder / 'dataset.json'}: a training case has an image and a label, got {entry!r:.160}")
        cases.append(Case(*(_within(folder, entry[key]) for key in ("image", "label"))))
    missing = [str(path) for case in cases for path in (case.image, case.label) if not path.is_file()]
    if missing:
        raise ProXError(f"dataset.json of {folder} lists {len(missing)} files that are not there, the first is {missing[0]}")
    return cases


def _within(folder: Path, name: Any) -> Path:
    """The file ``name`` of dataset.json. Raises ProXError for one outside of the task's folder."""
    if not isinstance(name, str) or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ProXError(f"{folder / 'dataset.json'} lists {name!r:.160}; files are named from the task's folder down")
    return folder / name


def geometry_of(image: Any, orientation: str | None) -> Geometry:
    """What the header of a NIfTI ``image`` says, see ``DecathlonTask.geometry``."""
    spacing, axes = voxel_sizes(image.affine), range(3)
    if orientation is not None:
        turned = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))
        axes = turned[:, 0].argsort().tolist()
    return Geometry(tuple(image.shape[axis] for axis in axes), tuple(float(spacing[axis]) for axis in axes))


def open_header(path: Path) -> Any:
    """A NIfTI image, of which only the header is read, with the affine that MONAI gives it where sform and pixdim disagree.

    Raises ProXError for other files, and where MONAI gives it the orientation of a qform that is not set.
    """
    from monai.data.utils import correct_nifti_header_if_necessary

    image = opened(path)
    try:
        stored = image.affine.copy()
        image = correct_nifti_header_if_necessary(image)
    except Exception as error:  # of images that are no NIfTI
        raise ProXError(f"{path} cannot be read as NIfTI: {' '.join(str(error).split()):.160}") from None
    if not hasattr(image, "get_qform") or image.get_qform(coded=True)[1] or not np.isfinite(stored).all():
        return image
    if not np.allclose(directions(stored), directions(image.affine), atol=SAME_DIRECTION):
        raise ProXError(
            f"{path}: the voxel sizes of its sform and of pixdim differ, so MONAI takes the qform, whose code is 0 and which "
            "turns the image; write it again with pixdim as in the sform, as nibabel does"
        )
    return image
