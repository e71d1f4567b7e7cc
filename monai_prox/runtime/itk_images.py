"""Images by SimpleITK, as nnU-Net's SimpleITKIO reads and writes them, and pictures, as its NaturalImage2DIO does."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from errno import EIO
from functools import partial
from math import prod
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.files import temporary_folder
from monai_prox.runtime.images import Grid, Image, check_file, check_one_grid, check_size, stacked

BETWEEN_SLICES = 999  # times the pixels' size: nnU-Net's spacing of the axis that images of two axes lack
HEAD = 2**16  # bytes in which a header ends
METAIMAGE = re.compile(rb"^ElementDataFile\s*=(.*)$", re.MULTILINE | re.IGNORECASE)
NRRD = re.compile(rb"^data ?file:(.*)$", re.MULTILINE | re.IGNORECASE)
DETACHED = {".mha": METAIMAGE, ".mhd": METAIMAGE, ".nrrd": NRRD, ".nhdr": NRRD}  # how headers name files
PICTURE = (1, 3, 4)  # channels: grey, RGB, RGBA
TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # byte orders; with + its numbers are of 64 bits
TIFF_TYPES = {3: "H", 4: "I"}  # of tags' values, those of numbers that say how pixels are stored
TIFF_BITS, TIFF_COLOURS, TIFF_ORIENTATION, TIFF_PLANES, TIFF_TILES, TIFF_NUMBERS = 258, 262, 274, 284, 322, 339  # tags
MOST_TAGS = 1_000
NIFTI = (".nii.gz", ".nii")
GZIP, PART = b"\x1f\x8b", 2**20  # how such files begin; bytes at a time
UNCOMPRESSED = (".tif", ".tiff")  # what others read without further libraries


def read_image(path: Path) -> sitk.Image:
    """Raises ProXError where it cannot be read, or its voxels are in a file of another folder."""
    reader = check_header(path)
    if path.name.lower().endswith(NIFTI):
        _check_whole(path, reader)
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise ProXError(f"{path} has complex voxels, which are no plain numbers")
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
    of_number: int = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    check_size(path, reader.GetSize(), reader.GetNumberOfComponents() * of_number)
    return reader


def _check_whole(path: Path, reader: sitk.ImageFileReader) -> None:
    """Raises ProXError for a NIfTI file that ends too early, where ITK would see 0 from there on."""
    try:
        sides = [int(reader.GetMetaData(f"dim[{axis}]")) for axis in range(1, int(reader.GetMetaData("dim[0]")) + 1)]
        wanted = int(float(reader.GetMetaData("vox_offset"))) + prod(sides) * int(reader.GetMetaData("bitpix")) // 8
    except (RuntimeError, ValueError):  # another format, by its name NIfTI
        return
    found = path.stat().st_size
    with path.open("rb") as file:
        if file.read(2) == GZIP:
            file.seek(-4, SEEK_END)
            if int.from_bytes(file.read(4), "little") == wanted % 2**32:  # its last number is the length, modulo this
                return
            found = _length(path)  # it was cut, or has several parts
    if found < wanted:
        raise ProXError(f"{path} cannot be read: it ends too early, for its header says {wanted:,} bytes")


def _length(path: Path) -> int:
    """Bytes of what is in a gzip file; 0 if it is not whole."""
    length = 0
    try:
        with gzip.open(path) as file:
            while part := file.read(PART):
                length += len(part)
    except (EOFError, OSError, zlib.error):
        return 0
    return length


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


def grid_of(path: Path) -> Grid:
    """Of a file, of which only the header is read."""
    return _grid(check_header(path))


def _grid(of: sitk.Image | sitk.ImageFileReader) -> Grid:
    return Grid(of.GetSize(), of.GetSpacing(), of.GetOrigin(), of.GetDirection())


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
    check_one_grid(files, [_grid(image) for image in images])
    spacing = [abs(mm) for mm in first.GetSpacing()[::-1]]
    if len(spacing) == 2:
        spacing.insert(0, BETWEEN_SLICES * max(spacing))
    place = first.GetSpacing(), first.GetOrigin(), first.GetDirection()
    views = [sitk.GetArrayViewFromImage(image) for image in images]
    voxels = stacked([view[None] if view.ndim == 2 else view for view in views])
    stuff = dict(zip(("spacing", "origin", "direction"), place, strict=True))
    return Image(voxels, tuple(spacing), partial(save, place), {"sitk_stuff": stuff, "spacing": spacing})


def read_pictures(files: Sequence[Path]) -> Image:
    """A file per channel, or files of several: (rows, columns) of grey, RGB or RGBA. They have no spacing."""
    channels: list[NDArray[Any]] = []
    for file in files:
        _check_tiff(file)
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
    spacing = (BETWEEN_SLICES, 1, 1)
    return Image(stacked(channels), spacing, partial(save, None), {"spacing": spacing})


def read_labels(path: Path) -> NDArray[Any]:
    """(z, y, x), of images of two axes one slice."""
    _check_tiff(path)
    image = read_image(path)
    return _pixels(path, image)[None] if image.GetDimension() == 2 else _array(image)


def _pixels(file: Path, image: sitk.Image) -> NDArray[Any]:
    """(rows, columns) or (rows, columns, channels), as the libraries behind nnU-Net's reader give them.

    Where ITK gives others for PNG, of one bit, it is undone.
    """
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    with file.open("rb") as opened:
        head = opened.read(26)
    if head[1:4] == b"PNG" and tuple(head[24:26]) == (1, 0):  # bits, and the code for grey
        array //= 255
    return array


def _check_tiff(file: Path) -> None:
    """Raises ProXError for a TIFF that ITK reads in another way than the libraries behind nnU-Net's reader, or not at all."""
    if not file.is_file():
        return
    with file.open("rb") as opened:
        start = opened.read(4)
        if start not in TIFF_STARTS:
            return
        try:
            tags = _tags(opened, TIFF_STARTS[start], big=b"+" in start)
        except (struct.error, OverflowError, OSError):  # it ends too early, or leads beyond the file
            return
    bits, real = tags.get(TIFF_BITS, 1), tags.get(TIFF_NUMBERS) == 3
    wrong = {
        "colours of a palette, or others than grey and RGB": tags.get(TIFF_COLOURS, 0) > 2,
        f"pixels of {bits} bit{'s' * (bits > 1)}{', with a fraction' if real else ''}": bits
        not in ((32,) if real else (8, 16, 32)),
        "tiles instead of rows": TIFF_TILES in tags,
        "a plane for each colour": tags.get(TIFF_PLANES) == 2,
        "a tag that turns or mirrors it": tags.get(TIFF_ORIENTATION, 1) != 1,
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise ProXError(
            f"{file} has {', '.join(found)}; store it as TIFF in rows, upright, of integers of 8, 16 or 32 bits or of float32"
        )


def _tags(tiff: BinaryIO, order: str, *, big: bool) -> dict[int, int]:
    """The first number of each tag of the first picture in an open TIFF file, of this byte order."""

    def read(form: str) -> tuple[int, ...]:
        return struct.unpack(f"{order}{form}", tiff.read(struct.calcsize(f"{order}{form}")))

    count, number, place = ("Q", "Q", 8) if big else ("H", "I", 4)  # of entries, of values, and for a value or where it is
    tiff.seek(8 if big else 4)
    tiff.seek(*read(number))
    (entries,) = read(count)
    start, found = tiff.tell(), {}
    for index in range(min(entries, MOST_TAGS)):
        tiff.seek(start + index * (4 + 2 * place))
        tag, kind, values = read(f"HH{number}")
        if form := TIFF_TYPES.get(kind):
            if values * struct.calcsize(form) > place:
                tiff.seek(*read(number))
            (found[tag],) = read(form)
    return found


def _array(image: sitk.Image) -> NDArray[Any]:
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    return array[None] if image.GetDimension() == 2 else array


def save(place: tuple[Any, ...] | None, labels: NDArray[np.integer], path: Path) -> None:
    """place: spacing, origin and direction, None for pictures. Raises OSError where that did not succeed."""
    flat = place is None or len(place[0]) == 2
    image = sitk.GetImageFromArray(labels[0] if flat else labels)
    if place is not None:
        image.SetSpacing(place[0])
        image.SetOrigin(place[1])
        image.SetDirection(place[2])
    if ending := next((ending for ending in NIFTI if path.name.endswith(ending)), None):
        with temporary_folder(path) as folder:  # for ITK takes an ending off that is within a name: a.nii of a.nii.nii.gz
            _write(image, folder / f"labels{ending}")
            (folder / f"labels{ending}").replace(path)
    else:
        _write(image, path)


def _write(image: sitk.Image, path: Path) -> None:
    """Raises OSError where that did not succeed: for some formats ITK does not say so where a disk is full."""
    sitk.WriteImage(image, path, useCompression=path.suffix not in UNCOMPRESSED)
    try:
        whole = np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), sitk.GetArrayViewFromImage(image))
    except RuntimeError as error:
        raise OSError(EIO, f"what has been written cannot be read again ({str(error).strip().splitlines()[-1]})") from None
    if not whole:
        raise OSError(EIO, "what has been written cannot be read again, is the disk full?")
