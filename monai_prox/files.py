"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from glob import escape
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError

SHORT = 40  # characters of a name that a temporary one repeats: most systems allow 255 bytes
UNFINISHED = ".unfinished"  # ends the names of temporary folders, which only a killed process leaves
REPLACED = ".replaced"  # in such a folder: what is there until then
OWNER = re.compile(rf"\.(?P<host>[A-Za-z0-9-]+)\.(?P<process>\d{{1,9}})\.[^.]+{re.escape(UNFINISHED)}$")
MOST_BYTES = 2**26  # of a JSON file
MOST_VALUES = 3_000_000  # in it, each of which takes up to 200 bytes once it is read
MOST_DIGITS = 18  # of a whole number: 64 bits hold it
DEEPEST = 32  # objects and lists in each other


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yields a folder beside ``path``, on the same disk. Its name says whose it is."""
    owner = f"{_host()}.{os.getpid()}."
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:SHORT]}.{owner}", suffix=UNFINISHED) as folder:
        yield Path(folder)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Removes what killed processes of this machine have left in ``folder`` of the file or folder ``name``, or of any."""
    for leftover in folder.glob(f".{name if name == '*' else escape(name[:SHORT])}.*{UNFINISHED}"):
        owner = OWNER.search(leftover.name)
        if owner is not None and owner["host"] == _host() and not _runs(int(owner["process"])):
            _put_back(leftover)
            shutil.rmtree(leftover, ignore_errors=True)


def _put_back(leftover: Path) -> None:
    """What was to be replaced by a folder in ``left``, if its process ended after it had taken it away."""
    if (leftover / REPLACED).is_dir():
        for unfinished in leftover.iterdir():
            if unfinished.name != REPLACED and not (place := leftover.parent / unfinished.name).exists():
                (leftover / REPLACED).rename(place)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _runs(process: int) -> bool:
    """Whether there is such a process on this machine; on Windows nobody can ask without ending it, so there is one."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        pass
    return True


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that takes its place when the block ends without an error.

    Of an OSError about writing, ``path`` is the filename.
    """
    path = Path(path)
    try:
        # Not mkstemp, whose files only their owner may read: what is written here has the permissions of any other file.
        with temporary_folder(path) as folder:
            temporary = folder / path.name
            yield temporary
            to_disk(temporary)
            temporary.replace(path)
        to_disk(path.parent)
    except OSError as error:
        if error.filename is None or UNFINISHED in str(error.filename):  # a full disk has no name
            error.filename = str(path)
        raise


def to_disk(path: Path) -> None:
    """Else a power cut could keep a file's new name and lose what is in it. Of a folder, the names in it."""
    with suppress(OSError) if path.is_dir() else nullcontext():  # Windows and some network disks cannot, of folders
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """With those above it. Raises ProXError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProXError(f"cannot write to {path}: {error.strerror or error}") from error


def check_inside(path: Path, folder: Path) -> Path:
    """``path``, a file in ``folder``. Raises ProXError if it is a link that leads out of the folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ProXError(f"{path} is a link out of {folder}, to {path.resolve()}; put the file itself there")
    return path


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
    """Raises ProXError where the file is missing or too large, and as ``parse_json`` does."""
    if Path(path).exists() and not Path(path).is_file():
        raise ProXError(f"{path} is no file")
    try:
        with Path(path).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ProXError(f"there is no file {path}") from None
    if len(text) > MOST_BYTES or sum(map(text.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ProXError(
            f"{path} has more than {MOST_BYTES:,} bytes or {MOST_VALUES:,} values, too many for a file of this kind"
        )
    return parse_json(text, path)


def parse_json(text: str | bytes, source: Path | str) -> Any:
    """Raises ProXError, naming ``source``, where ``text`` is no JSON, or has what no file of ours has and others stumble over.

    That is nesting without end, numbers that overflow, and halves of surrogate pairs, which cannot be written.
    """
    try:
        data = json.loads(text, parse_int=_integer)
        _check_depth(data)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProXError(f"{source} is not valid JSON: {error}") from None
    return data


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits, at most {MOST_DIGITS} are allowed")
    return int(digits)


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(DEEPEST):
        level = [child for item in level if isinstance(item, (dict, list)) for child in _children(item)]
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} deep")


def _children(item: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
