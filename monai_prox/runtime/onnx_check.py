"""What an ONNX file asks for, read before ONNX Runtime does.

The runtime reads whatever files a model names beside itself, runs loops without end, and makes tensors of any size while it is
still loading. What ``monai-prox export`` writes does nothing of that: it holds its weights itself, and a few kinds of
operators, whose results are no larger than ``MOST``. The file is Protocol Buffers; the numbers below are those of the fields in
onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from monai_prox.errors import ProXError

MOST = 2**29  # elements of a result, 2 GiB of them
BROADCAST = frozenset(["Add", "Div", "Greater", "GreaterOrEqual", "Less", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Where"])
SAME = frozenset(  # shape as of the first input, or a smaller one
    (
        *("Abs", "BatchNormalization", "Cast", "Celu", "Clip", "DequantizeLinear", "Elu", "Erf", "Exp", "GlobalAveragePool"),
        *("HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LeakyRelu", "Log", "Mish", "Neg", "QuantizeLinear"),
        *("Reciprocal", "ReduceMean", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Tanh"),
    )
)
WINDOWS = frozenset(("Conv", "ConvTranspose", "AveragePool"))
OPERATORS = BROADCAST | SAME | WINDOWS | {"Concat", "Constant", "Flatten", "Gemm", "Reshape", "Shape", "Transpose"}
MOST_AXES = 8  # of a tensor
VALUES = (4, 5, 6, 7, 9, 10, 11)  # fields of a tensor, by type
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """Of a message: the numbers of the fields that it has once at most, and of those that it may have several times."""

    name: str
    single: frozenset[int]
    several: frozenset[int] = frozenset()


MODEL = Kind("model", frozenset(range(1, 8)), frozenset((8, 14)))
ENTRY = Kind("entry", frozenset((1, 2)))
GRAPH = Kind("graph", frozenset((2, 10)), frozenset((1, 5, 11, 12, 13, 14, 16)))
NODE = Kind("node", frozenset((3, 4, 6, 7, 8)), frozenset((1, 2, 5, 9)))
ATTRIBUTE = Kind("attribute", frozenset((1, 2, 3, 4, 5, 13, 20)), frozenset((7, 8, 9)))
TENSOR = Kind("tensor", frozenset((2, 8, 9, 12, 14)), frozenset((1, 4, 5, 6, 7, 10, 11, 13, 16)))
VALUE = Kind("value", frozenset((1, 2, 3)), frozenset((4,)))


class Message:
    """A message's fields by number: numbers, or bytes of texts and of messages within.

    Raises ProXError for fields that its kind has not, or not twice: other readers would put the two together.
    """

    def __init__(self, kind: Kind, data: memoryview) -> None:
        self._fields: dict[int, list[Any]] = {}
        for number, value, _ in fields(data):
            known = self._fields.setdefault(number, [])
            if number not in kind.several and (number not in kind.single or known):
                raise ProXError(f"its {kind.name} has a field {number} that no file of this package has, or has it twice")
            known.append(value)

    def all(self, number: int) -> list[Any]:
        return self._fields.get(number, [])

    def messages(self, number: int, kind: Kind) -> Iterator[Message]:
        return (Message(kind, value) for value in self.all(number))

    def text(self, number: int) -> str:
        return "".join(self.texts(number))

    def texts(self, number: int) -> list[str]:
        return [bytes(value).decode() for value in self.all(number)]

    def numbers(self, number: int) -> list[int]:
        """Signed; a list may be packed into bytes."""
        found: list[int] = []
        for value in self.all(number):
            found += [value] if isinstance(value, int) else _packed(value)
        return [value - 2**64 if value >= 2**63 else value for value in found]


def fields(data: memoryview) -> Iterator[tuple[int, Any, int]]:
    """A message's fields, in order: number, value, see ``Message``, and where each ends. Raises ValueError for none."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        kind = key & 7
        if key >= 2**32:  # others would cut it
            raise ValueError(f"a field of the number {key >> 3}")
        if kind == 0:
            value, at = _number(data, at)
            yield key >> 3, value, at
            continue
        if kind == 2:
            length, at = _number(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the kind {kind}")
        if at + length > len(data):
            raise ValueError("a field that goes beyond the end")
        at += length
        yield key >> 3, data[at - length : at], at


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, no longer than it has to be, and where it ends."""
    value = 0
    for place in range(10):
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            if byte == 0 < place or value >= 2**64:
                raise ValueError("a number that is longer than it has to be")
            return value, at + place + 1
    raise ValueError("a number without end")


def _packed(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _number(data, at)
        found.append(value)
    return found


def read_model(data: bytes) -> tuple[Message, dict[str, str]]:
    """An ONNX file, and its metadata. Raises ProXError if it is none."""
    with _malformed("it is no ONNX file"):
        model = Message(MODEL, memoryview(data))
        if not model.all(7):
            raise ValueError("there is no graph")
        return model, {entry.text(1): entry.text(2) for entry in model.messages(14, ENTRY)}


def check_graph(model: Message, shape: Shape) -> None:
    """Raises ProXError unless the model is of the kind that this package writes, for an input of ``shape``, (B, C, *patch)."""
    with _malformed("its graph is malformed"):
        (graph,) = model.messages(7, GRAPH)
        _check(graph, shape, len(model.all(7)[0]))


@contextmanager
def _malformed(what: str) -> Iterator[None]:
    try:
        yield
    except ProXError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise ProXError(f"{what}: {type(error).__name__} {error!s:.120}") from None


def _check(graph: Message, shape: Shape, size: int) -> None:
    """size: bytes of the graph."""
    weights = {tensor.text(8): tensor for tensor in graph.messages(5, TENSOR)}
    shapes: dict[str, Shape] = {"": ()} | {name: _tensor(tensor) for name, tensor in weights.items()}
    fixed = set(shapes)  # what does not depend on the input is computed when the file is opened
    inputs = [value.text(1) for value in graph.messages(11, VALUE) if value.text(1) not in shapes]
    if len(inputs) != 1:
        raise ProXError(f"it has {len(inputs)} inputs, and 1 is given")
    shapes[inputs[0]] = shape
    sizes: dict[str, Shape] = {}  # by name, what a Shape gives, and what is put together of it: older exporters flatten so

    def read(name: str) -> Shape:
        return sizes[name] if name in sizes else _sizes(weights[name])

    for node in graph.messages(1, NODE):
        operator, names = node.text(4), node.texts(1)
        if operator not in OPERATORS or node.text(7) not in ("", "ai.onnx"):
            raise ProXError(f"it has the operator {operator!r:.40}, which no network of this package has")
        if unknown := [name for name in names if name not in shapes]:
            raise ProXError(f"a {operator} takes {unknown[0]!r:.40}, which nothing before it makes")
        attributes = {attribute.text(1): attribute for attribute in node.messages(5, ATTRIBUTE)}
        if operator == "Reshape":
            result = _reshaped(shapes[names[0]], read(names[1]))
        elif operator == "Shape" or (operator == "Concat" and not sizes.keys().isdisjoint(names)):
            made = _part_of_shape(attributes, shapes[names[0]]) if operator == "Shape" else sum(map(read, names), ())
            if len(made) > MOST_AXES:
                raise ProXError(f"a {operator} makes the sizes of {len(made)} axes; at most {MOST_AXES} are allowed")
            sizes[node.texts(2)[0]], result = made, (len(made),)
        else:
            result = _result(operator, attributes, [shapes[name] for name in names])
        most = size if fixed.issuperset(names) else MOST
        if min(result, default=1) < 1 or prod(result) > most:
            raise ProXError(f"a result of {operator} has the shape {result!s:.80}; at most {most:,} elements are allowed")
        for name in node.texts(2):
            if name in shapes and name:
                raise ProXError(f"two of its operators make {name!r:.40}")
            shapes[name] = result
        if fixed.issuperset(names):
            fixed.update(node.texts(2))


def _tensor(tensor: Message) -> Shape:
    """The shape of a tensor, which the file has to hold."""
    if tensor.all(13) or tensor.numbers(14) not in ([], [0]):
        raise ProXError("it keeps weights in another file; export writes one file")
    shape = tuple(tensor.numbers(1))
    held = sum(1 if isinstance(value, int) else len(value) for number in VALUES for value in tensor.all(number))
    if min(shape, default=1) < 0 or prod(shape) > 2 * held:  # two of four bits in a byte
        raise ProXError(f"a tensor of the shape {shape!s:.80} is not in the file")
    return shape


def _number_of(attributes: Mapping[str, Message], name: str, default: int) -> int:
    return attributes[name].numbers(3)[0] if name in attributes else default


def _result(operator: str, attributes: Mapping[str, Message], inputs: Sequence[Shape]) -> Shape:
    """The shape of an operator's result, or one that is nowhere smaller."""
    if operator in SAME:
        if operator == "ReduceMean" and _number_of(attributes, "keepdims", 1) != 1:
            raise ProXError("a ReduceMean leaves out axes, which no network of this package does")
        return inputs[0]
    if operator in BROADCAST:
        rank = max(map(len, inputs))
        return tuple(map(max, zip(*((1,) * (rank - len(shape)) + shape for shape in inputs), strict=True)))
    if operator in WINDOWS:
        return _slid(operator, attributes, inputs)
    if operator == "Constant":
        if set(attributes) != {"value"}:
            raise ProXError(f"a Constant has {', '.join(attributes)!s:.80}, and not a value")
        return _tensor(next(attributes["value"].messages(5, TENSOR)))
    if operator == "Concat":
        axis = attributes["axis"].numbers(3)[0]
        most = [max(sizes) for sizes in zip(*inputs, strict=True)]
        most[axis] = sum(shape[axis] for shape in inputs)
        return tuple(most)
    if operator == "Flatten":
        axis = _number_of(attributes, "axis", 1)
        return prod(inputs[0][:axis]), prod(inputs[0][axis:])
    if operator == "Transpose":
        order = attributes["perm"].numbers(8)
        if sorted(order) != list(range(len(inputs[0]))):
            raise ProXError(f"a Transpose of {len(inputs[0])} axes has the order {order!s:.80}")
        return tuple(inputs[0][axis] for axis in order)
    image, weight = inputs[:2]  # Gemm
    if _number_of(attributes, "transA", 0) or len(image) != 2 or len(weight) != 2:
        raise ProXError("a Gemm multiplies other than rows, which no network of this package does")
    return image[0], weight[0 if _number_of(attributes, "transB", 0) else 1]


def _sizes(tensor: Message) -> Shape:
    """What is in a tensor of 64-bit numbers."""
    raw = b"".join(bytes(value) for value in tensor.all(9))
    sizes = (*struct.unpack(f"<{len(raw) // 8}q", raw), *tensor.numbers(7)) if len(raw) <= 8 * MOST_AXES else ()
    if len(sizes) != prod(tensor.numbers(1)) or len(sizes) > MOST_AXES:
        raise ProXError(f"there are sizes of {prod(tensor.numbers(1))} axes; at most {MOST_AXES} are allowed")
    return sizes


def _part_of_shape(attributes: Mapping[str, Message], shape: Shape) -> Shape:
    return shape[_number_of(attributes, "start", 0) : _number_of(attributes, "end", len(shape))]


def _reshaped(shape: Shape, wanted: Shape) -> Shape:
    """wanted: sizes, of which 0 keeps a size and -1 is what is left."""
    sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    left = prod(shape) // max(prod(size for size in sizes if size > 0), 1)
    return tuple(left if size == -1 else size for size in sizes)


def _slid(operator: str, attributes: Mapping[str, Message], inputs: Sequence[Shape]) -> Shape:
    """Of a convolution, a transposed one, or pooling: what slides over an image (B, C, *sizes)."""
    padding = attributes["auto_pad"].text(4) if "auto_pad" in attributes else "NOTSET"
    if padding != "NOTSET" or "output_shape" in attributes or _number_of(attributes, "ceil_mode", 0):
        raise ProXError(f"a {operator} has auto_pad, output_shape or ceil_mode, which no network of this package has")
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
    return image[0], inputs[1][0] if operator == "Conv" else inputs[1][1] * _number_of(attributes, "group", 1), *sizes
