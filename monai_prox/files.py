"""Files that are whole or not there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that takes its place when the block ends without an error."""
    path = Path(path)
    # Not mkstemp, whose files only their owner may read: what is written here has the permissions of any other file.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)


def make_folder(path: Path) -> None:
    """With those above it. Raises ProXError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProXError(f"cannot write to {path}: {error.strerror or error}") from error


def write_json(data: Any, path: Path | str) -> None:
    """Numbers that are not finite become null, for JSON has none."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(data), indent=2, allow_nan=False) + "\n")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not isfinite(data) else data


def read_json(path: Path | str) -> Any:
    """Raises ProXError where the file is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ProXError(f"there is no file {path}") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ProXError(f"{path} is not valid JSON: {error}") from None
