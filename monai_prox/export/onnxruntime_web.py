"""ONNX Runtime for browsers: two files of the npm package onnxruntime-web, of one version, which is known byte by byte."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from hashlib import sha256, sha512
from io import BytesIO
from pathlib import Path
from urllib.request import urlopen

from monai_prox.errors import ProXError
from monai_prox.files import make_folder, replacing

VERSION = "1.30.0"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
PACKAGE = (  # SHA-512 of what is downloaded
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
DIGESTS = {  # SHA-256, by the names of files in the package's folder dist
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
MOST_BYTES = 2**26  # of the package
SECONDS = 60  # without an answer


@dataclass(frozen=True)
class Runtime:
    """script: an ECMAScript module; wasm: what it runs."""

    script: bytes
    wasm: bytes


def find_runtime(folder: Path | None = None) -> Runtime:
    """The files in ``folder``, the package's dist; None: in this user's cache, into which they are downloaded once.

    Raises ProXError where they cannot be had, or are others than those of VERSION.
    """
    if folder is not None:
        return _read(folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "monai-prox", f"onnxruntime-web-{VERSION}")
    try:
        return _read(cache)
    except ProXError:  # not yet, or spoilt
        _download(cache)
    return _read(cache)


def _read(folder: Path) -> Runtime:
    contents = {}
    for name, digest in DIGESTS.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise ProXError(f"cannot read {folder / name} of onnxruntime-web {VERSION}: {error.strerror or error}") from None
        if sha256(contents[name]).hexdigest() != digest:
            raise ProXError(f"{folder / name} is not that of onnxruntime-web {VERSION}; take the folder dist of that package")
    return Runtime(contents[SCRIPT], contents[WASM])


def _download(folder: Path) -> None:
    try:
        with urlopen(ADDRESS, timeout=SECONDS) as answer:
            package = answer.read(MOST_BYTES)
    except OSError as error:
        raise ProXError(
            f"cannot download {ADDRESS}: {error}; give --onnxruntime-web, the folder dist of the npm package "
            f"onnxruntime-web {VERSION}"
        ) from None
    if sha512(package).hexdigest() != PACKAGE:
        raise ProXError(f"what was downloaded from {ADDRESS} is not onnxruntime-web {VERSION}: its SHA-512 differs")
    make_folder(folder)
    try:
        with tarfile.open(fileobj=BytesIO(package)) as archive:
            for name in DIGESTS:
                file = archive.extractfile(f"package/dist/{name}")
                assert file is not None
                with replacing(folder / name) as temporary:
                    temporary.write_bytes(file.read())
    except OSError as error:
        raise ProXError(f"cannot write {folder}: {error.strerror or error}") from error
