"""A member that segments as one HTML file: a page that runs it in a browser, with everything inside.

The page's programs are in the folder ``browser``. They repeat ``monai_prox.runtime``, and have their names after it.
"""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64encode
from dataclasses import asdict
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError
from monai_prox.export.onnxruntime_web import VERSION, Runtime
from monai_prox.runtime.description import Description, ScanDescription

READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")
FILE_ENDINGS = (".nii.gz", ".nii")
ORDERS = (0, 1, 3)  # of splines
SHARED = ("nifti", "axes", "resampling", "preprocessing", "sliding_window", "labels")
WORKER, PAGE = (*SHARED, "worker"), ("resampling", "viewer", "page")  # their scripts, in order
PART = re.compile(r"/\* (\w+) \*/")  # of page.html, replaced
MOST_BYTES = 2**28  # of the model: browsers have no longer texts than 2^29 letters
BACKGROUND, IGNORED = 0, "ignore"


def check_page(description: Description | ScanDescription) -> None:
    """Raises ProXError for what the page cannot repeat."""
    if isinstance(description, ScanDescription):
        raise ProXError("--format html is for members that segment; take --format onnx")
    orders = {rule.order for rule in (description.images, description.logits)}
    orders |= {rule.order_z for rule in (description.images, description.logits)}
    for what, found, allowed in (
        ("images are read by", {description.reader}, READERS),
        ("images end in", {description.file_ending}, FILE_ENDINGS),
        ("splines are of the order", orders, ORDERS),
    ):
        if wrong := [value for value in found if value not in allowed]:
            raise ProXError(f"{what} {wrong[0]}; --format html allows {', '.join(map(str, allowed))}: take --format onnx")


def write_html(model: Path, description: Description, runtime: Runtime, output: Path) -> None:
    """Writes the page.

    What comes from the family is text in it, never markup. The page names the digest of its own script, so that browsers run
    no other, and forbids them any connection.

    Args:
        model: the ONNX file.
        description: what is around the network, as ``check_page`` allows it.
        runtime: ONNX Runtime's files.
        output: path of the HTML file.

    Raises:
        ProXError: the model is too large for a page.
    """
    size = model.stat().st_size
    if size > MOST_BYTES:
        raise ProXError(f"the model has {size:,} bytes, a page holds {MOST_BYTES:,}; take a smaller member, or --format onnx")
    style, script = _text("page.css"), _scripts(PAGE)
    licence = f" Said of the weights: {description.license}." if description.license else ""
    allowed = {
        "default-src": "'none'",
        "style-src": _digest(style),
        "script-src": f"{_digest(script)} blob: 'wasm-unsafe-eval'",
        "worker-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    parts = {
        "style": style,
        "script": script,
        "policy": "; ".join(f"{what} {sources}" for what, sources in allowed.items()),
        "title": escape(f"{description.task}: segmentation"),
        "about": escape(f"The network {description.member}, {description.source}.{licence}"),
        "files": escape(
            f"{len(description.channels)} file{'s' * (len(description.channels) > 1)}: {', '.join(description.channels)}"
        ),
        "footer": f"Runs on ONNX Runtime Web {VERSION}, copyright (c) Microsoft Corporation, MIT License.",
        "description": json.dumps(asdict(description) | {"legend": legend(description)}).replace("<", "\\u003c"),
        "model": _packed(model.read_bytes()),
        "wasm": _packed(runtime.wasm),
        "runtime": _packed(runtime.script),
        "worker": _packed(_scripts(WORKER).encode()),
    }
    output.write_text(PART.sub(lambda found: parts[found[1]], _text("page.html")), encoding="utf-8")


def legend(description: Description) -> list[dict[str, Any]]:
    """Names and values of what the page shows, in the order of the outputs."""
    named = {name: value for name, value in description.labels.items() if name != IGNORED and value != BACKGROUND}
    if description.regions is None:
        return [{"value": value, "name": name} for name, value in named.items()]
    names = [*named, *(f"output {number}" for number in range(len(named), description.outputs))]
    return [{"value": value, "name": name} for value, name in zip(description.regions, names, strict=False)]


def _text(name: str) -> str:
    return (files("monai_prox.export") / "browser" / name).read_text(encoding="utf-8")


def _scripts(names: tuple[str, ...]) -> str:
    return '"use strict";\n' + "\n".join(_text(f"{name}.js") for name in names)


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _packed(data: bytes) -> str:
    return b64encode(gzip.compress(data, mtime=0)).decode()
