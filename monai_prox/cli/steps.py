"""The steps of a long command: a bar each, and commands of this environment, whose output goes to a log."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import Progress

from monai_prox.errors import ProXError

ERROR = re.compile(r"[\w.]*(error|exception)\b[^:]*:\s*\S", re.IGNORECASE)  # begins the line that says what was wrong
T = TypeVar("T")


class Steps:
    """Progress bars and subprocesses, whose output goes to one log file.

    Args:
        bars: the progress bars.
        log: path of the log file.
    """

    def __init__(self, bars: Progress, log: Path) -> None:
        self._bars, self._log = bars, log

    @contextmanager
    def __call__(self, name: str, total: int) -> Iterator[Callable[[float | None], None]]:
        """A context in which a step runs. It gives a function that is told how much is done, or None if that is not known."""
        console = self._bars.console
        if not console.is_terminal:  # which would see nothing of bars before the end
            console.print(name, soft_wrap=True, highlight=False, markup=False)
        task = self._bars.add_task(name, total=total)

        def update(done: float | None) -> None:
            if done is not None:
                self._bars.update(task, completed=done)

        yield update
        update(total)

    def capture(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function whose output goes to the log."""
        with self._log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            return function(*arguments)

    def run(self, command: list[str], on_line: Callable[[str], None], **variables: str) -> None:
        """Runs a console script of this environment. Raises ProXError with its error if it fails.

        on_line: called with every line of its output. variables: of its environment, beside those of this process.
        """
        executable = find_script(command[0])
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            process = subprocess.Popen(
                [executable, *command[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=os.environ | variables,
            )
            assert process.stdout is not None
            errors = []
            for line in process.stdout:
                log.write(line)
                log.flush()
                on_line(line)
                if ERROR.match(line):
                    errors.append(line.strip())
            if process.wait():
                why = f": {errors[0]:.400}" if errors else ""
                raise ProXError(f"{command[0]} failed with exit code {process.returncode}{why}; its output is in {self._log}")


def find_script(name: str) -> str:
    """The path of a console script of this environment. On Windows it has an ending, and need not lie beside Python.

    Raises ProXError if it is not installed.
    """
    beside, scripts = str(Path(sys.executable).parent), sysconfig.get_path("scripts")
    found = shutil.which(name, path=os.pathsep.join((beside, scripts)))
    if found is None:
        raise ProXError(f"{Path(beside, name)} is missing; install nnunetv2 into this environment, then see: monai-prox doctor")
    return found
