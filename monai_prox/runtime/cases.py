"""Image files by case: ``case_0000.nii.gz`` and so on, a file per channel, as nnU-Net names them; or one, as MONAI reads."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.runtime import itk_images
from monai_prox.runtime.description import ALL_CHANNELS, PICTURES, TURNED, Description
from monai_prox.runtime.dicom_files import Series, find_series, is_dicom
from monai_prox.runtime.images import Grid, Image, check_place

CHANNEL = re.compile(r"(?P<case>.*)_(?P<channel>[0-9]{4})", re.DOTALL)  # the name of a series of several that are a case
BESIDE = "._"  # how files begin that macOS puts beside others on disks of other systems
MOST_NAMED = 3  # files in a warning


@dataclass(frozen=True)
class Case:
    """name: of the output, without ending. files: by channel; listed: whether somebody says so, and not their names.

    series: by channel, of DICOM, whose files are those of all series. Its files' names may tell who the patient is.
    """

    name: str
    files: tuple[Path, ...]
    listed: bool = False
    series: tuple[Series, ...] = ()

    def __str__(self) -> str:
        return self.name if self.series else str(self.files[0])


def find_cases(images: Path, description: Description) -> list[Case]:
    """Cases of a folder, or the one that is a file. Raises ProXError where there is none.

    DICOM series are looked for in a folder that has no images by their names. Where some have such names, the others are warned
    of.
    """
    ending, whole = description.file_ending, description.reader == ALL_CHANNELS
    if images.is_file():
        if not images.name.endswith(ending):
            if is_dicom(images):
                raise ProXError(f"{images} is an image of a DICOM series; give the folder of the series")
            raise ProXError(f"{images} is not an image of the kind that the network is for, *{ending}")
        name = images.name.removesuffix(ending)
        return [Case(name if whole else name.removesuffix("_0000"), (images,))]
    if not images.is_dir():
        raise ProXError(f"there is no folder and no image {images}")
    if whole:
        files = sorted(path for path in images.glob(f"*{ending}") if not path.name.startswith("."))
        if not files:
            return _cases_of_series(images, description, f"*{ending}")
        return [Case(path.name.removesuffix(ending), (path,)) for path in files]
    cut = -len(f"_0000{ending}")
    paths = (path for path in images.glob(f"*_[0-9][0-9][0-9][0-9]{ending}") if not path.name.startswith(BESIDE))
    found = sorted((path.name[:cut], path) for path in paths)
    if not found:
        return _cases_of_series(images, description, f"named like case_0000{ending}")
    cases = [Case(name, tuple(path for _, path in of)) for name, of in groupby(found, key=lambda pair: pair[0])]
    _warn_of_others(images, ending, {f"{case.name}{ending}" for case in cases} | {path.name for _, path in found})
    return cases


def _warn_of_others(folder: Path, ending: str, known: Collection[str]) -> None:
    """known: names of images, and of the masks of their cases, which may have been written beside them."""
    others = sorted(path.name for path in folder.glob(f"*{ending}") if path.name not in known and path.name[0] != ".")
    if others:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        warnings.warn(
            f"{folder}: not named like case_0000{ending}, and so left out: {', '.join(others[:MOST_NAMED])}{more}",
            stacklevel=3,
        )


def _cases_of_series(folder: Path, description: Description, wanted: str) -> list[Case]:
    """Each DICOM series, or where the network has several channels, those whose names are CASE_0000, CASE_0001 and so on."""
    series = find_series(folder)
    if not series:
        raise ProXError(f"{folder} has no image {wanted}, and no DICOM series")
    if description.reader == PICTURES:
        raise ProXError(f"{folder} has DICOM series, and the network is for pictures, *{description.file_ending}")
    by_name = defaultdict[str, list[Series]](list)
    for one in series:
        named = CHANNEL.fullmatch(one.name) if len(description.channels) > 1 else None
        by_name[named["case"] if named else one.name].append(one)
    return [Case(name, tuple(file for one in of for file in one.files), series=tuple(of)) for name, of in by_name.items()]


def read_case(case: Case, description: Description) -> Image:
    """Raises ProXError where a channel is missing, too many, or cannot be read. Of NIfTI files by nibabel, if that is meant."""
    if case.series:
        return _read_series(case, description)
    if description.reader == ALL_CHANNELS:
        from monai_prox.runtime import nifti_images  # nibabel, which a device needs for readers of its own alone

        return nifti_images.read_whole(case.files[0], description.orientation)
    ending, channels = description.file_ending, description.channels
    found = [file.name for file in case.files]
    if case.listed and description.reader != PICTURES and len(found) != len(channels):
        raise ProXError(f"the network needs {len(channels)} images ({', '.join(channels)}); listed are {', '.join(found)}")
    count = len(found) if description.reader == PICTURES else len(channels)  # a picture has several channels
    wanted = [f"{case.name}_{index:04d}{ending}" for index in range(count)]
    if found != wanted and not case.listed and not (len(found) == len(wanted) == 1):
        if description.reader != PICTURES:
            wanted = [f"{name} ({channel})" for name, channel in zip(wanted, channels, strict=True)]
        raise ProXError(f"the network needs {', '.join(wanted)}; there is {', '.join(found)}")
    if description.reader == PICTURES:
        return itk_images.read_pictures(case.files)
    if description.reader == "SimpleITKIO":
        return itk_images.read(case.files)
    from monai_prox.runtime import nifti_images

    return nifti_images.read(case.files, TURNED.get(description.reader))


def _read_series(case: Case, description: Description) -> Image:
    from monai_prox.runtime import dicom_images  # pydicom, which only this needs

    channels, found = description.channels, [one.name for one in case.series]
    stem = "CASE" if found == [case.name] else case.name
    wanted = [f"{stem}_{index:04d}" for index in range(len(channels))]
    if len(channels) > 1 and found != wanted:
        folders = ", ".join(f"{name} ({channel})" for name, channel in zip(wanted, channels, strict=True))
        raise ProXError(f"the network needs {len(channels)} DICOM series, in folders {folders}; there is {', '.join(found)}")
    return dicom_images.read(case.series, description)


def read_labels(path: Path, description: Description) -> NDArray[Any]:
    """Labels (z, y, x) of a case, its axes as ``read_case`` has them. Raises ProXError where they cannot be read."""
    if description.reader in (PICTURES, "SimpleITKIO"):
        return itk_images.read_labels(path)
    from monai_prox.runtime import nifti_images

    if description.reader == ALL_CHANNELS:
        return nifti_images.read_labels(path, description.orientation, mended=True)
    return nifti_images.read_labels(path, TURNED.get(description.reader))


def read_truth(
    path: Path, case: Case, description: Description, shape: tuple[int, ...], *, known: bool = False
) -> NDArray[Any]:
    """``read_labels`` of a case. shape: of its image, (z, y, x). known: whether they were read before, and warned of.

    Raises ProXError for labels of another shape, and warns where they lie elsewhere. Where a DICOM series lies is in no single
    file of it, so nothing is said of its labels.
    """
    labels, image = read_labels(path, description), case.files[0]
    if labels.shape != shape:
        raise ProXError(f"{path} has {labels.shape[::-1]} voxels, its image {shape[::-1]}")
    if not known and not case.series and description.reader != PICTURES:
        check_place(path, _grid_of(path, description), image, _grid_of(image, description))
    return labels


def _grid_of(path: Path, description: Description) -> Grid:
    if description.reader == "SimpleITKIO":
        return itk_images.grid_of(path)
    from monai_prox.runtime import nifti_images

    if description.reader == ALL_CHANNELS:
        return nifti_images.grid_of(path, description.orientation, mended=True)
    return nifti_images.grid_of(path, TURNED.get(description.reader))
