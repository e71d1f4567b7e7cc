"""What takes long to make is made once a run, by whichever of its processes asks for it first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

SHARED = "MONAI_PROX_TEST_SHARED"  # the folder for it, the same in all processes of a run


def made_once(name: str, fill: Callable[[Path], object]) -> Path:
    """A folder of this name, filled. Nothing may be changed in it."""
    folder, done = (Path(os.environ[SHARED], part) for part in (name, f"{name}.done"))
    with FileLock(Path(os.environ[SHARED], f"{name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a test that has failed within
            folder.mkdir()
            fill(folder)
            done.touch()
    return folder
