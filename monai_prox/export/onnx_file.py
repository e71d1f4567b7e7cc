"""A member as one ONNX file that holds everything prediction needs, for ``monai_prox.runtime``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from monai_prox.errors import ProXError
from monai_prox.runtime.description import KEY, Description, ScanDescription, write_description

OPSET = 18
MOST_BYTES = 2_000_000_000  # of weights; a file, with the rest, has less than 2^31
IR_VERSION = 8  # that of opset 18; the exporter writes a later one, which older runtimes refuse and nothing here needs


def write_onnx(
    network: nn.Module, description: Description | ScanDescription, output: Path, *, divisors: Sequence[int] | None = None
) -> None:
    """network: (B, C, *patch) -> (B, outputs, *patch), any B; and, with ``divisors``, any multiples of these for the patch.

    Raises ProXError for a network, such as that of many folds, whose weights no ONNX file holds.
    """
    size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    if size > MOST_BYTES:
        raise ProXError(
            f"the weights have {size:,} bytes, an ONNX file holds {MOST_BYTES:,}; take fewer folds, or --format torchscript"
        )
    example = torch.zeros(2, *description.input_shape)  # a batch of 1 would be taken for a constant
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    for axis, divisor in enumerate(divisors or ()):
        axes[2 + axis] = divisor * torch.export.Dim(f"patch_{axis}")
    with warnings.catch_warnings(), _out_of_place(network):
        warnings.simplefilter("ignore")  # of the exporter's own code
        program = torch.onnx.export(
            network.cpu().eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=(axes,),
            verbose=False,
        )
    assert program is not None
    _save(program.model_proto, write_description(description), output)


@contextmanager
def _out_of_place(network: nn.Module) -> Iterator[None]:
    """Within it, no layer works in place: the exporter would trace each as several operators, for the same file."""
    layers: list[Any] = [layer for layer in network.modules() if getattr(layer, "inplace", False)]
    for layer in layers:
        layer.inplace = False
    try:
        yield
    finally:
        for layer in layers:
            layer.inplace = True


def describe_again(path: Path, described: str) -> None:
    """Puts back what another program has dropped from the file's metadata."""
    _save(onnx.load(path), described, path)


def _save(model: onnx.ModelProto, described: str, path: Path) -> None:
    onnx.helper.set_model_props(model, {KEY: described})
    model.ir_version = IR_VERSION
    used = {"", *(node.domain for node in model.graph.node)}
    needed = [one for one in model.opset_import if one.domain in used]  # int8 has others, too new for older runtimes
    del model.opset_import[:]
    model.opset_import.extend(needed)
    onnx.save(model, path)
