"""Members to measure, packed for another device or measured on this one."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch

from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.export.folder import check_vacant
from monai_prox.files import replacing
from monai_prox.latency import measure
from monai_prox.latency.device import FEWEST, fingerprint
from monai_prox.trained.source import Trained

MEMBERS = 24
CANDIDATES = 20  # random members per chosen member
RUNTIMES = ("onnxruntime", "openvino", "torch")


def choose_members(family: Family, size: Sequence[int], count: int = MEMBERS) -> list[Subnet]:
    """The smallest member, the largest, and random members that are about evenly spaced in the logarithm of their MACs.

    The result depends on the family, the size and the count only.

    Args:
        family: the family.
        size: voxels per axis of the input at full resolution.
        count: number of members.

    Raises:
        ProXError: the count is too small to predict other members from.
    """
    if count < FEWEST:
        raise ProXError(f"{count} members are too few to predict others from; at least {FEWEST} are needed")
    generator, space = random.Random(0), family.space
    ends = [space.smallest(), space.largest()]
    drawn = {space.sample(generator) for _ in range(CANDIDATES * count)} - set(ends)
    ordered = sorted(drawn, key=lambda subnet: (cost.macs(family, subnet, size), str(subnet)))
    logs = np.log([cost.macs(family, subnet, size) for subnet in ordered] or [1])
    chosen: list[Subnet] = []
    for target in np.linspace(logs[0], logs[-1], max(count - 2, 0)):
        remaining = [index for index, subnet in enumerate(ordered) if subnet not in chosen]
        if remaining:
            chosen.append(ordered[min(remaining, key=lambda index: abs(logs[index] - target))])
    return list(dict.fromkeys([ends[0], *chosen, ends[1]]))


def write_pack(
    source: Trained, output: Path, *, count: int = MEMBERS, overwrite: bool = False, done: Callable[[int, int], object]
) -> Path:
    """Writes a .zip with members as ONNX files and measure.py, which needs Python, numpy and onnxruntime only.

    Args:
        source: the trained family.
        output: path of the .zip.
        count: number of members.
        overwrite: whether an existing file is replaced.
        done: called with the number of written members and the number of all.

    Returns:
        ``output``.

    Raises:
        ProXError: ``output`` exists or cannot be written, or the count is too small.
    """
    check_vacant(output, overwrite=overwrite)
    family, size = source.supernet.family, source.size
    members = choose_members(family, size, count)
    listed = []
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
            for number, (file, content, shape, subnet) in enumerate(_files(source, members), 1):
                archive.writestr(f"{output.stem}/{file}", content)
                listed.append({"file": file, "subnet": subnet.to_json(), "input": shape})
                done(number, len(members))
            contents = {"family": fingerprint(family, size), "members": listed}
            archive.writestr(f"{output.stem}/{measure.LISTED}", json.dumps(contents, indent=2))
            archive.write(measure.__file__, f"{output.stem}/measure.py")
    except OSError as error:
        raise ProXError(f"cannot write {output}: {error.strerror or error}; nothing was left behind") from error
    return output


def _files(source: Trained, members: Sequence[Subnet]) -> Any:
    """Yields the name, the content, the input shape and the subnet of each member's ONNX file."""
    from monai_prox.export.onnx_file import write_onnx

    for number, subnet in enumerate(members):
        file = f"member_{number:02d}.onnx"
        with tempfile.TemporaryDirectory() as folder:
            description = source.describe(subnet, name=file.removesuffix(".onnx"))
            write_onnx(source.network(subnet), description, Path(folder, file))
            yield file, Path(folder, file).read_bytes(), [1, *description.input_shape], subnet


def measure_here(
    source: Trained,
    members: Sequence[Subnet],
    runtime: str,
    *,
    threads: int,
    progress: Callable[[str], object],
    device: str | None = None,
) -> dict[str, Any]:
    """Measures members on this machine.

    Args:
        source: the trained family.
        members: the members.
        runtime: one of RUNTIMES.
        threads: number of threads.
        progress: called with a text before each measurement.
        device: for the runtime torch, its device. None means the GPU if there is one.

    Returns:
        The content of a device's file.

    Raises:
        ProXError: the runtime is unknown, or does not take a device.
    """
    if runtime not in RUNTIMES:
        raise ProXError(f"the runtime {runtime!r} is not known; allowed: {', '.join(RUNTIMES)}")
    if device is not None and runtime != "torch":
        raise ProXError(f"--device is for the runtime torch; {runtime} runs on the processor, so leave it out")
    with tempfile.TemporaryDirectory() as folder:
        if runtime == "torch":
            on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            shapes = [(1, *source.describe(subnet).input_shape) for subnet in members]
            openers = [_torch_opener(source, subnet, threads, on) for subnet in members]
            version = f"torch {torch.__version__}{_on(on)}"
        else:
            shapes, openers = [], []
            for number, (file, content, shape, _) in enumerate(_files(source, members), 1):
                progress(f"exporting member {number} of {len(members)}")
                Path(folder, file).write_bytes(content)
                shapes.append(tuple(shape))
                openers.append(_file_opener(Path(folder, file), runtime, threads))
            version = _version(runtime)
        times = measure.measure(list(zip(openers, shapes, strict=True)), progress)
    measured = [{"subnet": subnet.to_json(), **timing} for subnet, timing in zip(members, times, strict=True)]
    return measure.profile(fingerprint(source.supernet.family, source.size), version, threads, measured)


def _on(device: torch.device) -> str:
    if device.type == "cuda":
        return f" on {torch.cuda.get_device_name(device)}"
    return "" if device.type == "cpu" else f" on {device.type}"


def _version(runtime: str) -> str:
    if runtime == "onnxruntime":
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"
    import openvino

    return f"openvino {openvino.__version__}"


def _file_opener(path: Path, runtime: str, threads: int) -> Callable[[], measure.Run]:
    if runtime == "onnxruntime":
        return lambda: measure.onnx_run(path, threads)

    def opened() -> measure.Run:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled: measure.Run = openvino.Core().compile_model(path, "CPU", settings)
        return compiled

    return opened


def _torch_opener(source: Trained, subnet: Subnet, threads: int, device: torch.device) -> Callable[[], measure.Run]:
    def opened() -> measure.Run:
        torch.set_num_threads(threads)
        network = source.network(subnet).to(device)

        def run(x: Any) -> None:
            with torch.inference_mode():
                network(torch.from_numpy(x).to(device))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elif device.type == "mps":
                torch.mps.synchronize()

        return run

    return opened
