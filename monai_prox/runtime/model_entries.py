"""A text beside the network in a model file, read and written without a runtime. All else in the file stays as it is.

It lies where the description does, see ``monai_prox.runtime.description``: in the metadata of an ONNX file, in the rt_info of
OpenVINO's .xml, and as an extra file in a TorchScript archive.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile, ZipInfo

from monai_prox.errors import ProXError
from monai_prox.files import replacing
from monai_prox.runtime.onnx_check import ENTRY, Message, fields, read_model

METADATA = 14  # the number of the field, in onnx.proto
MOST_BYTES = 2**22  # of a text
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the date of a part of an archive; torch writes none


def read_entry(path: Path, key: str) -> str | None:
    """The text that a model file has under ``key``, or None.

    Raises ProXError for a text that is too long, and for a file that is not of its format.
    """
    with _reading(path):
        text = FORMATS[path.suffix][0](path, key)
    if text is not None and len(text) > MOST_BYTES:
        raise ProXError(f"{path} has a text of {len(text):,} characters under {key}; at most {MOST_BYTES:,} are read")
    return text


def write_entry(path: Path, key: str, text: str) -> None:
    """Puts a text under ``key`` into a model file, in the place of the one that is there.

    Raises ProXError for a text that is too long to be read again, and for a file that is not of its format, and OSError if it
    cannot be written. Then it is as before.
    """
    if len(text) > MOST_BYTES:
        raise ProXError(f"the text {key} for {path} has {len(text):,} characters; at most {MOST_BYTES:,} are written")
    path = path.resolve()  # a link stays one
    with replacing(path) as temporary, _reading(path):
        FORMATS[path.suffix][1](path, temporary, key, text)
        shutil.copymode(path, temporary)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (BadZipFile, ElementTree.ParseError, EOFError, LookupError, RuntimeError, ValueError, zlib.error) as error:
        if isinstance(error, ProXError) and str(path) in str(error):
            raise
        raise ProXError(f"{path} cannot be read as a model: {' '.join(str(error).split()):.160}") from None


# ---------------------------------------------------------------------- ONNX
def _read_onnx(path: Path, key: str) -> str | None:
    return read_model(path.read_bytes())[1].get(key)


def _write_onnx(path: Path, output: Path, key: str, text: str) -> None:
    data = path.read_bytes()
    read_model(data)  # refuses what is no model
    view, begin = memoryview(data), 0
    with output.open("wb") as file:
        for number, value, end in fields(view):
            if number != METADATA or Message(ENTRY, value).text(1) != key:
                file.write(view[begin:end])
            begin = end
        file.write(_field(METADATA, _field(1, key.encode()) + _field(2, text.encode())))


def _field(number: int, data: bytes) -> bytes:
    """Of Protocol Buffers, with a length before it."""
    return bytes([number << 3 | 2]) + _number(len(data)) + data


def _number(value: int) -> bytes:
    digits = [value & 127]
    while value := value >> 7:
        digits[-1] |= 128
        digits.append(value & 127)
    return bytes(digits)


# ---------------------------------------------------------------------- OpenVINO
def _read_openvino(path: Path, key: str) -> str | None:
    entry = ElementTree.parse(path).getroot().find(f"rt_info/{key}")
    return None if entry is None else entry.get("value")


def _write_openvino(path: Path, output: Path, key: str, text: str) -> None:
    tree = ElementTree.parse(path)
    net = tree.getroot()
    info = net.find("rt_info")
    if info is None:
        info = ElementTree.SubElement(net, "rt_info")
    for entry in info.findall(key):
        info.remove(entry)
    ElementTree.SubElement(info, key, value=text)
    tree.write(output, encoding="utf-8", xml_declaration=True)


# ---------------------------------------------------------------------- TorchScript
def _read_torchscript(path: Path, key: str) -> str | None:
    with ZipFile(path) as archive:
        name = _extra(archive, key)
        if name not in archive.namelist():
            return None
        info = archive.getinfo(name)
        if info.file_size > MOST_BYTES:  # before anything is inflated
            raise ProXError(f"{path} has a text of {info.file_size:,} bytes under {key}; at most {MOST_BYTES:,} are read")
        return archive.read(info).decode()


def _write_torchscript(path: Path, output: Path, key: str, text: str) -> None:
    with ZipFile(path) as archive, ZipFile(output, "w") as new:
        name = _extra(archive, key)
        for info in archive.infolist():
            if info.filename != name:
                part = ZipInfo(info.filename, EARLIEST)
                part.compress_type = info.compress_type  # torch compresses the code, and no weights
                with archive.open(info) as source, new.open(part, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
        new.writestr(ZipInfo(name, EARLIEST), text)


def _extra(archive: ZipFile, key: str) -> str:
    """The name of an extra file: in the one folder that everything of an archive is in."""
    return f"{archive.namelist()[0].partition('/')[0]}/extra/{key}"


Read = Callable[[Path, str], "str | None"]
Write = Callable[[Path, Path, str, str], None]
FORMATS: dict[str, tuple[Read, Write]] = {
    ".onnx": (_read_onnx, _write_onnx),
    ".xml": (_read_openvino, _write_openvino),
    ".ts": (_read_torchscript, _write_torchscript),
}
