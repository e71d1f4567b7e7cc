"""The page of a search: one HTML file that loads nothing."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from monai_prox.files import replacing

PNG = b"\x89PNG\r\n\x1a\n"  # the beginning of every such file
MOST_BYTES = 2**21  # of the plot of the training
PROGRESS = "Progress of the training: scores of the named members over epochs; the bands are its stages"
PART = re.compile(r"/\* (\w+) \*/")  # of report.html, replaced


def write_page(contents: Mapping[str, Any], path: Path, progress: Path | None) -> None:
    """Writes the page.

    What comes from the search is text in it, never markup. The page names the digest of its own script, so that browsers run no
    other, and lets them load nothing.

    Args:
        contents: the content of front.json, as JSON has it.
        path: path of the HTML file.
        progress: path of the plot of the training, a PNG file. The page is without it if it is None, too large or no PNG file.
    """
    page, style, script = (
        files("monai_prox.search").joinpath(f"report.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js")
    )
    own = {"style": style, "script": script}
    digests = " ".join(f"{name}-src 'sha256-{_digest(text)}';" for name, text in own.items())
    parts = own | {
        "policy": f"default-src 'none'; img-src data:; {digests} base-uri 'none'; form-action 'none'",
        "title": escape(f"{contents['task']} - monai-prox search"),
        "data": json.dumps(contents).replace("<", "\\u003c"),
        "progress": "" if progress is None else _figure(progress),
    }
    with replacing(path) as temporary:
        temporary.write_text(PART.sub(lambda found: parts[found[1]], page), encoding="utf-8")


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def _figure(plot: Path) -> str:
    if not plot.is_file() or plot.stat().st_size > MOST_BYTES:
        return ""
    content = plot.read_bytes()
    if not content.startswith(PNG):
        return ""
    image = f'<img src="data:image/png;base64,{b64encode(content).decode()}" alt="{PROGRESS}">'
    return f'<figure>{image}<figcaption class="soft">{PROGRESS}.</figcaption></figure>'
