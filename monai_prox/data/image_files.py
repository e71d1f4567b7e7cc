"""The images that are predicted, their folder and their names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError

IMAGES = "*.nii.gz"


def image_files(folder: Path | str) -> list[str]:
    """The images to predict, sorted.

    Args:
        folder: a task, whose imagesTs are taken, or its imagesTr if there are none; or a folder of images.

    Returns:
        Paths of NIfTI files.

    Raises:
        ProXError: there are no images.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "case.nii.gz").touch()
    >>> [Path(file).name for file in image_files(folder)]
    ['case.nii.gz']
    """
    for place in (Path(folder, "imagesTs"), Path(folder, "imagesTr"), Path(folder)):
        files = sorted(str(path) for path in place.glob(IMAGES) if not path.name.startswith("."))
        if files:
            return files
    raise ProXError(f"there is no image ({IMAGES}) in {folder}, its imagesTs or its imagesTr")


def common_folder(data: Any) -> str:
    """The folder below which all images of a list are. Where masks are named from it, none overwrites another.

    Args:
        data: {"image": file} for each image.

    Raises:
        ProXError: it is no such list, a file is missing, or two files of a folder differ in their endings alone.

    >>> import tempfile
    >>> files = [Path(tempfile.mkdtemp(), "scan.nii.gz") for _ in range(2)]
    >>> [file.touch() for file in files]
    [None, None]
    >>> common_folder([{"image": str(file)} for file in files]) == tempfile.gettempdir()
    True
    """
    images = [files_of(item, ("image",))[0] for item in listed(data, "the data")]
    places = [Path(os.path.abspath(image)) for image in images]  # noqa: PTH100 (without "..", and links as they are)
    named: dict[Path, Path] = {}
    for place in places:
        stem = place.with_name(place.name.removesuffix(".gz")).with_suffix("")
        if (first := named.setdefault(stem, place)) != place:
            raise ProXError(f"{first} and {place} would both have the mask of {stem.name}; predict them one after the other")
    return os.path.commonpath([place.parent for place in places])


def image_names(images: Sequence[Path]) -> tuple[str, ...]:
    """Names of images, all different: those of the files, or with as many folders as it takes.

    Args:
        images: the files.

    >>> image_names([Path("a/scan.nii.gz"), Path("b/scan.nii.gz")])
    ('a/scan.nii.gz', 'b/scan.nii.gz')
    """
    names: tuple[str, ...] = ()
    for folders in range(1, 1 + max((len(image.parts) for image in images), default=0)):
        names = tuple("/".join(image.parts[-folders:]) for image in images)
        if len({*names}) == len({*images}):
            break
    return names


def is_called(image: Path, name: str) -> bool:
    """Whether an image has a name that ``image_names`` may have given it.

    Args:
        image: the file.
        name: the name.

    >>> is_called(Path("/data/a/scan.nii.gz"), "a/scan.nii.gz"), is_called(Path("/data/a/scan.nii.gz"), "b/scan.nii.gz")
    (True, False)
    """
    parts = name.split("/")
    return image.parts[-len(parts) :] == tuple(parts)


def listed(data: Any, what: str) -> Sequence[Any]:
    """The items of a list of cases.

    Args:
        data: the list.
        what: what it is, for errors.

    Raises:
        ProXError: it is no list, or an empty one.
    """
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise ProXError(f"{what} are {data!r:.160}; give a list of items such as {{'image': file, 'label': file}}")
    if not data:
        raise ProXError(f"{what} have no cases; give a list of files")
    return data


def files_of(item: Any, keys: Sequence[str]) -> list[Path]:
    """The files of an item of a list of cases.

    Args:
        item: {key: file} for each key.
        keys: the keys.

    Raises:
        ProXError: it does not have them, or a file is missing.
    """
    given = [item.get(key) for key in keys] if isinstance(item, Mapping) else []
    files = [Path(file) for file in given if isinstance(file, (str, Path))]
    if len(files) != len(keys):
        raise ProXError(f"a case of the data is {item!r:.160}; it must have {' and '.join(keys)}, one file each")
    if missing := [file for file in files if not file.is_file()]:
        raise ProXError(f"there is no file {missing[0]}, which the data list")
    return files
