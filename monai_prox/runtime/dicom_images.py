"""DICOM series by SimpleITK, a series for each channel, turned to the axes that the network knows.

Voxels are what the images mean, such as HU: slope and intercept are applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID

from monai_prox.errors import ProXError
from monai_prox.runtime import itk_images
from monai_prox.runtime.description import Description
from monai_prox.runtime.dicom_files import Series
from monai_prox.runtime.dicom_geometry import in_order
from monai_prox.runtime.dicom_headers import read_header
from monai_prox.runtime.images import MOST_TIMES, Grid, Image
from monai_prox.runtime.memory import FLOAT, check_fits
from monai_prox.runtime.resampling import Array

SEGMENTATION = ".dcm"  # the ending of files that are written as DICOM-SEG
SAME_PLACE = 0.1  # mm, between channels
SAME_DIRECTION = 1e-3  # between channels, of cosines
READ = [  # of headers: what says where an image lies, and what a segmentation repeats of it
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "PositionReferenceIndicator",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
]


@dataclass(frozen=True)
class Volume:
    """A series whose images are in their order along its normal, with their headers."""

    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    grid: Grid


@dataclass(frozen=True)
class Turn:
    """From stored axes (z, y, x) to others: first their order, then which of them are reversed."""

    order: tuple[int, ...]
    reversed: tuple[int, ...]

    @classmethod
    def to(cls, codes: str | None, grid: Grid) -> Turn:
        """codes: such as RAS, None for stored axes."""
        if codes is None:
            return cls((0, 1, 2), ())
        voxel = sitk.Image([1, 1, 1], sitk.sitkUInt8)
        voxel.SetDirection(grid.direction)
        turning = sitk.DICOMOrientImageFilter()
        turning.SetDesiredCoordinateOrientation(codes)
        turning.Execute(voxel)
        order, flipped = turning.GetPermuteOrder()[::-1], turning.GetFlipAxes()[::-1]  # SimpleITK has x first
        return cls(tuple(2 - axis for axis in order), tuple(axis for axis in range(3) if flipped[axis]))

    def __call__(self, voxels: Array) -> Array:
        """(C, z, y, x), a view where it can be one."""
        turned = voxels.transpose(0, *(1 + axis for axis in self.order))
        return np.flip(turned, tuple(1 + axis for axis in self.reversed))

    def back(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Labels on turned axes -> on stored ones."""
        return np.ascontiguousarray(np.flip(labels, self.reversed).transpose(np.argsort(self.order)))


def read(series: Sequence[Series], description: Description) -> Image:
    """Raises ProXError where a series is no volume or cannot be read, or the channels do not lie on one grid in one patient."""
    volumes = [_named_volume(one) if len(series) > 1 else _volume(one) for one in series]
    if len({str(volume.headers[0].get("PatientID") or "") for volume in volumes} - {""}) > 1:
        raise ProXError(f"{', '.join(one.name for one in series)} are series of different patients, by their PatientID")
    grid = volumes[0].grid
    for one, volume in zip(series[1:], volumes[1:], strict=True):
        if not _same(volume.grid, grid):
            raise ProXError(
                f"{one.name} lies on another grid than {series[0].name}: {volume.grid}; and {grid}. Resample it to that before"
            )
    check_fits(FLOAT * len(volumes) * prod(grid.size))
    voxels = np.empty((len(volumes), *grid.size[::-1]), np.float32)
    for place, one, volume in zip(voxels, series, volumes, strict=True):
        _read_pixels(place, volume, one.name)
    turn = Turn.to(description.orientation_of_series, grid)
    spacing = tuple(grid.spacing[::-1][axis] for axis in turn.order)
    return Image(turn(voxels), spacing, partial(_save, turn, volumes, description))


def _named_volume(series: Series) -> Volume:
    """Of several, so that the error says which."""
    try:
        return _volume(series)
    except ProXError as error:
        raise ProXError(f"{series.name}: {error}") from None


def _volume(series: Series) -> Volume:
    if series.damaged:
        raise ProXError(f"{series.damaged} of the DICOM files in its folder cannot be read, and may be of it")
    try:
        "".join(map(str, series.files)).encode()
    except UnicodeEncodeError:
        raise ProXError("its folder or its files have names that are not UTF-8; rename them") from None
    headers = [read_header(file, READ) for file in series.files]
    found = [header for header in headers if header is not None]
    if len(found) < len(headers):
        raise ProXError(f"{len(headers) - len(found)} of its {len(headers)} images have headers that cannot be read")
    order, grid = in_order(found)
    try:
        there = sum(file.stat().st_size for file in series.files)
    except OSError as error:  # its text names the file
        raise ProXError(f"its images can no longer be read: {error.strerror}") from None
    if prod(grid.size) > MOST_TIMES * there:
        raise ProXError(f"its headers say {grid.size} voxels, and its files have {there:,} bytes")
    return Volume(tuple(series.files[index] for index in order), tuple(found[index] for index in order), grid)


def _same(grid: Grid, other: Grid) -> bool:
    return (
        grid.size == other.size
        and np.allclose(grid.spacing, other.spacing, atol=SAME_DIRECTION)
        and np.allclose(grid.origin, other.origin, atol=SAME_PLACE)
        and np.allclose(grid.direction, other.direction, atol=SAME_DIRECTION)
    )


def _read_pixels(into: Array, volume: Volume, name: str) -> None:
    """into: (z, y, x). Image by image, for slopes may differ, and ITK's reader of series takes all for numbers of one type."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    for number, (file, place) in enumerate(zip(volume.files, into, strict=True), 1):
        try:
            reader.SetFileName(str(file))
            pixels = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError:  # its message names the file
            syntax = UID(volume.headers[0].file_meta.get("TransferSyntaxUID", "")).name
            raise ProXError(
                f"the pixels of image {number} of {len(into)} of {name} cannot be read; they are stored as {syntax!s:.80}"
            ) from None
        if pixels.size != place.size:
            raise ProXError(f"image {number} of {len(into)} of {name} has {pixels.shape} pixels; its header says {place.shape}")
        place[...] = pixels.reshape(place.shape)


def _save(turn: Turn, volumes: Sequence[Volume], description: Description, labels: NDArray[np.integer], path: Path) -> None:
    """labels: (z, y, x) of turned axes. As DICOM-SEG or by SimpleITK, as ``path`` ends."""
    stored, grid = turn.back(labels), volumes[0].grid
    if path.suffix != SEGMENTATION:
        itk_images.save((grid.spacing, grid.origin, grid.direction), stored, path)
        return
    from monai_prox.runtime import dicom_seg  # highdicom, which only this needs

    dicom_seg.write(stored, [(volume.files[0], volume.headers) for volume in volumes], grid, description, path)
