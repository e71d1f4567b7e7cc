"""A member as a file that runs on a device, with everything around the network inside."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from monai_prox.errors import ProXError
from monai_prox.export.folder import check_vacant
from monai_prox.export.half import Half
from monai_prox.export.options import check_file_options
from monai_prox.export.portable import without_transposed_convolutions
from monai_prox.export.torchscript_file import write_torchscript
from monai_prox.files import remove_unfinished, temporary_folder, to_disk
from monai_prox.runtime.description import Description, ScanDescription, write_description
from monai_prox.trained.source import Trained

if TYPE_CHECKING:
    from monai_prox.export.int8 import Loss
    from monai_prox.export.onnxruntime_web import Runtime

MOST_LOSS = 0.01  # of Dice or accuracy, by integers
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".ts", "html": ".html"}


def export_file(
    source: Trained,
    which: str,
    output: Path,
    format: str,
    *,
    overwrite: bool = False,
    any_patch: bool = False,
    int8: bool = False,
    half: bool = False,
    portable: bool = False,
    onnxruntime_web: Path | None = None,
    most_loss: float = MOST_LOSS,
) -> Loss | None:
    """Writes a member as a file that runs on a device.

    Args:
        source: the trained family.
        which: a member's name, or a JSON file with a subnet.
        output: path of the file. OpenVINO has a second file beside it, .bin.
        format: one of ENDINGS.
        overwrite: whether an existing file is replaced.
        any_patch: whether the file takes inputs of any size that the family's strides divide. If not, it takes the plan's size
            only, which is faster. TorchScript always takes any size.
        int8: whether to use 8-bit integers. They are calibrated and compared on held-out cases.
        half: whether weights are float16, in which the network also computes where the device can.
        portable: whether the network is written without transposed convolutions, which some runtimes lack. It computes the
            same.
        onnxruntime_web: for ``html`` the folder of ONNX Runtime's files, see ``find_runtime``.
        most_loss: largest loss of score that integers may cause.

    Returns:
        The loss by integers, or None without them.

    Raises:
        ProXError: the member is unknown or not legal, the runtime cannot repeat it, ``portable`` cannot replace a transposed
            convolution, the file exists or cannot be written, or integers lose too much. Then no part of the file is left.
    """
    ending = ENDINGS[format]
    if output.suffix != ending:
        raise ProXError(f"--output is {output}; a file of the format {format} ends in {ending}")
    check_file_options(format, source.kind, any_patch=any_patch, int8=int8, half=half, portable=portable)
    files = [output, output.with_suffix(".bin")] if format == "openvino" else [output]
    for file in files:
        check_vacant(file, overwrite=overwrite)
    network, description = source.network(which), source.describe(which)
    runtime = None
    if format == "html":
        from monai_prox.export.html_file import check_page
        from monai_prox.export.onnxruntime_web import find_runtime

        check_page(description)
        runtime = find_runtime(onnxruntime_web)
    if portable:
        network = without_transposed_convolutions(network)
    if half and isinstance(description, Description):
        network, description = Half(network), replace(description, precision="float16")
    divisors = source.supernet.family.divisor if any_patch else None
    cases = source.held_out() if int8 else None
    loss = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(output.parent, output.name)
        with temporary_folder(output) as folder:
            written = folder / output.name
            if format == "torchscript":
                write_torchscript(network, description, written)
            elif cases is None:
                with _exported(network, description, divisors) as exported:
                    _convert(exported, description, written, format, runtime)
            else:
                from monai_prox.export.int8 import compare, quantise

                plain = folder / "float32" / output.name
                plain.parent.mkdir()
                with _exported(network, description, divisors) as exported:
                    quantised = exported.with_name("int8.onnx")
                    quantise(exported, quantised, cases)
                    _convert(quantised, description, written, format)
                    _convert(exported, description, plain, format)
                loss = compare(plain, written, cases, source.measure, most_loss=most_loss)
            if len(files) > 1:
                output.unlink(missing_ok=True)  # no .xml is ever beside the .bin of another
            for file in reversed(files):
                to_disk(folder / file.name)
                (folder / file.name).replace(file)
    except OSError as error:
        raise ProXError(f"cannot write {output}: {error.strerror or error}; nothing was left behind") from error
    return loss


@contextmanager
def _exported(network: nn.Module, description: Description | ScanDescription, divisors: Sequence[int] | None) -> Iterator[Path]:
    """The network as an ONNX file, in a folder that is removed at the end."""
    from monai_prox.export.onnx_file import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder, "float32.onnx")
        write_onnx(network, description, exported, divisors=divisors)
        yield exported


def _convert(
    exported: Path, description: Description | ScanDescription, output: Path, format: str, runtime: Runtime | None = None
) -> None:
    """Writes an ONNX file in another format, or as it is."""
    if format == "onnx":
        shutil.copyfile(exported, output)
    elif runtime is not None:
        from monai_prox.export.html_file import write_html

        assert isinstance(description, Description)
        write_html(exported, description, runtime, output)
    else:
        from monai_prox.export.openvino_file import write_openvino

        write_openvino(exported, write_description(description), output)
