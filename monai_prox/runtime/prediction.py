"""Segmentations by a network, image by image, and case by case into files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from errno import EIO
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.files import make_folder, replacing
from monai_prox.runtime.cases import Case, check_channels, read_case
from monai_prox.runtime.description import Description
from monai_prox.runtime.model import Network
from monai_prox.runtime.preprocessing import Grid, labels, preprocess
from monai_prox.runtime.resampling import Array
from monai_prox.runtime.sliding_window import sliding_window


def prepare(images: Sequence[sitk.Image], description: Description) -> tuple[Array, Grid]:
    """One image per channel -> (C, *grid), and the grid. Raises ProXError for images that the network is not for."""
    check_channels(images, description)
    arrays = np.stack([sitk.GetArrayFromImage(image).astype(np.float32) for image in images])
    return preprocess(arrays, images[0].GetSpacing()[::-1], description)


def label(
    prepared: Array,
    grid: Grid,
    description: Description,
    network: Network,
    *,
    done: Callable[[int], object] | None = None,
) -> NDArray[np.integer]:
    """What ``prepare`` gives -> labels, (z, y, x) of the image. done: called with the number of tiles at every one."""
    return labels(sliding_window(prepared, description.patch, description.outputs, network, done=done), grid, description)


def segment(
    images: Sequence[sitk.Image],
    description: Description,
    network: Network,
    *,
    done: Callable[[int], object] | None = None,
) -> sitk.Image:
    """One image per channel -> an image of labels. Arguments and errors as of ``prepare`` and ``label``."""
    result = sitk.GetImageFromArray(label(*prepare(images, description), description, network, done=done))
    result.CopyInformation(images[0])
    return result


def predict(
    description: Description,
    network: Network,
    cases: Sequence[Case],
    output: Path,
    *,
    overwrite: bool = True,
    done: Callable[[str, int], object] | None = None,
) -> Iterator[tuple[Case, str | None]]:
    """Writes a segmentation per case into the folder ``output``; yields each case, and what was wrong with it or None.

    A case that fails stops none of the others. done: called with the case's name and its number of tiles at every one.
    Raises ProXError where the folder cannot be made, and where a segmentation would take the place of an image.
    """
    paths = [output / f"{case.name}{description.file_ending}" for case in cases]
    if mixed := {path.resolve() for path in paths} & {file.resolve() for case in cases for file in case.files}:
        raise ProXError(f"the segmentation would replace the image {min(mixed)}; give another output folder")
    make_folder(output)
    for case, path in zip(cases, paths, strict=True):
        if path.exists() and not overwrite:
            yield case, None
            continue
        try:
            images = read_case(case, description)
            segmented = segment(images, description, network, done=partial(done, case.name) if done else None)
            with replacing(path) as temporary:
                _write(segmented, temporary)
        except Exception as error:  # the runtimes' own have no common class, and a device may run out of memory
            yield case, problem(error)
        else:
            yield case, None


def _write(image: sitk.Image, path: Path) -> None:
    """Compressed. Raises OSError where that did not succeed: for some formats ITK does not say so where a disk is full."""
    sitk.WriteImage(image, path, useCompression=True)
    try:
        whole = np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), sitk.GetArrayViewFromImage(image))
    except RuntimeError:
        whole = False
    if not whole:
        raise OSError(EIO, "what has been written cannot be read again, is the disk full?")


def problem(error: Exception) -> str:
    """What was wrong, in a line."""
    return " ".join(str(error).split()) or type(error).__name__
