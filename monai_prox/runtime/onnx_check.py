"""What an ONNX file asks for, read before ONNX Runtime does.

The runtime reads whatever files a model names beside itself, runs loops without end, and makes tensors of any size while it is
still loading. What ``monai-prox export`` writes does nothing of that: it holds its weights itself, and a few kinds of
operators, whose results are no larger than ``MOST``. The file is Protocol Buffers; the numbers below are those of the fields in
onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from monai_prox.errors import ProXError

MOST = 2**30  # elements of a result, 4 GiB of them
BROADCAST = frozenset(["Add", "Div", "Greater", "GreaterOrEqual", "Less", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Where"])
SAME = frozenset(  # shape as of the first input, or a smaller one
    (
        *("Abs", "BatchNormalization", "Cast", "Celu", "Clip", "DequantizeLinear", "Elu", "Erf", "Exp", "GlobalAveragePool"),
        *("HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LeakyRelu", "Log", "Mish", "Neg", "QuantizeLinear"),
        *("Reciprocal", "ReduceMean", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Tanh"),
    )
)
WINDOWS = frozenset(("Conv", "ConvTranspose", "AveragePool"))
OPERATORS = BROADCAST | SAME | WINDOWS | {"Concat", "Constant", "Flatten", "Gemm", "Reshape"}
VALUES = (4, 5, 6, 7, 9, 10, 11)  # fields of a tensor, by type
UNKNOWN = {"output_shape", "auto_pad", "ceil_mode"}  # attributes of windows that the exporter does not write
Shape = tuple[int, ...]


class Message:
    """A message's fields by number: numbers, or bytes of texts and of messages within."""

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[Any]] = {}
        for number, value in _fields(data):
            self._fields.setdefault(number, []).append(value)

    def all(self, number: int) -> list[Any]:
        return self._fields.get(number, [])

    def messages(self, number: int) -> Iterator[Message]:
        return (Message(value) for value in self.all(number))

    def text(self, number: int) -> str:
        return "".join(bytes(value).decode() for value in self.all(number)[-1:])

    def texts(self, number: int) -> list[str]:
        return [bytes(value).decode() for value in self.all(number)]

    def numbers(self, number: int) -> list[int]:
        """Signed; a list may be packed into bytes."""
        found: list[int] = []
        for value in self.all(number):
            found += [value] if isinstance(value, int) else _packed(value)
        return [value - 2**64 if value >= 2**63 else value for value in found]


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _number(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _number(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the kind {kind}")
        if at + length > len(data):
            raise ValueError("a field that goes beyond the end")
        if kind == 2:
            yield key >> 3, data[at : at + length]
        at += length


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where it ends."""
    value = 0
    for place in range(10):
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value & (2**64 - 1), at + place + 1
    raise ValueError("a number without end")


def _packed(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _number(data, at)
        found.append(value)
    return found


def read_model(data: bytes) -> tuple[Message, dict[str, str]]:
    """An ONNX file, and its metadata. Raises ProXError if it is none."""
    try:
        model = Message(memoryview(data))
        if len(model.all(7)) != 1:
            raise ValueError("there is no graph")
        return model, {entry.text(1): entry.text(2) for entry in model.messages(14)}
    except (IndexError, TypeError, UnicodeDecodeError, ValueError) as error:
        raise ProXError(f"it is no ONNX file: {error}") from None


def check_graph(model: Message, shape: Shape) -> None:
    """Raises ProXError unless the model is of the kind that this package writes, for an input of ``shape``, (B, C, *patch)."""
    try:
        _check(model, shape)
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, ValueError, struct.error) as error:
        if isinstance(error, ProXError):
            raise
        raise ProXError(f"its graph is malformed: {error!s:.120}") from None


def _check(model: Message, shape: Shape) -> None:
    if model.all(20) or model.all(25):
        raise ProXError("it brings functions of its own")
    (graph,) = model.messages(7)
    if graph.all(15):
        raise ProXError("it has sparse weights")
    weights = {tensor.text(8): tensor for tensor in graph.messages(5)}
    shapes = {name: _tensor(tensor) for name, tensor in weights.items()}
    inputs = [value.text(1) for value in graph.messages(11) if value.text(1) not in shapes]
    if len(inputs) != 1:
        raise ProXError(f"it has {len(inputs)} inputs, and 1 is given")
    shapes[inputs[0]] = shape
    for node in graph.messages(1):
        operator = node.text(4)
        if operator not in OPERATORS or node.text(7) not in ("", "ai.onnx"):
            raise ProXError(f"it has the operator {operator!r:.40}, which no network of this package has")
        attributes = {attribute.text(1): attribute for attribute in node.messages(5)}
        for name, attribute in attributes.items():
            if any(attribute.all(number) for number in (6, 10, 11, 22, 23)):
                raise ProXError(f"the operator {operator} has a graph or tensors in {name!r:.40}")
        names = node.texts(1)
        if operator == "Reshape":
            result = _reshaped(shapes[names[0]], weights[names[1]])
        else:
            result = _result(operator, attributes, [shapes.get(name, ()) for name in names])
        if min(result, default=1) < 1 or prod(result) > MOST:
            raise ProXError(f"a result of {operator} has the shape {result!s:.80}; at most {MOST:,} elements are allowed")
        for name in node.texts(2):
            shapes[name] = result


def _tensor(tensor: Message) -> Shape:
    """The shape of a tensor, which the file has to hold."""
    if tensor.all(13) or tensor.numbers(14) not in ([], [0]):
        raise ProXError("it keeps weights in another file; export writes one file")
    shape = tuple(tensor.numbers(1))
    held = sum(1 if isinstance(value, int) else len(value) for number in VALUES for value in tensor.all(number))
    if min(shape, default=1) < 0 or prod(shape) > 2 * held:  # two of four bits in a byte
        raise ProXError(f"a tensor of the shape {shape!s:.80} is not in the file")
    return shape


def _result(operator: str, attributes: Mapping[str, Message], inputs: Sequence[Shape]) -> Shape:
    """The shape of an operator's result, or a larger one."""
    if operator in SAME:
        return inputs[0]
    if operator in BROADCAST:
        rank = max(map(len, inputs))
        return tuple(map(max, zip(*((1,) * (rank - len(shape)) + shape for shape in inputs), strict=True)))
    if operator in WINDOWS:
        return _slid(operator, attributes, inputs)
    if operator == "Constant":
        return _tensor(next(attributes["value"].messages(5))) if "value" in attributes else (1,)
    if operator == "Concat":
        (axis,) = attributes["axis"].numbers(3)
        most = [max(sizes) for sizes in zip(*inputs, strict=True)]
        most[axis] = sum(shape[axis] for shape in inputs)
        return tuple(most)
    if operator == "Flatten":
        return inputs[0][0], prod(inputs[0][1:])
    image, weight = inputs[:2]  # Gemm
    return image[0] if len(image) == 2 else prod(image), max(weight)


def _reshaped(shape: Shape, wanted: Message) -> Shape:
    """wanted: of 64-bit numbers, of which 0 keeps a size and -1 is what is left."""
    raw = b"".join(bytes(value) for value in wanted.all(9))
    sizes = [*struct.unpack(f"<{len(raw) // 8}q", raw), *wanted.numbers(7)]
    sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    left = prod(shape) // max(prod(size for size in sizes if size > 0), 1)
    return tuple(left if size == -1 else size for size in sizes)


def _slid(operator: str, attributes: Mapping[str, Message], inputs: Sequence[Shape]) -> Shape:
    """Of a convolution, a transposed one, or pooling: what slides over an image (B, C, *sizes)."""
    if unknown := UNKNOWN & {name for name, value in attributes.items() if value.all(8) or value.numbers(3) not in ([], [0])}:
        raise ProXError(f"{operator} has {', '.join(unknown)}, which no network of this package has")
    image, axes = inputs[0], len(inputs[0]) - 2

    def numbers(name: str, default: Sequence[int]) -> list[int]:
        return attributes[name].numbers(8) if name in attributes else list(default)

    kernel = inputs[1][2:] if operator != "AveragePool" else numbers("kernel_shape", ())
    steps, pads = numbers("strides", [1] * axes), numbers("pads", [0] * 2 * axes)
    spread, more = numbers("dilations", [1] * axes), numbers("output_padding", [0] * axes)
    if min(*steps, *spread) < 1 or min(*pads, *more) < 0:
        raise ProXError(f"{operator} has strides {steps}, dilations {spread}, pads {pads} and {more}")
    sizes = []
    for axis in range(axes):
        reach, pad = spread[axis] * (kernel[axis] - 1) + 1, pads[axis] + pads[axis + axes]
        if operator == "ConvTranspose":
            sizes.append((image[2 + axis] - 1) * steps[axis] + reach - pad + more[axis])
        else:
            sizes.append((image[2 + axis] + pad - reach) // steps[axis] + 1)
    if operator == "AveragePool":
        return image[0], image[1], *sizes
    groups = attributes["group"].numbers(3)[0] if "group" in attributes else 1
    return image[0], inputs[1][0] if operator == "Conv" else inputs[1][1] * groups, *sizes
