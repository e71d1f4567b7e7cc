"""Measures what predicting a case takes beside the network, on synthetic images of a few sizes. Needs no torch.

It runs the runtime's own reading, preparing, sliding window, labels and writing. The network is one that costs nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_prox.files import replacing
from monai_prox.latency.parts import PARTS, Parts, Work, whole_grid
from monai_prox.runtime import memory, resampling
from monai_prox.runtime.cases import Case, read_case
from monai_prox.runtime.description import ALL_CHANNELS, PICTURES, Description
from monai_prox.runtime.grid import ImageSize
from monai_prox.runtime.labels import labels
from monai_prox.runtime.postprocessing import keep_largest
from monai_prox.runtime.preprocessing import prepare
from monai_prox.runtime.sliding_window import sliding_window

SCALES = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # voxels of the cases, as parts of the median case's
FINER = 0.8  # spacing of every second case, as a part of the median case's, so that all members resample some cases
MOST_VOXELS = 2**24  # of an image, so that no device is busy for long
SHARE = 4  # the largest case takes at most one in so many bytes of the free memory
ROUNDS, LONG = 5, 1.0  # how often a case is measured at most; seconds after which it is measured no more
SHORTEST = 8  # voxels of an axis that is not made shorter
BLOB = 12  # voxels of the network's grid from one change of the synthetic labels to the next, about


def measure_parts(
    descriptions: Sequence[Description], case: ImageSize | None, progress: Callable[[str], object]
) -> Parts | None:
    """Measures the parts of cases that are smaller than the median case, as large, and larger.

    Args:
        descriptions: of the smallest member and the largest. They differ in patch and spacing at most.
        case: size of the median case, or None for one of two patches an axis.
        progress: called with a text before each measurement.

    Returns:
        None for networks of pictures, of which a case is a patch or two.
    """
    if descriptions[0].reader == PICTURES:
        return None
    planned = _planned(descriptions, case or _of_patches(descriptions[-1]))
    works = [Work.of(size, description) for _, size, description in planned]
    times: list[dict[str, list[float]]] = [{part: [] for part in PARTS} for _ in planned]
    with tempfile.TemporaryDirectory() as folder:
        for number, (_, size, description) in enumerate(planned):
            progress(f"image {number + 1} of {len(planned)} beside the network")
            files = _write_images(size, description, Path(folder))
            network = _blobs(description)
            for _ in range(ROUNDS):
                for part, seconds in _times(files, description, network, Path(folder)).items():
                    times[number][part].append(seconds)
                if sum(map(sum, times[number].values())) > LONG:
                    break
    medians = {part: tuple(median(one[part]) for one in times) for part in PARTS}
    return Parts(tuple(works), medians, tuple(number for number, *_ in planned))


def _of_patches(description: Description) -> ImageSize:
    """Two patches along each axis, of a patch of two axes as many slices."""
    sides = (description.patch[-1], *description.patch)[-3:]
    spacing = (description.spacing[-1], *description.spacing)[-3:]
    back = np.argsort(description.transpose)
    return ImageSize(tuple(2 * sides[axis] for axis in back), tuple(spacing[axis] for axis in back))


def _planned(descriptions: Sequence[Description], case: ImageSize) -> list[tuple[int, ImageSize, Description]]:
    """The cases to measure: number of the size, size, description."""
    largest = float(min(prod(case.shape) * SCALES[-1], MOST_VOXELS))
    finer = ImageSize(case.shape, tuple(mm * FINER for mm in case.spacing))
    while not _fits(_scaled(case, largest), descriptions[-1]) and largest > SHORTEST**3:
        largest /= 2
    return [
        (number, _scaled(of, largest * scale / SCALES[-1]), description)
        for number, scale in enumerate(SCALES)
        for of, description in ((case, descriptions[-1]), (finer, descriptions[0]))
    ]


def _scaled(case: ImageSize, voxels: float) -> ImageSize:
    """An image of about so many voxels, as long along each axis, in proportion."""
    factor = (voxels / prod(case.shape)) ** (1 / 3)
    return ImageSize(tuple(max(round(side * factor), min(side, SHORTEST)) for side in case.shape), case.spacing)


def _fits(size: ImageSize, description: Description) -> bool:
    free = memory.available()
    needed = memory.needed_for(whole_grid(size, description), description)
    return free is None or SHARE * needed <= free


def _write_images(size: ImageSize, description: Description, folder: Path) -> Case:
    """A file per channel, or one of all. Voxels are numbers of 64 values in a row, which shrink by gzip as images do."""
    generator = np.random.default_rng(0)
    channels = [generator.integers(1, 64, size.shape, np.int16) for _ in description.channels]
    ending, xyz = description.file_ending, size.spacing[::-1]
    if description.reader == ALL_CHANNELS:
        files, arrays = [folder / f"case{ending}"], [np.stack([channel.T for channel in channels], axis=-1)]
    else:
        files = [folder / f"case_{number:04d}{ending}" for number in range(len(channels))]
        arrays = [channel.T for channel in channels]
    for file, array in zip(files, arrays, strict=True):
        if description.reader == "SimpleITKIO":
            import SimpleITK as sitk  # noqa: N813 (as everybody writes it)

            image = sitk.GetImageFromArray(array.T)
            image.SetSpacing(xyz)
            sitk.WriteImage(image, file, useCompression=True)
        else:
            import nibabel as nib  # which only some readers need

            nib.save(nib.Nifti1Image(array, np.diag([*xyz, 1.0])), file)
    return Case("case", tuple(files), listed=True)


def _blobs(description: Description) -> Callable[[resampling.Array], resampling.Array]:
    """A network that costs nothing. Its outputs are smooth noise, of which background is the largest in most voxels."""
    generator = np.random.default_rng(1)
    outputs = np.empty((1, description.outputs, *description.patch), np.float32)
    coarse = [max(2, side // BLOB) for side in description.patch]
    for output in outputs[0]:
        zoom = [side / few for side, few in zip(description.patch, coarse, strict=True)]
        output[...] = ndimage.zoom(generator.normal(size=coarse), zoom, order=1, mode="nearest", grid_mode=True)
    outputs[0, 0] += 1
    return lambda _: outputs


def _times(
    case: Case, description: Description, network: Callable[[resampling.Array], resampling.Array], folder: Path
) -> dict[str, float]:
    """Seconds of each part, as ``monai_prox.runtime.prediction`` does them."""
    resampling.matrix.cache_clear()  # of cases in a row hardly two have one size
    resampling.linear.cache_clear()
    marks = [time.perf_counter()]
    image = read_case(case, description)
    image.voxels.any()
    save = image.save
    marks.append(time.perf_counter())
    prepared, grid = prepare(image, description)
    del image
    marks.append(time.perf_counter())
    logits = sliding_window(prepared, description.patch, description.outputs, network)
    marks.append(time.perf_counter())
    found: NDArray[np.integer[Any]] = labels(logits, grid, description)
    keep_largest(found, description.postprocessing)
    marks.append(time.perf_counter())
    with replacing(folder / f"labels{description.file_ending}") as temporary:
        save(found, temporary)
    marks.append(time.perf_counter())
    return dict(zip(PARTS, np.diff(marks).tolist(), strict=True))
