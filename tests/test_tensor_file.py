"""Files of tensors from outside: nothing is executed, inflated or believed."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch
from helpers.architectures import unet_architecture
from helpers.equality import assert_equal
from helpers.fuzzing import cases
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core.supernet import without_weights
from monai_prox.errors import ProXError
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.tensor_file import check_weights, read_tensors, write_tensors

PLAIN = {
    "weights": OrderedDict(weight=torch.arange(6.0).view(2, 3), half=torch.ones(3, dtype=torch.float16)),
    "view": torch.arange(10)[2:4],
    "text": "x",
    "number": 3,
    "more": [1.5, None, True, (1, 2)],
    "device": torch.device("cpu"),
    "parameter": nn.Parameter(torch.ones(2)),
    "size": torch.Size([1, 2]),
}


def packed(data: bytes, path: Path, *, method: int = ZIP_STORED, **entries: bytes) -> Path:
    """An archive as torch.save writes it, with ``data`` as its pickle."""
    with ZipFile(path, "w", method) as archive:
        for name, content in {"data.pkl": data, "version": b"3\n", "byteorder": b"little", **entries}.items():
            archive.writestr(f"archive/{name}", content)
    return path


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ProXError, match=reason) as error:
        read_tensors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    write_tensors(PLAIN, path)
    assert_equal(read_tensors(path), PLAIN)


def test_what_is_compressed_is_not_inflated(tmp_path: Path) -> None:
    write_tensors({"weight": torch.zeros(2**20)}, tmp_path / "file.pt")
    path = tmp_path / "small.pt"
    with ZipFile(tmp_path / "file.pt") as archive, ZipFile(path, "w", ZIP_DEFLATED) as smaller:
        for name in archive.namelist():
            smaller.writestr(name, archive.read(name))
    assert torch.load(path, weights_only=True)["weight"].numel() == 2**20  # torch inflates it
    refused(path, r"it is compressed, [\d,]{5,7} bytes hold 4,19[\d,]+; save it again by torch.save")


def bytearray_of(length: int) -> bytes:
    return b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + struct.pack("<Q", length)[:5] + b"\x85R."


def test_no_memory_is_taken_that_a_pickle_asks_for(tmp_path: Path) -> None:
    assert len(torch.load(packed(bytearray_of(10), tmp_path / "few.pt"), weights_only=True)) == 10
    refused(packed(bytearray_of(2**36), tmp_path / "many.pt"), "it holds more than tensors and plain data: builtins.bytearray")


@pytest.mark.parametrize("name", ["os system", "torch._utils _rebuild_sparse_tensor", "torch._tensor _rebuild_from_type_v2"])
def test_nothing_else_is_named(name: str, tmp_path: Path) -> None:
    module, attribute = name.split()
    data = f"\x80\x02c{module}\n{attribute}\n.".encode("latin1")
    refused(packed(data, tmp_path / "file.pt"), f"it holds more than tensors and plain data: {module}.{attribute}")


def test_lists_that_hold_each_other_are_not_gone_through(tmp_path: Path) -> None:
    data: Any = []
    for _ in range(30):
        data = [data] * 10
    refused(packed(pickle.dumps(data, 2), tmp_path / "many.pt"), "it holds more than 1,048,576 values")
    data = []
    data.append(data)
    refused(packed(pickle.dumps(data, 2), tmp_path / "itself.pt"), "it holds more than 1,048,576 values|nested")
    data = {}
    for _ in range(200):
        data = {"deeper": data}
    refused(packed(pickle.dumps(data, 2), tmp_path / "deep.pt"), "it is nested more than 32 deep")


def test_a_tensor_is_as_large_as_it_says(tmp_path: Path) -> None:
    """Of one number a view of any shape can be made."""
    torch.save({"weight": torch.zeros(1).expand(4096, 4096, 27)}, tmp_path / "file.pt")
    refused(tmp_path / "file.pt", r"a tensor of the shape \(4096, 4096, 27\) is not stored whole")


def test_an_archive_has_one_directory(tmp_path: Path) -> None:
    """Python reads the last one, torch the one that the archive's end names, which may be of another archive."""
    write_tensors({"weight": torch.ones(2)}, tmp_path / "tidy.pt")
    tidy = (tmp_path / "tidy.pt").read_bytes()
    (tmp_path / "two.pt").write_bytes(tidy + tidy)
    refused(tmp_path / "two.pt", "its directory is not where it says")
    (tmp_path / "more.pt").write_bytes(tidy + b"more")
    refused(tmp_path / "more.pt", "is not a whole file of tensors")


def test_names_are_told_apart_as_torch_does(tmp_path: Path) -> None:
    """torch takes capitals for small letters, and the first of two names."""
    harmless = pickle.dumps({"a": 1}, 2)
    with ZipFile(tmp_path / "file.pt", "w") as archive:
        archive.writestr("archive/DATA.PKL", bytearray_of(2**31 - 1))
        archive.writestr("archive/x/data.pkl", harmless)
        archive.writestr("archive/version", b"3\n")
    refused(tmp_path / "file.pt", "it has no data.pkl of at most 33,554,432 bytes, or several")
    with ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("archive/data.pkl", harmless)
        archive.writestr("archive/DATA.pkl", bytearray_of(2**31 - 1))
    refused(tmp_path / "other.pt", "with names of their own")


def test_a_tensor_is_as_long_as_its_record(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "file.pt")
    with ZipFile(tmp_path / "file.pt") as archive, ZipFile(tmp_path / "short.pt", "w") as short:
        for name in archive.namelist():
            short.writestr(name, archive.read(name)[: 8 if name.endswith("data/0") else None])
    refused(tmp_path / "short.pt", "is not a whole file of tensors")


# ---------------------------------------------------------------------- numbers of NumPy's
NUMBERS = [np.dtype(kind).type(value) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u8") for value in (0, 1, 3)]
NUMBERS += [np.float64(0.1), np.float32("nan"), np.int64(-(2**63)), np.bool_(True), np.dtype(">f8").type(2.5)]


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numbers_of_numpy_are_pythons(module: str, tmp_path: Path) -> None:
    """Its module has another name in NumPy 1 than in NumPy 2."""
    data = pickle.dumps({"numbers": NUMBERS, "again": NUMBERS[:3]}, 2).replace(b"numpy._core.multiarray", module.encode())
    path = packed(data, tmp_path / "file.pt")
    read = read_tensors(path, numpy=True)
    assert [type(value) for value in read["numbers"]] == [type(value.item()) for value in NUMBERS]
    np.testing.assert_equal(read, {"numbers": [value.item() for value in NUMBERS], "again": [0.0, 1.0, 3.0]})
    refused(path, f"it holds more than tensors and plain data: {module}.scalar")
    assert not any("numpy" in str(made) for made in torch.serialization.get_safe_globals())


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


ENCODER = b"c_codecs\nencode\n"
DTYPE = b"cnumpy\ndtype\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
BYTES = ENCODER + text("12345678") + text("latin1") + b"\x86R"
DOUBLE = DTYPE + text("f8") + b"\x89\x88\x87R(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
SPOILT = {
    "another encoding": (ENCODER + text("12345678") + text("hex") + b"\x86R", "bytes that are no number"),
    "a call in a call": (ENCODER + BYTES + text("hex") + b"\x86R", "bytes that are no number"),
    "a long text": (ENCODER + text("123456789") + text("latin1") + b"\x86R", "bytes that are no number"),
    "a name in a list": (b"]" + ENCODER + b"a", "bytes that are no number"),
    "by the memo": (BYTES.replace(b"encode\n", b"encode\nq\x00") + b"h\x00" + text("1") + text("hex") + b"\x86R", "no number"),
    "a tuple of the memo": (
        text("1") + text("hex") + b"\x86q\x00" + ENCODER + text("1") + text("latin1") + b"h\x00R",
        "no number",
    ),
    "objects": (DTYPE + text("O8") + b"\x89\x88\x87R", "it holds a NumPy type 'O8'"),
    "texts": (DTYPE + text("U999999999") + b"\x89\x88\x87R", "it holds a NumPy type 'U999999999'"),
    "several fields": (DTYPE + b"]" + b"\x89\x88\x87R", r"it holds a NumPy type \[\]"),
    "no order": (
        SCALAR + DTYPE + text("f8") + b"\x89\x88\x87R" + BYTES + b"\x86R",
        "a number of NumPy's is stored as b'12345678'",
    ),
    "a wrong order": (DOUBLE.replace(b"<", b"?"), r"has the byte order '\?'"),
    "no state": (DTYPE + text("f8") + b"\x89\x88\x87RNb", "has the byte order None"),
    "too few bytes": (SCALAR + DOUBLE + BYTES.replace(text("12345678"), text("1")) + b"\x86R", "is stored as b'1'"),
    "a text": (SCALAR + DOUBLE + text("12345678") + b"\x86R", "is stored as '12345678'"),
    "no type": (SCALAR + b"K\x01" + BYTES + b"\x86R", "is stored as"),
    "a type alone": (DOUBLE, "it holds a NumberType"),
    "bytes alone": (BYTES, "it holds a bytes"),
    "another function": (b"cnumpy.core.multiarray\n_reconstruct\n", "numpy.core.multiarray._reconstruct"),
    "made without a call": (DTYPE + b")\x81", "NEWOBJ"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_nothing_but_numbers_is_made_of_numpys_names(kind: str, tmp_path: Path) -> None:
    data, reason = SPOILT[kind]
    with pytest.raises(ProXError, match=reason) as error:
        read_tensors(packed(b"\x80\x02" + data + b".", tmp_path / "file.pt"), numpy=True)
    assert "\n" not in str(error.value)
    whole = packed(b"\x80\x02" + SCALAR + DOUBLE + BYTES + b"\x86R.", tmp_path / "whole.pt")
    assert read_tensors(whole, numpy=True) == struct.unpack("<d", b"12345678")[0]


def test_a_pickle_of_many_steps_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_prox.tensor_file.MOST_STEPS", 1_000)
    refused(packed(b"\x80\x02" + b"N" * 1_000 + b".", tmp_path / "many.pt"), "has more than 1,000 steps")


@pytest.mark.parametrize("data", [b"", b"PK", b"nothing", pickle.dumps({"weight": 1}), b"PK\x05\x06" + bytes(18)])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    refused(path, "is not a whole file of tensors: ")
    refused(tmp_path / "missing.pt", "there is no file of tensors")


def test_the_format_before_archives_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"weight": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    refused(path, "it is no archive of torch.save")


def whole() -> bytes:
    buffer = BytesIO()
    torch.save(PLAIN, buffer)
    return buffer.getvalue()


WHOLE = whole()


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8), st.sampled_from(["replace", "insert", "cut"]))
@cases(1_500)
def test_changed_bytes_are_read_or_refused(tmp_path: Path, at: int, new: bytes, how: str) -> None:
    after = {"replace": at + len(new), "insert": at, "cut": len(WHOLE)}[how]
    path = tmp_path / "file.pt"
    path.write_bytes(WHOLE[:at] + new + WHOLE[after:])
    try:
        read_tensors(path)
    except ProXError as error:
        assert "\n" not in str(error)


# ---------------------------------------------------------------------- weights and networks
def shapes(**architecture: Any) -> nn.Module:
    entry = unet_architecture(axes=3, **architecture)
    return without_weights(UNetFamily(entry, input_channels=1, num_classes=2, patch_size=(16, 16, 16))).network


def test_weights_of_another_network_are_refused_before_it_is_made() -> None:
    small, large = shapes(features=(4, 8)), shapes(features=(4096, 4096))
    assert all(parameter.is_meta for parameter in large.parameters())
    state = {name: torch.zeros(tensor.shape) for name, tensor in small.state_dict().items()}
    check_weights(state, small, "file.pt")
    first = next(iter(state))
    for wrong, message in (
        (state, r"is \(4, 1, 3, 3, 3\), the network's is \(4096, 1, 3, 3, 3\)"),
        ([], "it holds a list"),
        (dict(list(state.items())[:-1]), "is missing"),
        (state | {"more": torch.zeros(1)}, r"more is \(1,\), the network's is missing"),
        (state | {first: "text"}, "is a str"),
    ):
        with pytest.raises(ProXError, match=f"file.pt does not hold the weights of this network: .*{message}"):
            check_weights(wrong, large if wrong is state else small, "file.pt")


def test_weights_of_a_training_that_diverged_are_refused() -> None:
    network = shapes(features=(4, 8))
    state = {name: torch.full(tensor.shape, float("nan")) for name, tensor in network.state_dict().items()}
    with pytest.raises(ProXError, match="weights that are no finite numbers"):
        check_weights(state, network, "file.pt")


def test_as_many_bytes_are_there_as_weights() -> None:
    """Names that share a tensor would each be copied."""
    network = shapes(features=(64, 64, 64, 64))
    shared: dict[tuple[int, ...], Tensor] = {}
    state = {
        name: shared.setdefault(tuple(tensor.shape), torch.zeros(tensor.shape, dtype=torch.uint8))
        for name, tensor in network.state_dict().items()
    }
    with pytest.raises(ProXError, match=r"it has [\d,]+ bytes for [\d,]+ weights"):
        check_weights(state, network, "file.pt")


def test_transforms_of_kernels_take_no_memory_before_they_are_checked() -> None:
    family = UNetFamily(
        unet_architecture(axes=3, features=(4, 8)),
        input_channels=1,
        num_classes=2,
        patch_size=(32, 32, 32),
        choices=UNetChoices(kernel=(3, 5, 7), levels=0),
    )
    transforms = without_weights(family, kernel_transforms=kernel_transforms_of).kernel_transforms
    assert transforms is not None and all(matrix.is_meta for matrix in transforms.parameters())
