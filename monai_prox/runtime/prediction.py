"""Segmentations of image files by a model file: ``case_0000.nii.gz``, one per channel, to ``case.nii.gz``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import onnxruntime
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)

from monai_prox.errors import ProXError
from monai_prox.files import replacing
from monai_prox.runtime.description import KEY, Description, check_channels
from monai_prox.runtime.preprocessing import labels, preprocess
from monai_prox.runtime.sliding_window import Array, sliding_window, tiles

SAME_SPACING = 1e-3  # mm, between the channels of a case


class Model:
    """A model file that ``monai-prox export --format onnx`` wrote, ready to run on the processor.

    threads: of ONNX Runtime; None: as many as there are cores. Raises ProXError for a file that is none of ours.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own have no common class
            raise ProXError(f"{path} cannot be read as an ONNX model: {str(error).splitlines()[0]}") from None
        described = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if described is None:
            raise ProXError(f"{path} says nothing of spacing and labels; it was not written by monai-prox export --format onnx")
        self.described: str = described
        self.description = Description.from_json(json.loads(described), str(path))
        self._input = self.session.get_inputs()[0].name

    def __call__(self, x: Array) -> Array:
        """x: (B, C, *patch) -> logits (B, outputs, *patch)."""
        logits: Array = self.session.run(None, {self._input: x})[0]
        return logits

    def segment(
        self,
        images: Sequence[sitk.Image],
        *,
        network: Callable[[Array], Array] | None = None,
        done: Callable[[int], object] = int,
    ) -> sitk.Image:
        """One image per channel -> labels. network: instead of the file's. done: called with the number of tiles at every one.

        Raises ProXError for an image that the network is not for.
        """
        description, first = self.description, images[0]
        for one in images:
            _check_same_grid(first, one)
        arrays = np.stack([sitk.GetArrayFromImage(one).astype(np.float32) for one in images])
        grid_image, grid = preprocess(arrays, first.GetSpacing()[::-1], description)
        del arrays
        padded = [max(a, b) for a, b in zip(grid.shape[-len(description.patch) :], description.patch, strict=True)]
        count = len(list(tiles(padded, description.patch))) * (grid.shape[0] if len(description.patch) == 2 else 1)
        logits = sliding_window(grid_image, description.patch, description.outputs, network or self, done=lambda: done(count))
        del grid_image
        result = sitk.GetImageFromArray(labels(logits, grid, description))
        result.CopyInformation(first)
        return result


def _check_same_grid(first: sitk.Image, other: sitk.Image) -> None:
    if other.GetDimension() != 3 or other.GetNumberOfComponentsPerPixel() != 1:
        raise ProXError(
            f"an image has {other.GetDimension()} axes and {other.GetNumberOfComponentsPerPixel()} values per voxel; "
            "expected 3 axes and 1 value, and a file per channel"
        )
    if other.GetSize() != first.GetSize() or not np.allclose(other.GetSpacing(), first.GetSpacing(), atol=SAME_SPACING):
        raise ProXError(
            f"the channels differ: {first.GetSize()} voxels of {first.GetSpacing()} mm, "
            f"and {other.GetSize()} of {other.GetSpacing()}"
        )


# ---------------------------------------------------------------------- files
@dataclass(frozen=True)
class Case:
    """name: of the output, without ending. files: by channel."""

    name: str
    files: tuple[Path, ...]


def find_cases(images: Path, ending: str) -> list[Case]:
    """Cases in a folder, named as nnU-Net's, or the one that is a file. Raises ProXError where there is none."""
    if images.is_file():
        name = images.name.removesuffix(ending)
        return [Case(name[:-5] if name.endswith("_0000") else name, (images,))]
    found = sorted(images.glob(f"*_[0-9][0-9][0-9][0-9]{ending}"))
    if not found:
        raise ProXError(f"{images} has no image named like case_0000{ending}")
    cut = -len(f"_0000{ending}")
    return [Case(name, tuple(files)) for name, files in groupby(found, key=lambda path: path.name[:cut])]


def predict(
    model: Model, cases: Sequence[Case], output: Path, *, overwrite: bool = True, done: Callable[[str, int], object] = print
) -> Iterator[tuple[Case, str | None]]:
    """Writes a segmentation per case into the folder ``output``; yields each case, and what was wrong with it or None.

    A case that fails stops none of the others. done: called with the case's name and its number of tiles at every one.
    Raises ProXError where the folder cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProXError(f"cannot write to {output}: {error.strerror or error}") from error
    for case in cases:
        path = output / f"{case.name}{model.description.file_ending}"
        if path.exists() and not overwrite:
            yield case, None
            continue
        try:
            check_channels(model.description, [str(file) for file in case.files], case.name)
            images = [_read(file) for file in case.files]
            segmented = model.segment(images, done=partial(done, case.name))
            with replacing(path) as temporary:
                sitk.WriteImage(segmented, temporary, useCompression=True)
        except (ProXError, OSError, RuntimeError) as error:  # the last is how SimpleITK says that it cannot write
            yield case, " ".join(str(error).split())
        else:
            yield case, None


def _read(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ProXError(f"{path} cannot be read: {reason}") from None
