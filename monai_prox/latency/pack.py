"""Members to measure, packed for another device or measured on this one."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch

import monai_prox
from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.export.folder import check_vacant
from monai_prox.files import replacing
from monai_prox.latency import measure
from monai_prox.latency.device import FEWEST, fingerprint
from monai_prox.latency.parts import Parts
from monai_prox.latency.synthetic import measure_parts
from monai_prox.runtime.description import Description
from monai_prox.trained.source import Members

MEMBERS = 24
CANDIDATES = 20  # random members per chosen member
# Beside runtime/, what the script needs for what a case takes beside the network
BESIDE = ("errors.py", "files.py", "typed.py", *(f"latency/{name}.py" for name in ("__init__", "fit", "parts", "synthetic")))
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
    source: Members, output: Path, *, count: int = MEMBERS, overwrite: bool = False, done: Callable[[int, int], object]
) -> Path:
    """Writes a .zip with members as ONNX files and measure.py, which needs Python, numpy and onnxruntime.

    What a case takes beside the network is measured by the part of this package that is in it, which needs scipy and SimpleITK.

    Args:
        source: the family.
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
            image = source.median_image
            contents = {
                "family": fingerprint(family, size),
                "case": None if image is None else asdict(image),
                "members": listed,
            }
            archive.writestr(f"{output.stem}/{measure.LISTED}", json.dumps(contents, indent=2))
            archive.write(measure.__file__, f"{output.stem}/measure.py")
            for file, content in _runtime_files():
                archive.writestr(f"{output.stem}/{file}", content)
    except OSError as error:
        raise ProXError(f"cannot write {output}: {error.strerror or error}; nothing was left behind") from error
    return output


def _runtime_files() -> Iterator[tuple[str, str]]:
    """Path and content of what measures a case beside the network: the part of this package that predicts, without torch."""
    package = Path(monai_prox.__file__).parent
    for file in [*(package / name for name in BESIDE), *sorted((package / "runtime").glob("*.py"))]:
        yield file.relative_to(package.parent).as_posix(), file.read_text(encoding="utf-8")
    yield f"{package.name}/__init__.py", '"""The part of monai-prox that predicts."""\n'


def _files(source: Members, members: Sequence[Subnet]) -> Any:
    """Yields the name, the content, the input shape and the subnet of each member's ONNX file."""
    from monai_prox.export.onnx_file import write_onnx

    for number, subnet in enumerate(members):
        file = f"member_{number:02d}.onnx"
        with tempfile.TemporaryDirectory() as folder:
            description = source.describe(subnet, name=file.removesuffix(".onnx"))
            write_onnx(source.network(subnet), description, Path(folder, file))
            yield file, Path(folder, file).read_bytes(), [1, *description.input_shape], subnet


def measure_here(
    source: Members,
    members: Sequence[Subnet],
    runtime: str,
    *,
    threads: int,
    progress: Callable[[str], object],
    device: str | None = None,
) -> dict[str, Any]:
    """Measures members on this machine.

    Args:
        source: the family.
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
    files: list[tuple[Path, Sequence[int]]] = []
    with tempfile.TemporaryDirectory() as folder:
        if runtime == "torch":
            on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            shapes = [(1, *source.describe(subnet).input_shape) for subnet in members]
            openers = [_torch_opener(source, subnet, threads, on) for subnet in members]
            version = f"torch {torch.__version__}{_on(on)}"
        else:
            shapes, openers = list[tuple[int, ...]](), list[Callable[[], measure.Run]]()
            for number, (file, content, shape, _) in enumerate(_files(source, members), 1):
                progress(f"exporting member {number} of {len(members)}")
                Path(folder, file).write_bytes(content)
                shapes.append(tuple(shape))
                openers.append(_file_opener(Path(folder, file), runtime, threads))
                files.append((Path(folder, file), shapes[-1]))
            version = _version(runtime)
        times = measure.measure(list(zip(openers, shapes, strict=True)), progress)
        measured = [{"subnet": subnet.to_json(), **timing} for subnet, timing in zip(members, times, strict=True)]
        process_mb = measure.add_memory(measured, files, runtime, threads, progress) if files else None
    pipeline = _beside(source, progress)
    made_for = fingerprint(source.supernet.family, source.size)
    return measure.profile(made_for, version, threads, measured, None if pipeline is None else pipeline.to_json(), process_mb)


def _beside(source: Members, progress: Callable[[str], object]) -> Parts | None:
    """What a case takes beside the network, None for networks that do not segment volumes."""
    space = source.supernet.family.space
    smallest, largest = (source.describe(subnet) for subnet in (space.smallest(), space.largest()))
    if not isinstance(smallest, Description) or not isinstance(largest, Description):
        return None
    return measure_parts([smallest, largest], source.median_image, progress)


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
    return lambda: measure.RUNS[runtime](path, threads)


def _torch_opener(source: Members, subnet: Subnet, threads: int, device: torch.device) -> Callable[[], measure.Run]:
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
