"""Errors of this package within MONAI's tracebacks and torchrun's reports."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType

from monai_prox.errors import ProXError
from monai_prox.requirements import missing

MOVED = (
    "If a bundle of monai-prox 0.1 has written this configuration, take the configurations of this version's bundle; "
    "its checkpoints and model files are read as before."
)


def name_cause_last() -> None:
    """Makes Python end an uncaught exception's traceback with what caused it, a ProXError or OSError if there is one.

    If a package is missing, the end is the pip command that installs it. MONAI wraps the errors of components in errors of its
    own, so without this the traceback of a wrong dataset_dir would end with the name of a component, fifty lines after the
    helpful message. Bundles call this first. If there are several processes, torchrun repeats the message at the end.
    """
    shown = sys.excepthook
    if shown.__module__ == __name__:  # another bundle of this process has called it
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        shown(kind, error, traceback)
        chain = [error]
        while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
            chain.append(before)
        ours = (one for one in chain if isinstance(one, ProXError | OSError | ModuleNotFoundError))
        cause = next(ours, chain[-1])
        if cause is error and not isinstance(error, ProXError | OSError | ModuleNotFoundError):
            return
        message = _text(cause)
        if cause is not error or message != str(cause):
            print(f"\nerror: {message}", file=sys.stderr)
        if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            extra = {"py_callstack": f"error: {message}", "timestamp": str(int(time.time()))}
            Path(report).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}), encoding="utf-8")

    sys.excepthook = hook


def _text(cause: BaseException) -> str:
    """The message of a cause. If a package is missing, it has the pip command."""
    if isinstance(cause, ProXError | OSError):
        return str(cause)
    if not isinstance(cause, ModuleNotFoundError):
        return f"{type(cause).__name__}: {cause}"
    if cause.name:
        return missing(cause.name)
    message = str(cause)  # MONAI's own, of a component that it does not find
    return f"{message} {MOVED}" if "monai_prox." in message else message
