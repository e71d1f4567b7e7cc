"""Images by SimpleITK, as nnU-Net's SimpleITKIO reads and writes them, and pictures, as its NaturalImage2DIO does."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from errno import EIO
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.runtime.images import Grid, Image, check_file, check_one_grid, check_size, stacked

BETWEEN_SLICES = 999  # times the pixels' size: nnU-Net's spacing of the axis that images of two axes lack
HEAD = 2**16  # bytes in which a header ends
METAIMAGE = re.compile(rb"^ElementDataFile\s*=(.*)$", re.MULTILINE | re.IGNORECASE)
NRRD = re.compile(rb"^data ?file:(.*)$", re.MULTILINE | re.IGNORECASE)
DETACHED = {".mha": METAIMAGE, ".mhd": METAIMAGE, ".nrrd": NRRD, ".nhdr": NRRD}  # how headers name files
PICTURE = (1, 3, 4)  # channels: grey, RGB, RGBA
TIFF_SHORT, TIFF_BITS, TIFF_COLOURS, TIFF_PALETTE = 3, 258, 262, 3  # a type, two tags, and a value of the second
UNCOMPRESSED = (".tif", ".tiff")  # what others read without further libraries


def read_image(path: Path) -> sitk.Image:
    """Raises ProXError where it cannot be read, or its voxels are in a file of another folder."""
    reader = check_header(path)
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from None


def check_header(path: Path) -> sitk.ImageFileReader:
    """A reader that knows the header of ``path``. Raises ProXError where it cannot be read, or says more than the file has."""
    check_file(path)
    _check_detached(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    check_size(path, reader.GetSize(), reader.GetNumberOfComponents())
    return reader


def _unreadable(path: Path, error: RuntimeError) -> ProXError:
    return ProXError(f"{path} cannot be read: {str(error).strip().splitlines()[-1]}")


def _check_detached(path: Path) -> None:
    """Raises ProXError if a header of MetaImage or NRRD names other files than one beside it."""
    key = DETACHED.get(path.suffix.lower())
    if key is None:
        return
    with path.open("rb") as file:
        head = file.read(HEAD)
    for named in key.findall(head):
        name = named.decode(errors="replace").strip()
        beside = Path(name).name == name and (path.parent / name).is_file() and not (path.parent / name).is_symlink()
        if name != "LOCAL" and not beside:
            raise ProXError(f"{path} has its voxels in {name:.80}, which is no file beside it")


def read(files: Sequence[Path]) -> Image:
    """A file per channel, of two axes or three."""
    images = [read_image(file) for file in files]
    for file, image in zip(files, images, strict=True):
        axes, values = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
        if axes not in (2, 3) or values != 1:
            raise ProXError(
                f"{file} has {axes} axes and {values} values per voxel; expected 2 or 3 axes and 1 value, a file per channel"
            )
    first = images[0]
    check_one_grid(files, [Grid(one.GetSize(), one.GetSpacing(), one.GetOrigin(), one.GetDirection()) for one in images])
    spacing = [abs(mm) for mm in first.GetSpacing()[::-1]]
    if len(spacing) == 2:
        spacing.insert(0, BETWEEN_SLICES * max(spacing))
    place = first.GetSpacing(), first.GetOrigin(), first.GetDirection()
    return Image(stacked([_array(image) for image in images]), tuple(spacing), partial(_save, place))


def read_pictures(files: Sequence[Path]) -> Image:
    """A file per channel, or files of several: (rows, columns) of grey, RGB or RGBA. They have no spacing."""
    channels: list[NDArray[Any]] = []
    for file in files:
        image = read_image(file)
        values = image.GetNumberOfComponentsPerPixel()
        if image.GetDimension() != 2 or values not in PICTURE:
            raise ProXError(
                f"{file} has {image.GetDimension()} axes and {values} values per pixel; expected 2, and one of {PICTURE}"
            )
        pixels = _pixels(file, image)
        channels += [pixels[None, ..., index] for index in range(values)] if values > 1 else [pixels[None]]
    sizes = {channel.shape[1:] for channel in channels}
    if len(sizes) > 1:
        raise ProXError(f"the channels have different sizes, rows and columns {', '.join(map(str, sorted(sizes)))}")
    return Image(stacked(channels), (BETWEEN_SLICES, 1, 1), partial(_save, None))


def read_labels(path: Path) -> NDArray[Any]:
    """(z, y, x), of images of two axes one slice."""
    image = read_image(path)
    return _pixels(path, image)[None] if image.GetDimension() == 2 else _array(image)


def _pixels(file: Path, image: sitk.Image) -> NDArray[Any]:
    """(rows, columns) or (rows, columns, channels), as the libraries behind nnU-Net's reader give them.

    Where ITK gives others it is undone, for PNG of one bit, or refused by a ProXError, for TIFF of one bit and of a palette.
    """
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    with file.open("rb") as opened:
        head = opened.read(26)
        if head[1:4] == b"PNG" and tuple(head[24:26]) == (1, 0):  # bits, and the code for grey
            array //= 255
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
        if order and _of_few_values(opened, order):
            raise ProXError(f"{file} has pixels of one bit, or colours of a palette; store its values as 8 bits or more")
    return array


def _of_few_values(tiff: BinaryIO, order: str) -> bool:
    """Whether the first picture of an open TIFF file, of this byte order, is of one bit or of a palette."""
    try:
        tiff.seek(4)
        tiff.seek(struct.unpack(f"{order}I", tiff.read(4))[0])
        (count,) = struct.unpack(f"{order}H", tiff.read(2))
        entries = [struct.unpack(f"{order}HHIH", tiff.read(12)[:10]) for _ in range(count)]
    except struct.error:  # it ends too early
        return False
    tags = {tag: value for tag, kind, _, value in entries if kind == TIFF_SHORT}
    return bool(tags.get(TIFF_BITS, 1) == 1 or tags.get(TIFF_COLOURS) == TIFF_PALETTE)


def _array(image: sitk.Image) -> NDArray[Any]:
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    return array[None] if image.GetDimension() == 2 else array


def _save(place: tuple[Any, ...] | None, labels: NDArray[np.integer], path: Path) -> None:
    """place: spacing, origin and direction, None for pictures.

    Raises OSError where that did not succeed: for some formats ITK does not say so where a disk is full.
    """
    flat = place is None or len(place[0]) == 2
    image = sitk.GetImageFromArray(labels[0] if flat else labels)
    if place is not None:
        image.SetSpacing(place[0])
        image.SetOrigin(place[1])
        image.SetDirection(place[2])
    sitk.WriteImage(image, path, useCompression=path.suffix not in UNCOMPRESSED)
    try:
        whole = np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), sitk.GetArrayViewFromImage(image))
    except RuntimeError:
        whole = False
    if not whole:
        raise OSError(EIO, "what has been written cannot be read again, is the disk full?")
