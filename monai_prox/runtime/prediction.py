"""Segmentations by a model file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)

from monai_prox.errors import ProXError
from monai_prox.files import replacing
from monai_prox.runtime.cases import Case, check_channels, read_case
from monai_prox.runtime.description import KEY, Description
from monai_prox.runtime.preprocessing import labels, preprocess
from monai_prox.runtime.resampling import Array
from monai_prox.runtime.sliding_window import sliding_window


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
        try:
            data = json.loads(described)
        except ValueError as error:
            raise ProXError(f"{path}: its description is no JSON: {error}") from None
        self.description = Description.from_json(data, str(path))
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
        done: Callable[[int], object] | None = None,
    ) -> sitk.Image:
        """One image per channel -> labels. network: instead of the file's. done: called with the number of tiles at every one.

        Raises ProXError for images that the network is not for.
        """
        description = self.description
        check_channels(images, description)
        first = images[0]
        arrays = np.stack([sitk.GetArrayFromImage(image).astype(np.float32) for image in images])
        resampled, grid = preprocess(arrays, first.GetSpacing()[::-1], description)
        del arrays
        logits = sliding_window(resampled, description.patch, description.outputs, network or self, done=done)
        del resampled
        result = sitk.GetImageFromArray(labels(logits, grid, description))
        result.CopyInformation(first)
        return result


def predict(
    model: Model,
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
    paths = [output / f"{case.name}{model.description.file_ending}" for case in cases]
    if mixed := {path.resolve() for path in paths} & {file.resolve() for case in cases for file in case.files}:
        raise ProXError(f"the segmentation would replace the image {min(mixed)}; give another output folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProXError(f"cannot write to {output}: {error.strerror or error}") from error
    for case, path in zip(cases, paths, strict=True):
        if path.exists() and not overwrite:
            yield case, None
            continue
        try:
            images = read_case(case, model.description)
            segmented = model.segment(images, done=partial(done, case.name) if done else None)
            with replacing(path) as temporary:
                sitk.WriteImage(segmented, temporary, useCompression=True)
        except Exception as error:  # ONNX Runtime's own have no common class, and a device may run out of memory
            yield case, " ".join(str(error).split()) or type(error).__name__
        else:
            yield case, None
