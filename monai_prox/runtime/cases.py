"""Image files by case: ``case_0000.nii.gz`` and so on, a file per channel, as nnU-Net names them; or one, as MONAI reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)

from monai_prox.errors import ProXError
from monai_prox.runtime.description import Description

SAME_SPACING, SAME_DIRECTION, SAME_ORIGIN = 1e-3, 1e-2, 0.5  # between channels: mm, cosines, voxels
ALL_CHANNELS = "LoadImage"  # MONAI's reader, for which all channels of a case are one file
MILLIMETRES = (0, 2)  # NIfTI's codes: unknown, which everybody takes for mm, and mm


@dataclass(frozen=True)
class Case:
    """name: of the output, without ending. files: by channel."""

    name: str
    files: tuple[Path, ...]


def find_cases(images: Path, description: Description) -> list[Case]:
    """Cases of a folder, or the one that is a file. Raises ProXError where there is none."""
    ending, whole = description.file_ending, description.reader == ALL_CHANNELS
    if images.is_file():
        if not images.name.endswith(ending):
            raise ProXError(f"{images} is not an image of the kind that the network is for, *{ending}")
        name = images.name.removesuffix(ending)
        return [Case(name if whole else name.removesuffix("_0000"), (images,))]
    if not images.is_dir():
        raise ProXError(f"there is no folder and no image {images}")
    if whole:
        files = sorted(path for path in images.glob(f"*{ending}") if not path.name.startswith("."))
        if not files:
            raise ProXError(f"{images} has no image *{ending}")
        return [Case(path.name.removesuffix(ending), (path,)) for path in files]
    cut = -len(f"_0000{ending}")
    found = sorted((path.name[:cut], path) for path in images.glob(f"*_[0-9][0-9][0-9][0-9]{ending}"))
    if not found:
        raise ProXError(f"{images} has no image named like case_0000{ending}")
    return [Case(name, tuple(path for _, path in of)) for name, of in groupby(found, key=lambda pair: pair[0])]


def read_case(case: Case, description: Description) -> list[sitk.Image]:
    """One image per channel. Raises ProXError where a channel is missing, too many, or cannot be read."""
    ending, channels = description.file_ending, description.channels
    if description.reader == ALL_CHANNELS:
        whole = read_image(case.files[0])
        _check_millimetres(case.files[0], whole)
        return _channels_of(case.files[0], whole)
    wanted = [f"{case.name}_{index:04d}{ending}" for index in range(len(channels))]
    found = [file.name for file in case.files]
    if found != wanted and not (len(found) == len(wanted) == 1):
        needed = ", ".join(f"{name} ({channel})" for name, channel in zip(wanted, channels, strict=True))
        raise ProXError(f"the network needs {needed}; there is {', '.join(found)}")
    images = [read_image(file) for file in case.files]
    if description.reader == "NibabelIO":
        for file, image in zip(case.files, images, strict=True):
            _check_millimetres(file, image)
    return images


def _check_millimetres(file: Path, image: sitk.Image) -> None:
    """For readers by nibabel, which takes lengths as they are, where SimpleITK turns them into mm."""
    unit = image.GetMetaData("xyzt_units") if image.HasMetaDataKey("xyzt_units") else "0"
    if int(unit) % 8 not in MILLIMETRES:
        raise ProXError(f"{file}: its lengths are not in mm, but of NIfTI's unit {int(unit) % 8}")


def _channels_of(file: Path, image: sitk.Image) -> list[sitk.Image]:
    """The images that are stacked along a fourth axis; an image of three axes is one."""
    if image.GetDimension() == 3:
        return [image]
    if image.GetDimension() != 4:
        raise ProXError(f"{file} has {image.GetDimension()} axes; expected 3, or 4 of which the last is for channels")
    size = (*image.GetSize()[:3], 0)
    return [sitk.Extract(image, size, (0, 0, 0, channel)) for channel in range(image.GetSize()[3])]


def read_image(path: Path) -> sitk.Image:
    """Raises ProXError where it cannot be read."""
    try:
        return sitk.ReadImage(path)
    except RuntimeError as error:
        raise ProXError(f"{path} cannot be read: {str(error).strip().splitlines()[-1]}") from None


def check_channels(images: Sequence[sitk.Image], description: Description) -> None:
    """Raises ProXError unless there is one image per channel, and all lie on one grid."""
    if len(images) != len(description.channels):
        names = ", ".join(description.channels)
        raise ProXError(f"the network needs {len(description.channels)} images ({names}), got {len(images)}")
    first = images[0]
    for image in images:
        axes, values = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
        if axes != 3 or values != 1:
            raise ProXError(f"an image has {axes} axes and {values} values per voxel; expected 3 and 1, and a file per channel")
        apart = np.abs(np.subtract(image.GetOrigin(), first.GetOrigin())) / first.GetSpacing()
        if (
            image.GetSize() != first.GetSize()
            or not np.allclose(image.GetSpacing(), first.GetSpacing(), atol=SAME_SPACING)
            or not np.allclose(image.GetDirection(), first.GetDirection(), atol=SAME_DIRECTION)
            or apart.max() > SAME_ORIGIN
        ):
            raise ProXError(f"the channels lie on different grids: {_grid(first)}; and {_grid(image)}")


def _grid(image: sitk.Image) -> str:
    direction = [round(cosine, 2) for cosine in image.GetDirection()]
    return f"{image.GetSize()} voxels of {image.GetSpacing()} mm from {image.GetOrigin()}, turned by {direction}"
