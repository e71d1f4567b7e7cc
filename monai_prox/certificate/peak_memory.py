"""The most memory that this process has had, as the system counts it: resident memory, without that of a GPU."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Begins anew, if the system is Linux. Elsewhere the peak is that since the process has started."""
    with suppress(OSError):
        RESET.write_text("5")


def peak_memory() -> int | None:
    """Bytes, or None if the system does not tell, such as Windows."""
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = map(str.split, STATUS.read_text().splitlines())
        return next(int(words[1]) * 1024 for words in lines if words and words[0] == "VmHWM:")
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
