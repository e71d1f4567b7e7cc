"""The storage of a search: a database, or a journal in a file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from monai_prox.errors import ProXError

MOST_BYTES, MOST_STUDIES = 2**26, 1_000  # of a journal
NEW_STUDY = re.compile(rb'"op_code"\s*:\s*0\b')


class _Lock(JournalFileSymlinkLock):
    """A lock that removes an incomplete last line from the journal.

    A process that is killed while it writes, or a full disk, can leave an incomplete line. Optuna would append the next line to
    it, and the journal could not be read again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path))

    def acquire(self) -> bool:
        acquired = super().acquire()
        try:
            self._drop_half_a_line()
        except BaseException:
            self.release()
            raise
        return acquired

    def _drop_half_a_line(self) -> None:
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            if size and file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)


class Journal(JournalFileBackend):
    """Optuna's journal file, with a lock that repairs an incomplete last line.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = _Lock(path)
        super().__init__(str(path), lock_obj=self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            error.filename = str(self.path)  # the error of a full disk has no filename
            raise


def _check_journal(path: Path) -> None:
    """Raises ProXError for a journal with which Optuna would be busy for minutes, or would wait for ever."""
    lock = Path(f"{path}.lock")
    if os.path.lexists(lock) and not (lock.is_symlink() and lock.resolve() == path):
        raise ProXError(f"{lock} is no lock of this journal; remove it")
    if not path.is_file():
        return
    size = path.stat().st_size
    studies = 0 if size > MOST_BYTES else len(NEW_STUDY.findall(path.read_bytes()))
    if size > MOST_BYTES or studies > MOST_STUDIES:
        raise ProXError(f"{path} has {size:,} bytes and {studies:,} searches; {MOST_BYTES:,} and {MOST_STUDIES:,} are allowed")


def open_storage(storage: str) -> BaseStorage:
    """Opens a storage.

    Args:
        storage: URL of a database, or path of a journal.

    Raises:
        ProXError: it cannot be opened.
    """
    try:
        if "://" in storage:
            return RDBStorage(storage)
        path = Path(storage).resolve()  # Optuna's lock is a link to it, which needs the full path
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_journal(path)
        return JournalStorage(Journal(path))
    except ProXError:
        raise
    except Exception as error:  # every database has errors of its own
        kind = storage.split("://")[0]  # without a password
        raise ProXError(f"the storage {kind} cannot be opened: {' '.join(str(error).split()):.200}") from None
