"""Texts in model files: what is written is read again, and nothing else changes."""

import gzip
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import onnx
import pytest
import torch
from helpers.descriptions import DESCRIBED
from helpers.refusals import refused
from torch import nn

from monai_prox.export.torchscript_file import write_torchscript
from monai_prox.runtime import model_entries
from monai_prox.runtime.description import KEY, write_description
from monai_prox.runtime.model import OPENERS, Model
from monai_prox.runtime.model_digest import model_digest
from monai_prox.runtime.model_entries import FORMATS, read_entry, write_entry

NAME = "monai_prox_certificate"
TEXTS = ['{"a": "<µ>\\n & \'b\'", "肝": 1}', "", "x" * 300_000]


def write_onnx(path: Path) -> None:
    """By hand, for the exporter takes seconds: two outputs of a convolution."""
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(2, 1, 3, 3, 3)).astype(np.float32), "weight")
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, 8, 8, 8])
        for name, channels in (("image", 1), ("logits", 2))
    ]
    node = onnx.helper.make_node("Conv", ["image", "weight"], ["logits"], pads=[1] * 6)
    graph = onnx.helper.make_graph([node], "network", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(model, {KEY: write_description(DESCRIBED), "other": "kept"})
    onnx.save(model, path)


def write_openvino(path: Path) -> None:
    from monai_prox.export.openvino_file import write_openvino

    source = path.with_suffix(".onnx")
    write_onnx(source)
    write_openvino(source, write_description(DESCRIBED), path)
    source.unlink()


WRITERS: dict[str, Callable[[Path], object]] = {
    ".onnx": write_onnx,
    ".xml": write_openvino,
    ".ts": lambda path: write_torchscript(nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU()), DESCRIBED, path),
}
ENDINGS = [".onnx", ".ts", pytest.param(".xml", marks=pytest.mark.alone)]


def rest(path: Path) -> object:
    """All of a file but the entry, as the format's own library has it."""
    if path.suffix == ".onnx":
        model = onnx.load(path)
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != NAME}
        onnx.helper.set_model_props(model, kept)
        return model.SerializeToString(deterministic=True)
    if path.suffix == ".ts":
        with ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith(NAME)}
    tree = ElementTree.parse(path).getroot()
    for info in tree.findall("rt_info"):
        for entry in info.findall(NAME):
            info.remove(entry)
    return path.with_suffix(".bin").read_bytes(), ElementTree.canonicalize(ElementTree.tostring(tree), strip_text=True)


def test_every_format_has_entries() -> None:
    assert set(FORMATS) == set(OPENERS) == set(WRITERS)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_and_nothing_else_changes(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    WRITERS[ending](path)
    before, model, digest = rest(path), Model(path, threads=1), model_digest(path)
    x = np.random.default_rng(0).normal(size=(1, 1, 8, 8, 8)).astype(np.float32)
    logits = model(x)
    assert read_entry(path, NAME) is None and read_entry(path, KEY) == model.described
    for text in TEXTS:
        write_entry(path, NAME, text)
        assert read_entry(path, NAME) == text and rest(path) == before and model_digest(path) == digest
        again = Model(path, threads=1)
        assert again.described == model.described and np.array_equal(again(x), logits)
    size = path.stat().st_size
    write_entry(path, NAME, TEXTS[-1])
    assert path.stat().st_size == size, "the one before is gone"
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "model.bin"}
    write_entry(path, KEY, write_description(replace(DESCRIBED, member="another")))
    assert model_digest(path) != digest, "another description is another model"


@pytest.mark.parametrize("ending", [".onnx", ".ts"])
def test_digests_tell_other_weights(ending: str, tmp_path: Path) -> None:
    digests = []
    for weights in (1, 2):
        torch.manual_seed(weights)
        path = tmp_path / f"{weights}{ending}"
        WRITERS[ending](path)
        if ending == ".onnx":
            model = onnx.load(path)
            model.graph.initializer[0].raw_data = np.full(54, weights, np.float32).tobytes()
            onnx.save(model, path)
        digests.append(model_digest(path))
    assert digests[0] != digests[1]


def test_the_bytes_of_an_onnx_file_are_followed_by_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(path)
    before = path.read_bytes()
    write_entry(path, NAME, "x")
    entry = b"\n\x16" + NAME.encode() + b"\x12\x01x"
    assert path.read_bytes() == before + b"r" + bytes([len(entry)]) + entry
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert {one.key: one.value for one in onnx.load(path).metadata_props}["other"] == "kept"


@pytest.mark.skipif(os.name != "posix", reason="permissions and links are posix")
def test_permissions_and_links_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "model.onnx", tmp_path / "link.onnx"
    write_onnx(path)
    path.chmod(0o640)
    link.symlink_to(path)
    write_entry(link, NAME, "x")
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640 and read_entry(path, NAME) == "x"


@pytest.mark.parametrize("ending", [".onnx", ".ts"])
def test_a_file_is_whole_or_as_before(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"model{ending}"
    WRITERS[ending](path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_entry(path, NAME, "x")
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == [path.name]


BROKEN = [b"", b"no model", b"\x00" * 100, b"PK\x03\x04" + b"\0" * 40, b"<net>", b"<a>" * 100_000, gzip.compress(b"x")]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_other_files_are_refused_and_stay(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    path.write_bytes(content)
    refused(f"{path} cannot be read as a model", read_entry, path, NAME)
    refused(f"{path} cannot be read as a model", write_entry, path, NAME, "x")
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", [".onnx", ".ts"])
def test_texts_that_are_too_long_are_neither_written_nor_read(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"model{ending}"
    WRITERS[ending](path)
    monkeypatch.setattr(model_entries, "MOST_BYTES", 100)
    write_entry(path, NAME, "x" * 100)
    refused("has 101 characters; at most 100 are written", write_entry, path, NAME, "x" * 101)
    assert read_entry(path, NAME) == "x" * 100
    monkeypatch.setattr(model_entries, "MOST_BYTES", 99)
    refused(f"under {NAME}; at most 99 are read", read_entry, path, NAME)


def test_torch_reads_the_entry_as_an_extra_file(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    WRITERS[".ts"](path)
    write_entry(path, NAME, "µ")
    extra = {NAME: ""}
    torch.jit.load(path, _extra_files=extra)
    found = extra[NAME]
    assert (found.decode() if isinstance(found, bytes) else found) == "µ"


@pytest.mark.parametrize("damage", ["flipped", "encrypted"])
def test_a_damaged_text_of_an_archive_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr("model/extra/key", "text" * 100)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        begin = 30 + len("model/extra/key")  # of what is compressed
        data[begin : begin + 8] = b"\xff" * 8
    else:
        data[6] |= 1
        data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(f"{path} cannot be read as a model: ", read_entry, path, "key")
