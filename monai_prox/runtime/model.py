"""A model file, ready to run: ONNX by ONNX Runtime, OpenVINO's by OpenVINO, TorchScript by torch.

All on the processor, unless ONNX Runtime is told another provider.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from monai_prox.errors import ProXError
from monai_prox.runtime.description import KEY, Description, ScanDescription, read_description
from monai_prox.runtime.onnx_check import check_graph, read_model
from monai_prox.runtime.providers import CPU, NotStartedError, check_started, names_of
from monai_prox.runtime.resampling import Array

Network = Callable[[Array], Array]
NOT_OURS = "it says nothing of what surrounds it; it was not written by monai-prox export"
Described = Description | ScanDescription
# What a file says of itself under KEY; what makes it run, with so many threads, on ONNX Runtime's providers
Opened = tuple["str | None", Callable[[Described, int, list[str]], Network]]


class Model:
    """A file of ``monai-prox export --format onnx``, ``openvino`` or ``torchscript``; by its ending .onnx, .xml or .ts.

    description: what prediction needs beside the network. threads: None for as many as there are cores. provider: of ONNX
    files, what runs them, see ``monai_prox.runtime.providers``; None for the processor.
    Raises ProXError for a file that is none of ours, and for a provider that is not there.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None, provider: str | None = None) -> None:
        path = Path(path)
        check_model_file(path)
        if provider is not None and path.suffix != ".onnx":
            raise ProXError(f"--provider says what runs an .onnx file, and {path} is none; leave it out")
        names = [CPU] if provider is None else names_of(provider)
        with _reading(path):
            described, run = OPENERS[path.suffix](path)
            if described is None:
                raise ProXError(NOT_OURS)
        self.path, self.described = path, described
        self.description = read_description(described, str(path))
        with _reading(path):
            self._network = run(self.description, threads or 0, names)

    def __call__(self, x: Array) -> Array:
        """x: (B, C, *patch) -> logits (B, outputs, *patch), or (B, classes)."""
        return self._network(x)


def check_model_file(path: Path) -> None:
    """Raises ProXError unless there is a file whose name is a model file's."""
    if path.suffix not in OPENERS:
        raise ProXError(f"{path} is no model file; known are files that end in {', '.join(OPENERS)}")
    if not path.is_file():
        raise ProXError(f"there is no file {path}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Within it, whatever is wrong with the file becomes a ProXError that names it."""
    try:
        yield
    except (ImportError, NotStartedError):
        raise  # the command says which library is missing
    except Exception as error:  # the runtimes' own have no common class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProXError(f"{path} cannot be read as a model: {reason}") from None


def _open_onnx(path: Path) -> Opened:
    import onnxruntime

    model, properties = read_model(path.read_bytes())
    read = [model]  # it is as large as the file, and only needed for the check

    def run(description: Described, threads: int, providers: list[str]) -> Network:
        check_graph(read.pop(), (1, *description.input_shape))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=providers)
        check_started(providers[0], session.get_providers())
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})[0]

    return properties.get(KEY), run


def _open_openvino(path: Path) -> Opened:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)

    def run(description: Described, threads: int, providers: list[str]) -> Network:
        # OpenVINO would compute in bfloat16 where the processor can; half a family's Dice is in the third digit. Half precision
        # is for files that are half precise, where the processor has it
        half = isinstance(description, Description) and description.precision == "float16"
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f16" if half else "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled = core.compile_model(model, "CPU", settings)
        return lambda x: np.array(compiled(x)[0])

    return model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None, run


def _open_torchscript(path: Path) -> Opened:
    import torch

    kept = {KEY: ""}
    network = torch.jit.load(path, map_location="cpu", _extra_files=kept)  # type: ignore[no-untyped-call]
    described: Any = kept[KEY]

    def run(description: Described, threads: int, providers: list[str]) -> Network:
        torch.set_num_threads(threads or os.cpu_count() or 1)

        def compute(x: Array) -> Array:
            with torch.inference_mode():
                result: Array = network(torch.from_numpy(x)).numpy()
            return result

        return compute

    return (described.decode() if isinstance(described, bytes) else described) or None, run


OPENERS: dict[str, Callable[[Path], Opened]] = {".onnx": _open_onnx, ".xml": _open_openvino, ".ts": _open_torchscript}
