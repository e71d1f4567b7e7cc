"""ONNX files from outside: what export writes is read, and what would read other files, loop or fill the memory is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from architectures import KINDS, unet_architecture
from fuzzing import cases
from hypothesis import given
from hypothesis import strategies as st
from made_once import made_once
from onnx import TensorProto, helper, numpy_helper

from monai_prox.errors import ProXError
from monai_prox.export.onnx_file import write_onnx
from monai_prox.families.mobilenet import MobileNetChoices, MobileNetFamily
from monai_prox.families.unet import UNetFamily
from monai_prox.runtime.description import Description, Normalisation, Resampling, ScanDescription
from monai_prox.runtime.model import Model
from monai_prox.runtime.onnx_check import check_graph, read_model

DESCRIBED = Description(
    member="largest",
    subnet={},
    task="Task",
    source="a test",
    channels=("MRI",),
    labels={"background": 0, "organ": 1},
    regions=None,
    outputs=2,
    patch=(16, 16, 16),
    spacing=(1.0, 1.0, 1.0),
    transpose=(0, 1, 2),
    normalisation=(Normalisation(scheme="ZScoreNormalization"),),
    images=Resampling(order=3),
    logits=Resampling(order=1),
    reader="SimpleITKIO",
    file_ending=".nii.gz",
)
SCANS = ScanDescription(
    member="largest", subnet={}, task="OCT", source="a test", classes=("A", "B"), image_size=(64, 64), working_size=(64, 64)
)


def fill(folder: Path) -> None:
    for kind in KINDS:
        family = UNetFamily(
            unet_architecture(kind, axes=3, features=(4, 8)), input_channels=1, num_classes=2, patch_size=(16, 16, 16)
        )
        network = family.build(family.space.largest()).eval()
        write_onnx(network, DESCRIBED, folder / f"{kind}.onnx")
        write_onnx(network, DESCRIBED, folder / f"{kind}_any.onnx", divisors=(2, 2, 2))
    classifier = MobileNetFamily(input_channels=1, num_classes=2, choices=MobileNetChoices(depth=(1, 2), resolution=(64,)))
    write_onnx(classifier.build(classifier.space.largest()).eval(), SCANS, folder / "MobileNet.onnx")


@pytest.fixture(scope="module")
def files() -> Path:
    return made_once("onnx_check", fill)


@pytest.mark.parametrize("name", [*KINDS, *(f"{kind}_any" for kind in KINDS), "MobileNet"])
def test_what_export_writes_is_read(name: str, files: Path) -> None:
    model = Model(files / f"{name}.onnx")
    x = np.zeros((1, *model.description.input_shape), np.float32)
    assert np.isfinite(model(x)).all()


def changed(files: Path, path: Path, change: Callable[[onnx.ModelProto], object], name: str = "PlainConvUNet") -> Path:
    model = onnx.load(files / f"{name}.onnx")
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ProXError, match=f"cannot be read as a model: .*{reason}"):
        Model(path)


def test_weights_in_other_files_are_not_read(files: Path, tmp_path: Path) -> None:
    """ONNX Runtime of some versions reads any file of the machine for a weight."""
    (tmp_path / "secret").write_bytes(bytes(10_000))

    def elsewhere(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret")
        tensor.ClearField("raw_data")

    (tmp_path / "model").mkdir()
    refused(
        changed(files, tmp_path / "model" / "a.onnx", elsewhere), "it keeps weights in another file; export writes one file"
    )

    def by_a_constant(model: onnx.ModelProto) -> None:
        tensor = TensorProto(dims=[8], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["more"], value=tensor))

    refused(changed(files, tmp_path / "b.onnx", by_a_constant), "it keeps weights in another file")


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
    (node,) = (node for node in model.graph.node if node.op_type == "ConvTranspose")
    (steps,) = (attribute for attribute in node.attribute if attribute.name == "strides")
    steps.ints[:] = [200] * 3


def without_end(model: onnx.ModelProto) -> None:
    (node,) = (node for node in model.graph.node if node.op_type == "ConvTranspose")
    node.attribute.append(helper.make_attribute("output_shape", [4000, 4000, 4000]))


def crossed(model: onnx.ModelProto) -> None:
    """A column and a row of weights, which become a matrix."""
    for name, shape in (("column", (100_000, 1)), ("row", (1, 100_000))):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    model.graph.node.insert(0, helper.make_node("Add", ["column", "row"], ["matrix"]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (bomb(2**40), "it has the operator 'ConstantOfShape', which no network of this package has"),
        (loop, "it has the operator 'Loop'"),
        (hidden, "has a graph or tensors in 'extra'"),
        (function, "it brings functions of its own"),
        (foreign, "it has the operator 'Conv', which no network"),
        (claimed, r"a tensor of the shape \(65536, 65536\) is not in the file"),
        (padded, "a result of Conv has the shape .*; at most 1,073,741,824 elements are allowed"),
        (enlarged, "a result of ConvTranspose has the shape"),
        (without_end, "ConvTranspose has output_shape, which no network of this package has"),
        (crossed, r"a result of Add has the shape \(100000, 100000\)"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_hangs_or_fills_the_memory_is_refused(
    change: Callable[[onnx.ModelProto], object], reason: str, files: Path, tmp_path: Path
) -> None:
    refused(changed(files, tmp_path / "model.onnx", change), reason)


@pytest.mark.parametrize("data", [b"", b"\x00", b"nothing at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x0b\x0c"])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    refused(tmp_path / "model.onnx", "")


@given(st.data())
@cases(1_500)
def test_changed_bytes_are_checked_or_refused(files: Path, data: st.DataObject) -> None:
    whole = (files / "PlainConvUNet.onnx").read_bytes()
    at, new = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(min_size=1, max_size=6))
    after = at + data.draw(st.sampled_from([0, len(new), len(whole)]))
    try:
        model, _ = read_model(whole[:at] + new + whole[after:])
        check_graph(model, (1, 1, 16, 16, 16))
    except ProXError as error:
        assert "\n" not in str(error)


def test_the_shapes_are_those_of_onnx_runtime(files: Path) -> None:
    """For the largest result that a network has, which bounds what it takes."""
    for patch in ((16, 16, 16), (64, 32, 16)):
        model, _ = read_model((files / "PlainConvUNet_any.onnx").read_bytes())
        check_graph(model, (1, 1, *patch))
    with pytest.raises(ProXError, match=r"a result of Conv has the shape \(1, 4, 1024, 1024, 1024\)"):
        check_graph(model, (1, 1, 1024, 1024, 1024))
