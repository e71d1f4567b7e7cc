"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that takes its place when the block ends without an error."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(data: Any, path: Path | str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n")


def read_json(path: Path | str) -> Any:
    """Raises ProXError where the file is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ProXError(f"there is no file {path}") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ProXError(f"{path} is not valid JSON: {error}") from None
