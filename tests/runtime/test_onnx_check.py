"""ONNX files from outside: what export writes is read, and what would read other files, loop or fill the memory is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.descriptions import SCANS
from helpers.fuzzing import cases
from helpers.made_once import made_once
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from monai_prox.errors import ProXError
from monai_prox.export.onnx_file import write_onnx
from monai_prox.runtime.model import Model
from monai_prox.runtime.onnx_check import check_graph, read_model

pytest_plugins = ["helpers.nnunet_fixtures"]


def write_classifier(folder: Path) -> None:
    """It ends as MobileNets do."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    write_onnx(network.eval(), replace(SCANS, working_size=(64, 64)), folder / "classifier.onnx")


@pytest.fixture(scope="module")
def classifier() -> Path:
    return made_once("onnx_check", write_classifier) / "classifier.onnx"


@pytest.fixture(scope="module")
def unet(two_members: Path) -> Path:
    """The file of a plain U-Net for one patch."""
    return two_members / "largest.onnx"


def test_what_export_writes_is_read(classifier: Path) -> None:
    """U-Nets, for one patch and any, are read by the tests below before they are changed, MobileNets by those of a bundle."""
    model = Model(classifier)
    x = np.zeros((1, *model.description.input_shape), np.float32)
    assert np.isfinite(model(x)).all()


def changed(file: Path, path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(file)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ProXError, match=f"cannot be read as a model: .*{reason}"):
        Model(path)


def test_weights_in_other_files_are_not_read(unet: Path, tmp_path: Path) -> None:
    """ONNX Runtime of some versions reads any file of the machine for a weight."""
    (tmp_path / "secret").write_bytes(bytes(10_000))

    def elsewhere(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret")
        tensor.ClearField("raw_data")

    (tmp_path / "model").mkdir()
    refused(changed(unet, tmp_path / "model" / "a.onnx", elsewhere), "it keeps weights in another file; export writes one file")

    def by_a_constant(model: onnx.ModelProto) -> None:
        tensor = TensorProto(dims=[8], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["more"], value=tensor))

    refused(changed(unet, tmp_path / "b.onnx", by_a_constant), "it keeps weights in another file")


def bomb(size: int) -> Callable[[onnx.ModelProto], object]:
    """What ONNX Runtime computes while it loads a model."""

    def add(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([size], np.int64), "size"))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["zeros"]))

    return add


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.insert(0, helper.make_node("Loop", ["", ""], ["never"], body=body))


def hidden(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("extra", helper.make_graph([], "body", [], [])))


def function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("own", "Conv", ["x"], ["y"], [], [helper.make_opsetid("", 18)]))


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def claimed(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([65_536, 65_536])


def padded(model: onnx.ModelProto) -> None:
    (pads,) = (attribute for attribute in model.graph.node[0].attribute if attribute.name == "pads")
    pads.ints[:] = [500] * 6


def enlarged(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "ConvTranspose")
    (steps,) = (attribute for attribute in node.attribute if attribute.name == "strides")
    steps.ints[:] = [200] * 3


def without_end(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "ConvTranspose")
    node.attribute.append(helper.make_attribute("output_shape", [4000, 4000, 4000]))


def crossed(model: onnx.ModelProto) -> None:
    """A column and a row of weights, which become a matrix."""
    for name, shape in (("column", (100_000, 1)), ("row", (1, 100_000))):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    model.graph.node.insert(0, helper.make_node("Add", ["column", "row"], ["matrix"]))


N = 40_000


def column(model: onnx.ModelProto, *nodes: onnx.NodeProto, added: str) -> None:
    """A column of weights, something made of it, and the sum of both, which ONNX Runtime computes while it loads a model."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((N, 1), np.float32), "x"))
    for node in reversed([*nodes, helper.make_node("Add", ["x", added], ["sum"])]):
        model.graph.node.insert(0, node)


def reduced(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
    column(model, helper.make_node("ReduceMean", ["x", "axes"], ["r"], keepdims=0), added="r")


def flattened(model: onnx.ModelProto) -> None:
    column(model, helper.make_node("Flatten", ["x"], ["f"], axis=0), added="f")


def turned(model: onnx.ModelProto) -> None:
    column(
        model,
        helper.make_node("Flatten", ["x"], ["f"], axis=0),
        helper.make_node("Gemm", ["f", "f"], ["g"], transA=1),
        added="g",
    )


def transposed(model: onnx.ModelProto) -> None:
    column(model, helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]), added="t")


def repeated(model: onnx.ModelProto) -> None:
    column(model, helper.make_node("Transpose", ["x"], ["t"], perm=[0, 0]), added="t")


def of_floats(model: onnx.ModelProto) -> None:
    column(model, helper.make_node("Constant", [], ["c"], value_floats=[1.0] * N), added="c")


def unsorted(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, N], np.int64), "row"))
    column(model, added="y")
    model.graph.node.insert(1, helper.make_node("Reshape", ["x", "row"], ["y"]))


def flattened_by_its_shape(model: onnx.ModelProto, times: int = 1) -> None:
    """As older exporters flatten what a classifier's pooling leaves: to (B, all others)."""
    end = next(node for node in model.graph.node if node.op_type in ("Flatten", "Reshape"))
    reads = next(node for node in model.graph.node if node.input[:1] == end.output)
    width = next(weight.dims[1] for weight in model.graph.initializer if weight.name == reads.input[1])
    model.graph.initializer.append(numpy_helper.from_array(np.array([width], np.int64), "rest"))
    nodes = [
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", *["rest"] * times], ["sizes"], axis=0),
        helper.make_node("Reshape", [end.input[0], "sizes"], [end.output[0]], allowzero=1),
    ]
    at = list(model.graph.node).index(end)
    model.graph.node.remove(end)
    for number, node in enumerate(nodes):
        model.graph.node.insert(at + number, node)


def test_a_file_that_flattens_by_its_shape_is_read(classifier: Path, tmp_path: Path) -> None:
    path = changed(classifier, tmp_path / "model.onnx", flattened_by_its_shape)
    x = np.random.default_rng(0).normal(size=(3, 1, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(Model(path)(x), Model(classifier)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("times", "reason"), [(2, "a result of Reshape has the shape"), (8, "makes the sizes of 9 axes")])
def test_shapes_of_any_size_are_refused(times: int, reason: str, classifier: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        flattened_by_its_shape(model, times)
        model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array([2**20], np.int64), "rest"))

    refused(changed(classifier, tmp_path / "model.onnx", change), reason)


def several(model: onnx.ModelProto) -> None:
    """None of the results is too large by itself."""
    for name, shape in (("column", (20_000, 1)), ("row", (1, 20_000))):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    for operator in ("Add", "Mul", "Sub"):
        model.graph.node.insert(0, helper.make_node(operator, ["column", "row"], [operator]))


@pytest.mark.parametrize("tag", [bytes([0x3A]), bytes([0xBA, 0x80, 0x80, 0x80, 0x10])], ids=["twice", "a tag that others cut"])
def test_a_second_graph_is_not_overlooked(tag: bytes, unet: Path, tmp_path: Path) -> None:
    """Other readers put the two together."""
    more = onnx.GraphProto(node=[helper.make_node("Loop", ["", ""], ["never"])]).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(unet.read_bytes() + tag + bytes([len(more)]) + more)
    refused(tmp_path / "model.onnx", "twice|a field of the number")


def test_a_second_part_of_a_constant_is_not_overlooked(unet: Path, tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(8, np.float32))
    elsewhere = TensorProto(data_location=TensorProto.EXTERNAL)
    elsewhere.external_data.add(key="location", value="secret.bin")
    attribute = helper.make_attribute("value", tensor).SerializeToString()
    for part in (elsewhere.SerializeToString(),):
        attribute += bytes([5 << 3 | 2, len(part)]) + part
    node = b"".join(bytes([number << 3 | 2, len(part)]) + part for number, part in ((2, b"c"), (4, b"Constant")))
    node += bytes([5 << 3 | 2, len(attribute)]) + attribute
    model = onnx.load(unet)
    graph = bytes([1 << 3 | 2, len(node)]) + node + model.graph.SerializeToString()
    model.ClearField("graph")
    length, size = b"", len(graph)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString() + bytes([7 << 3 | 2]) + length + bytes([size]) + graph)
    refused(tmp_path / "model.onnx", "its attribute has a field 5 that no file of this package has, or has it twice")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (reduced, "a ReduceMean leaves out axes"),
        (flattened, r"a result of Add has the shape \(40000, 40000\)"),
        (transposed, r"a result of Add has the shape \(40000, 40000\)"),
        (repeated, r"a Transpose of 2 axes has the order \[0, 0\]"),
        (turned, "a Gemm multiplies other than rows"),
        (of_floats, "a Constant has value_floats, and not a value"),
        (unsorted, "a Add takes 'y', which nothing before it makes"),
        (several, r"a result of Sub has the shape \(20000, 20000\); at most [\d,]+ elements are allowed"),
        (bomb(2**40), "it has the operator 'ConstantOfShape', which no network of this package has"),
        (loop, "it has the operator 'Loop'"),
        (hidden, "its attribute has a field 6 that no file of this package has"),
        (function, "its model has a field 25 that no file"),
        (foreign, "it has the operator 'Conv', which no network"),
        (claimed, r"a tensor of the shape \(65536, 65536\) is not in the file"),
        (padded, "a result of Conv has the shape .*; at most 536,870,912 elements are allowed"),
        (enlarged, "a result of ConvTranspose has the shape"),
        (without_end, "a ConvTranspose has auto_pad, output_shape or ceil_mode"),
        (crossed, r"a result of Add has the shape \(100000, 100000\)"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_hangs_or_fills_the_memory_is_refused(
    change: Callable[[onnx.ModelProto], object], reason: str, unet: Path, tmp_path: Path
) -> None:
    refused(changed(unet, tmp_path / "model.onnx", change), reason)


@pytest.mark.parametrize("data", [b"", b"\x00", b"nothing at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x0b\x0c"])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    refused(tmp_path / "model.onnx", "")


@given(st.data())
@cases(1_500)
def test_changed_bytes_are_checked_or_refused(unet: Path, data: st.DataObject) -> None:
    whole = unet.read_bytes()
    at, new = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(min_size=1, max_size=6))
    after = at + data.draw(st.sampled_from([0, len(new), len(whole)]))
    try:
        model, _ = read_model(whole[:at] + new + whole[after:])
        check_graph(model, (1, 1, 16, 16, 16))
    except ProXError as error:
        assert "\n" not in str(error)


def test_the_shapes_are_those_of_onnx_runtime(any_patch: Path) -> None:
    """For the largest result that a network has, which bounds what it takes."""
    for patch in ((16, 16, 16), (64, 32, 16)):
        model, _ = read_model((any_patch / "largest.onnx").read_bytes())
        check_graph(model, (1, 1, *patch))
    with pytest.raises(ProXError, match=r"a result of Conv has the shape \(1, 4, 1024, 1024, 1024\)"):
        check_graph(model, (1, 1, 1024, 1024, 1024))
