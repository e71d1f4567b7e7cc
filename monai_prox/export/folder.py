"""A folder that is whole or not there, and that is replaced only while nothing is in it but what was exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.files import REPLACED, digest_of, read_json, remove_unfinished, temporary_folder, to_disk, write_json

LISTING = "prox_export.json"  # lists what was exported, so that a later export knows what is not its own
NAMED = 5  # files in a refusal


def check_vacant(output: Path, *, overwrite: bool) -> None:
    """Raises ProXError where ``output`` exists without ``overwrite``."""
    if output.exists() and not overwrite:
        raise ProXError(f"{output} exists; give another --output or --overwrite")


def check_replaceable(output: Path) -> None:
    """Raises ProXError where ``output`` is there but no exported folder, or holds what was not exported or has changed since.

    Such as the results of stock nnU-Net, which trains into an exported model folder.
    """
    if not output.exists():
        return
    listing = output / LISTING
    if not listing.is_file():
        raise ProXError(
            f"{output} is not an exported member, so it is not replaced: it has no {LISTING}; give another --output"
        )
    data = read_json(listing)
    exported = data.get("files") if isinstance(data, dict) else None
    if not isinstance(exported, dict):
        raise ProXError(f"{listing} does not list what was exported, so {output} is not replaced")
    found = {name: _digest(path) for name, path in _contents(output).items() if path != listing}
    own = sorted(name for name, digest in found.items() if digest is None or digest != exported.get(name))
    if own:
        named = ", ".join(own[:NAMED]) + (f" and {len(own) - NAMED} more" if len(own) > NAMED else "")
        raise ProXError(f"{output} is not replaced, for {named} there were not exported; move them, or give another --output")


def _contents(folder: Path) -> dict[str, Path]:
    """By path within ``folder`` everything that is no folder, without what Python makes of scripts that it runs."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    relative = {path.relative_to(folder): path for path in found}
    return {part.as_posix(): path for part, path in relative.items() if "__pycache__" not in part.parts}


def _digest(path: Path) -> str | None:
    if path.is_symlink() or not path.is_file():  # no export writes such
        return None
    return digest_of(path)


@contextmanager
def new_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields an empty folder that becomes ``output`` when the block ends without an error.

    Raises ProXError where ``output`` exists without ``overwrite`` or may not be replaced, and where nothing can be written;
    then no part of the folder is left.
    """
    check_vacant(output, overwrite=overwrite)
    check_replaceable(output)
    try:
        with _parents(output):
            remove_unfinished(output.parent, output.name)
            with temporary_folder(output) as temporary:
                folder = temporary / output.name
                folder.mkdir()
                yield folder
                files = {name: _digest(path) for name, path in _contents(folder).items()}
                write_json({"format": 1, "files": files}, folder / LISTING)
                for written in [*folder.rglob("*"), folder]:
                    to_disk(written)
                if output.exists():
                    output.rename(temporary / REPLACED)
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
