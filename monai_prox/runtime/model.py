"""A model file, ready to run on the processor: ONNX by ONNX Runtime, OpenVINO's by OpenVINO, TorchScript by torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from monai_prox.errors import ProXError
from monai_prox.runtime.description import KEY, read_description
from monai_prox.runtime.onnx_check import check_graph, read_model
from monai_prox.runtime.resampling import Array

Network = Callable[[Array], Array]
NOT_OURS = "it says nothing of what surrounds it; it was not written by monai-prox export"
Opened = tuple[Network, "str | None"]  # with what the file says of itself under KEY


class Model:
    """A file of ``monai-prox export --format onnx``, ``openvino`` or ``torchscript``; by its ending .onnx, .xml or .ts.

    description: what prediction needs beside the network. threads: None for as many as there are cores.
    Raises ProXError for a file that is none of ours.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        path = Path(path)
        if path.suffix not in OPENERS:
            raise ProXError(f"{path} is no model file; known are files that end in {', '.join(OPENERS)}")
        if not path.is_file():
            raise ProXError(f"there is no file {path}")
        try:
            self._network, described = OPENERS[path.suffix](path, threads or 0)
            if described is None:
                raise ProXError(NOT_OURS)
        except ImportError:
            raise  # the command says which library is missing
        except Exception as error:  # the runtimes' own have no common class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ProXError(f"{path} cannot be read as a model: {reason}") from None
        self.path, self.described = path, described
        self.description = read_description(described, str(path))

    def __call__(self, x: Array) -> Array:
        """x: (B, C, *patch) -> logits (B, outputs, *patch), or (B, classes)."""
        return self._network(x)


def _open_onnx(path: Path, threads: int) -> Opened:
    import onnxruntime

    model, properties = read_model(path.read_bytes())
    described = properties.get(KEY)
    if described is None:
        raise ProXError(NOT_OURS)
    check_graph(model, (1, *read_description(described, str(path)).input_shape))
    del model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0], described


def _open_openvino(path: Path, threads: int) -> Opened:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    described = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
    # OpenVINO would compute in bfloat16 where the processor can; half a family's Dice is in the third digit
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)
    return lambda x: np.array(compiled(x)[0]), described


def _open_torchscript(path: Path, threads: int) -> Opened:
    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)
    kept = {KEY: ""}
    network = torch.jit.load(path, map_location="cpu", _extra_files=kept)  # type: ignore[no-untyped-call]
    described: Any = kept[KEY]

    def run(x: Array) -> Array:
        with torch.inference_mode():
            result: Array = network(torch.from_numpy(x)).numpy()
        return result

    return run, (described.decode() if isinstance(described, bytes) else described) or None


OPENERS: dict[str, Callable[[Path, int], Opened]] = {
    ".onnx": _open_onnx,
    ".xml": _open_openvino,
    ".ts": _open_torchscript,
}
