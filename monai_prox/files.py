"""Files that are either complete or not there."""

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

SHORT = 40  # characters of a name in the name of a temporary folder; most systems allow 255 bytes
UNFINISHED = ".unfinished"  # the end of the names of temporary folders, which only a killed process leaves
REPLACED = ".replaced"  # the name of the old content in such a folder
OWNER = re.compile(rf"\.(?P<host>[A-Za-z0-9-]+)\.(?P<process>\d{{1,9}})\.[^.]+{re.escape(UNFINISHED)}$")
MOST_BYTES = 2**26  # of a JSON file
MOST_VALUES = 3_000_000  # of a JSON file; a value takes up to 200 bytes in memory
MOST_DIGITS = 18  # of a whole number, which 64 bits can hold
DEEPEST = 32  # levels of nested objects and lists


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside a path, on the same disk, which is removed at the end of the context.

    Its name contains the host and the process that made it.

    Args:
        path: path of a file or folder.
    """
    owner = f"{_host()}.{os.getpid()}."
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:SHORT]}.{owner}", suffix=UNFINISHED) as folder:
        yield Path(folder)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Removes temporary folders of processes of this machine that were killed.

    Args:
        folder: folder that contains them.
        name: name of the file or folder that the processes wrote. "*" means any.
    """
    for leftover in folder.glob(f".{name if name == '*' else escape(name[:SHORT])}.*{UNFINISHED}"):
        owner = OWNER.search(leftover.name)
        if owner is not None and owner["host"] == _host() and not _runs(int(owner["process"])):
            _put_back(leftover)
            shutil.rmtree(leftover, ignore_errors=True)


def _put_back(leftover: Path) -> None:
    """Restores a folder that was to be replaced, if the process ended after it had moved the folder to ``leftover``."""
    if (leftover / REPLACED).is_dir():
        for unfinished in leftover.iterdir():
            if unfinished.name != REPLACED and not (place := leftover.parent / unfinished.name).exists():
                (leftover / REPLACED).rename(place)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _runs(process: int) -> bool:
    """Whether the process exists on this machine. On Windows asking would end the process, so the answer is yes."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        pass
    return True


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside a path. The file there takes the place of ``path`` if the context ends without an error.

    Args:
        path: path of the file.

    Raises:
        OSError: the file cannot be written. Its filename is ``path``.
    """
    path = Path(path)
    try:
        # Not mkstemp, because only their owner may read its files. These have the permissions of any other file.
        with temporary_folder(path) as folder:
            temporary = folder / path.name
            yield temporary
            to_disk(temporary)
            temporary.replace(path)
        to_disk(path.parent)
    except OSError as error:
        if error.filename is None or UNFINISHED in str(error.filename):  # the error of a full disk has no filename
            error.filename = str(path)
        raise


def check_writable(path: Path) -> None:
    """Checks that a file can be written beside others in its folder, before the work of hours that it is for.

    Args:
        path: path of the file.

    Raises:
        OSError: nothing can be written there.
    """
    with temporary_folder(path):
        pass


def to_disk(path: Path) -> None:
    """Writes a file, or the names in a folder, from the system's cache to the disk.

    Without this a power cut could keep a file's new name and lose its content.

    Args:
        path: path of the file or folder.
    """
    with suppress(OSError) if path.is_dir() else nullcontext():  # Windows and some network disks cannot do it for folders
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def link(path: Path, target: Path) -> None:
    """Makes a symbolic link, or a copy where the system allows no link, as Windows does for most users.

    Args:
        path: path of the link.
        target: the file.
    """
    try:
        path.symlink_to(target.resolve())
    except OSError:
        if path.exists():
            raise
        shutil.copyfile(target, path)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, if they are missing.

    Args:
        path: path of the folder.

    Raises:
        ProXError: the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProXError(f"cannot write to {path}: {error.strerror or error}") from error


def check_inside(path: Path, folder: Path) -> Path:
    """Checks that a path in a folder is not a link to a place outside of the folder.

    Args:
        path: path in the folder.
        folder: the folder.

    Returns:
        ``path``.

    Raises:
        ProXError: it is such a link.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ProXError(f"{path} is a link out of {folder}, to {path.resolve()}; put the file itself there")
    return path


def write_json(data: Any, path: Path | str) -> None:
    """Writes plain data as JSON. Numbers that are not finite become null, because JSON does not have them.

    Args:
        data: the data.
        path: path of the file.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(data), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not isfinite(data) else data


def read_json(path: Path | str) -> Any:
    """Reads a JSON file.

    Args:
        path: path of the file.

    Raises:
        ProXError: the file is missing or too large, or ``parse_json`` refuses its content.
    """
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
    """Reads JSON from outside.

    Args:
        text: the JSON text.
        source: file or description that the error names.

    Raises:
        ProXError: the text is not JSON, is nested too deeply, or has numbers or characters that cannot be written again.
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
    """The SHA-256 digest of a file in hexadecimal.

    Args:
        path: path of the file.
    """
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
