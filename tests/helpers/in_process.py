"""The command line within the test's process: its exit code, and what it writes to the standard streams."""

from __future__ import annotations

import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from unittest.mock import patch

import typer

from monai_prox.cli.app import main

COMMANDS = cache(typer.main.get_command)  # each time anew, they take longer than most of what they do here


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message of a command that failed as it should: on one line of standard error, and nothing else."""
        assert self.code == 1 and self.out == "", self
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


def prox(*words: object) -> Done:
    """``monai-prox`` with the arguments ``words``."""
    out, err, code = StringIO(), StringIO(), 0
    of_words = patch.object(sys, "argv", ["monai-prox", *map(str, words)])
    of_warnings = patch.object(warnings, "formatwarning", warnings.formatwarning)  # which main replaces
    of_commands = patch("typer.main.get_command", COMMANDS)
    with redirect_stdout(out), redirect_stderr(err), of_words, of_warnings, of_commands:
        try:
            main()
        except SystemExit as end:
            assert end.code is None or isinstance(end.code, int)
            code = end.code or 0
    return Done(code, out.getvalue(), err.getvalue())


def output_of(*words: object) -> str:
    """What ``monai-prox`` with the arguments ``words`` writes to standard output. It has to succeed."""
    done = prox(*words)
    assert done.code == 0, done.err
    return done.out
