"""Tasks in the folder format of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022).

Task04_Hippocampus/
  dataset.json    "modality": {"0": "MRI"}, "labels": {"0": "background", ...}, "training": [{"image", "label"}, ...]
  imagesTr/       NIfTI, (x, y, z), or (x, y, z, channel) where there are several channels
  labelsTr/       NIfTI, (x, y, z)
  imagesTs/       optional, without labels
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
SAME_DIRECTION = 1e-2  # cosines


@dataclass(frozen=True)
class Geometry:
    """The geometry of an image as MONAI loads it.

    Args:
        shape: voxels per axis.
        spacing: mm per axis.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """A case with a label image.

    Args:
        image: file of the image.
        label: file of the label image.
    """

    image: Path
    label: Path

    @property
    def name(self) -> str:
        return self.image.name


@dataclass(frozen=True)
class DecathlonTask:
    """A task as its dataset.json describes it.

    Args:
        folder: folder of the task.
        name: name of the folder.
        channels: names of the channels, in their order.
        labels: names of the labels. The index of a name is its value in the label images. The first is the background.
        cases: the labelled cases.
        licence: licence of the data, or "".
        named: whether somebody has named the channels and labels. If not, they are numbered.
        source: what says how many channels there are, in words. "" means dataset.json.
    """

    folder: Path
    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    cases: tuple[Case, ...]
    licence: str = ""
    named: bool = True
    source: str = ""

    @classmethod
    def read(cls, folder: Path | str) -> DecathlonTask:
        """Reads a task.

        Args:
            folder: folder of the task.

        Raises:
            ProXError: the folder is not a task, or dataset.json is incomplete or names files that do not exist.
        """
        folder = Path(folder)
        check_tree(folder)
        path = folder / "dataset.json"
        data = read_json(path)
        channels, labels = named_channels(data, path)
        licence = str(data.get("licence") or data.get("license") or "")
        return cls(folder, folder.resolve().name, channels, labels, tuple(listed_cases(data, folder)), licence)

    def split(self, validation_cases: int | None = None) -> tuple[list[Case], list[Case]]:
        """Splits the cases into those for training and those for validation.

        Args:
            validation_cases: number of cases for validation, which are the last by name. None means a fifth of all.

        Returns:
            Cases for training and cases for validation. If a task has only one case, the case is in both.

        Raises:
            ProXError: the number is out of range.
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

        Args:
            case: the case.
            orientation: axis codes such as "RAS" of the axes of the result. None means the axes of the file.

        Raises:
            ProXError: a file cannot be read, or the headers contradict dataset.json or each other.
        """
        image, label = open_header(case.image), open_header(case.label)
        shape, channels = image.shape, channel_count(image, case.image)
        if channels != len(self.channels):
            raise ProXError(
                f"{case.image} has the shape {shape}, so {channels} channels; {self.source or f'dataset.json of {self.name}'} "
                f"has {len(self.channels)}: {', '.join(self.channels)}"
            )
        if label.shape not in (shape[:3], (*shape[:3], 1)):
            raise ProXError(f"{case.label} has the shape {label.shape}, its image {case.image.name} {shape[:3]}")
        # Images are resampled by the affine. The header's own voxel sizes may differ.
        spacing, label_spacing = (tuple(float(length) for length in voxel_sizes(opened.affine)) for opened in (image, label))
        if not all(isfinite(length) and length > 0 for length in spacing):
            raise ProXError(f"{case.image} has the voxel size {spacing} mm; it must be positive")
        if any(abs(size - label_size) > 0.01 * size for size, label_size in zip(spacing, label_spacing, strict=True)):
            raise ProXError(f"{case.label} has the voxel size {label_spacing} mm, its image {case.image.name} {spacing}")
        return geometry_of(image, orientation)


def check_tree(folder: Path) -> None:
    """Checks that a folder has the files of a task with labelled training cases.

    Args:
        folder: folder of the task.

    Raises:
        ProXError: something is missing. The message says what to do.
    """
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
    """Reads a task of the Medical Segmentation Decathlon, and downloads it first if asked.

    Args:
        task: name of the task, such as "Task04_Hippocampus". It is used to download only.
        dataset_dir: folder of the task.
        download_missing: whether a missing task is downloaded. Then ``dataset_dir`` has to end in the name of the task.

    Raises:
        ProXError: the folder is not a task, or the download fails.

    >>> import tempfile
    >>> from monai_prox.data.phantom import write_phantom_task
    >>> folder = write_phantom_task(tempfile.mkdtemp(), cases=1, test_cases=0)
    >>> find_task("Task990_Phantom", folder).labels
    ('background', 'anterior', 'posterior')
    """
    folder = Path(dataset_dir)
    if not isinstance(download_missing, bool):
        raise ProXError(f"download is {download_missing!r}; write True or False")
    if download_missing and not (folder / "dataset.json").is_file():
        if folder.name != task:
            raise ProXError(f"dataset_dir is {folder}; to download {task} it must end in {task}")
        download(task, folder.parent)
    return DecathlonTask.read(folder)


def download(task: str, folder: Path) -> Path:
    """Downloads a task of the Medical Segmentation Decathlon.

    Args:
        task: name of the task, such as "Task04_Hippocampus".
        folder: folder in which the folder of the task is made.

    Returns:
        The folder of the task.

    Raises:
        ProXError: the task is unknown, or the download fails.
    """
    from monai.apps import DecathlonDataset, download_and_extract

    if task not in DecathlonDataset.resource:
        names = ", ".join(DecathlonDataset.resource)
        raise ProXError(f"{task} is neither a folder nor a Decathlon task to download; known tasks: {names}")
    if not (folder / task / "dataset.json").is_file():
        try:
            url, checksum = DecathlonDataset.resource[task], DecathlonDataset.md5[task]
            download_and_extract(url, folder / f"{task}.tar", folder, checksum, hash_type="md5")
        except Exception as error:  # of many kinds, from DNS to a wrong checksum
            raise ProXError(
                f"{task} cannot be downloaded ({type(error).__name__}: {str(error)[:120]}); fetch "
                f"{DecathlonDataset.resource[task]} elsewhere, unpack it and give its folder instead of its name"
            ) from None
    return folder / task


def named_channels(data: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of channels and labels.

    Args:
        data: content of dataset.json.
        path: the file.

    Raises:
        ProXError: they are not numbered without gaps, or there is no label beside the background.
    """
    channels, labels = _numbered(data["modality"], path, "modality"), _numbered(data["labels"], path, "labels")
    if len(labels) < 2:
        raise ProXError(f"{path} has the labels {list(labels)}; there must be at least one beside the background")
    return channels, labels


def _numbered(entries: Any, path: Path, key: str) -> tuple[str, ...]:
    """The names of {"0": name, "1": name, ...}."""
    if not isinstance(entries, dict) or sorted(entries) != sorted(str(number) for number in range(len(entries))) or not entries:
        raise ProXError(f'{path}: {key} must be numbered without gaps, {{"0": name, "1": name, ...}}, got {entries!r:.160}')
    return tuple(str(entries[str(number)]) for number in range(len(entries)))


def listed_cases(data: dict[str, Any], folder: Path) -> Sequence[Case]:
    """The cases that dataset.json lists.

    Args:
        data: content of dataset.json.
        folder: folder of the task.

    Raises:
        ProXError: there are no cases, an image is listed twice, or files do not exist or are not in the folder.
    """
    listed = data.get("training")
    if not isinstance(listed, list) or not listed:
        raise ProXError(f"{folder / 'dataset.json'} lists no training cases")
    cases = []
    for entry in listed:
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            raise ProXError(f"{folder / 'dataset.json'}: a training case has an image and a label, got {entry!r:.160}")
        cases.append(Case(*(_within(folder, entry[key]) for key in ("image", "label"))))
    (often, count), *_ = Counter(case.image for case in cases).most_common(1)
    if count > 1:  # it would be trained on, and held out as well
        raise ProXError(f"{folder / 'dataset.json'} lists {often.relative_to(folder)} {count} times; an image is one case")
    missing = [str(path) for case in cases for path in (case.image, case.label) if not path.is_file()]
    if missing:
        raise ProXError(f"dataset.json of {folder} lists {len(missing)} files that are not there, the first is {missing[0]}")
    return cases


def _within(folder: Path, name: Any) -> Path:
    """The file that dataset.json names ``name``, which has to be in the folder of the task."""
    if not isinstance(name, str) or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ProXError(f"{folder / 'dataset.json'} lists {name!r:.160}; files are named from the task's folder down")
    return folder / name


def geometry_of(image: Any, orientation: str | None) -> Geometry:
    """What the header of a NIfTI ``image`` says, see ``DecathlonTask.geometry``."""
    spacing, axes = voxel_sizes(image.affine), turned_axes(image, orientation)
    return Geometry(tuple(image.shape[axis] for axis in axes), tuple(float(spacing[axis]) for axis in axes))


def turned_axes(image: Any, orientation: str | None) -> list[int]:
    """The axes of a NIfTI ``image`` in the order that they have when it is turned to ``orientation``."""
    if orientation is None:
        return [0, 1, 2]
    axes: list[int] = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))[:, 0].argsort().tolist()
    return axes


def channel_count(image: Any, path: Path) -> int:
    """The number of an image's channels.

    Args:
        image: what ``open_header`` returned, (x, y, z) or (x, y, z, channel).
        path: file of the image.

    Raises:
        ProXError: it has other axes.
    """
    if len(image.shape) not in (3, 4):
        raise ProXError(f"{path} has the shape {image.shape}; an image has three axes, and a fourth if it has channels")
    return int(image.shape[3]) if len(image.shape) == 4 else 1


def open_header(path: Path) -> Any:
    """Opens a NIfTI image and reads its header only.

    The image has the affine that MONAI gives it if sform and pixdim disagree.

    Args:
        path: file of the image.

    Raises:
        ProXError: the file is not NIfTI, or MONAI would turn the image by a qform that is not set.
    """
    from monai.data.utils import correct_nifti_header_if_necessary

    image = opened(path)
    try:
        stored = image.affine.copy()
        image = correct_nifti_header_if_necessary(image)
    except Exception as error:  # MONAI raises errors of many kinds for images that are not NIfTI
        raise ProXError(f"{path} cannot be read as NIfTI: {' '.join(str(error).split()):.160}") from None
    if not hasattr(image, "get_qform") or image.get_qform(coded=True)[1] or not np.isfinite(stored).all():
        return image
    if not np.allclose(directions(stored), directions(image.affine), atol=SAME_DIRECTION):
        raise ProXError(
            f"{path}: the voxel sizes of its sform and of pixdim differ, so MONAI takes the qform, whose code is 0 and which "
            "turns the image; write it again with pixdim as in the sform, as nibabel does"
        )
    return image
