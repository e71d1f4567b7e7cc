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


def name_cause_last() -> None:
    """Makes Python end an uncaught exception's traceback with the ProXError or OSError that caused it, where one did.

    Or with the pip command for a package that is missing. MONAI wraps what a component raises in an error of its own, so the
    traceback of a wrong dataset_dir would end, fifty lines after the message that helps, with the name of the component.
    Bundles call this first of all. Of several processes torchrun repeats it after what all of them have said.
    """
    shown = sys.excepthook
    if shown.__module__ == __name__:  # another bundle of this process has called it
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        shown(kind, error, traceback)
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ProXError | OSError | ModuleNotFoundError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            return
        message = missing(cause.name or "") if isinstance(cause, ModuleNotFoundError) else str(cause)
        if cause is not error or message != str(cause):
            print(f"\nerror: {message}", file=sys.stderr)
        if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            extra = {"py_callstack": f"error: {message}", "timestamp": str(int(time.time()))}
            Path(report).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))

    sys.excepthook = hook
