"""A folder that is whole or not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.files import remove_unfinished, temporary_folder, to_disk


def check_vacant(output: Path, *, overwrite: bool) -> None:
    """Raises ProXError where ``output`` exists without ``overwrite``."""
    if output.exists() and not overwrite:
        raise ProXError(f"{output} exists; give another --output or --overwrite")


@contextmanager
def new_folder(output: Path, *, overwrite: bool, is_exported: Callable[[Path], bool]) -> Iterator[Path]:
    """Yields an empty folder that becomes ``output`` when the block ends without an error.

    Raises ProXError where ``output`` exists without ``overwrite`` or is not what ``is_exported`` knows as its own kind, and
    where nothing can be written; then no part of the folder is left.
    """
    check_vacant(output, overwrite=overwrite)
    if output.exists() and not is_exported(output):
        raise ProXError(f"{output} is not an exported member, so it is not replaced; give another --output")
    try:
        with _parents(output):
            remove_unfinished(output.parent, output.name)
            with temporary_folder(output) as temporary:
                folder = temporary / output.name
                folder.mkdir()
                yield folder
                for written in [*folder.rglob("*"), folder]:
                    to_disk(written)
                if output.exists():
                    output.rename(temporary / "replaced")
                folder.rename(output)
            to_disk(output.parent)
    except OSError as error:
        raise ProXError(f"cannot write {output}: {error.strerror or error}; nothing was left behind") from error


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Makes the folders above ``path``; where the block fails, those that were not there before go again."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # somebody else has put something there meanwhile
                parent.rmdir()
        raise
