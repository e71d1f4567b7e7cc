"""Files that are whole or not there."""

from __future__ import annotations

import json
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
    # Not mkstemp, whose files only their owner may read: what is written here has the permissions of any other file.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)


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
