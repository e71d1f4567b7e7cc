"""An ONNX file as OpenVINO's pair of files, .xml and .bin."""

from __future__ import annotations

from pathlib import Path

import openvino

from monai_prox.runtime.description import KEY


def write_openvino(source: Path, described: str, output: Path) -> None:
    """source: the ONNX file; described: what goes into the metadata. Writes ``output``, an .xml, and the .bin beside it."""
    model = openvino.convert_model(source)
    model.set_rt_info(described, KEY)
    try:
        openvino.save_model(model, output, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(f"OpenVINO cannot write it, is the disk full? {error}") from error
