"""A digest of a model file, by which another file says that it is about this one.

It is of the network and of its description. What else is written into the file later, such as a certificate, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

from monai_prox.runtime.description import KEY
from monai_prox.runtime.model_entries import METADATA, read_entry
from monai_prox.runtime.onnx_check import fields


def model_digest(path: Path) -> str:
    """SHA-256, in hexadecimal digits.

    Args:
        path: a model file that can be opened.
    """
    digest = sha256((read_entry(path, KEY) or "").encode())
    for part in PARTS[path.suffix](path):
        digest.update(sha256(part).digest())
    return digest.hexdigest()


def _onnx(path: Path) -> Iterator[bytes]:
    data, begin = memoryview(path.read_bytes()), 0
    for number, _, end in fields(data):
        if number != METADATA:
            yield bytes(data[begin:end])
        begin = end


def _openvino(path: Path) -> Iterator[bytes]:
    net = ElementTree.parse(path).getroot()
    for info in net.findall("rt_info"):
        net.remove(info)
    yield ElementTree.canonicalize(ElementTree.tostring(net)).encode()
    yield path.with_suffix(".bin").read_bytes()


def _torchscript(path: Path) -> Iterator[bytes]:
    with ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            within = name.partition("/")[2]  # the folder around everything is called as torch likes
            if not within.startswith("extra/"):
                yield within.encode()
                yield archive.read(name)


PARTS: dict[str, Callable[[Path], Iterator[bytes]]] = {".onnx": _onnx, ".xml": _openvino, ".ts": _torchscript}
