"""tests/gpu as a part of ``gpu.py``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "gpu"
NEEDED = ("pytest", "hypothesis", "filelock")  # of what the tests import, a machine without a package index may lack these
OPTIONS = ("-v", "-o", "addopts=", "-p", "no:cacheprovider")  # without those of pyproject.toml, which need pytest-xdist
ENDED = re.compile(r"^\S+::.+? (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
MOST_SAID = 8000  # characters of what pytest says


def run_tests(device: str, seconds: float) -> dict[str, Any]:
    """Runs the tests on a device in a process of its own, which ends after so many seconds.

    Returns the numbers of tests that passed, failed and were skipped, whether all had their turn, the seconds, and if a test
    failed or had no turn, the end of what pytest said. Or what is missing for a run.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return {"missing": missing}
    command = [sys.executable, "-m", "pytest", *OPTIONS, "-k", f"on_{device}", str(FOLDER)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}  # else what waits in a buffer may be lost
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            finished = process.returncode is not None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            process.wait()
        out.seek(0)
        said = out.read()
    result = counted(said) | {"finished": finished, "seconds": round(time.monotonic() - start, 1)}
    return result if finished and process.returncode == 0 else result | {"said": said[-MOST_SAID:]}


def counted(said: str) -> dict[str, int]:
    """How many tests have ended, and how, by what pytest said so far."""
    verdicts = ENDED.findall(said)
    failed = verdicts.count("FAILED") + verdicts.count("ERROR")
    return {"passed": verdicts.count("PASSED"), "failed": failed, "skipped": verdicts.count("SKIPPED")}


def tests_line(result: dict[str, Any]) -> str:
    """What ``run_tests`` returned, in a line."""
    if "missing" in result:
        return f"tests/gpu: not run, without {', '.join(result['missing'])}"
    counts = ", ".join(f"{result[name]} {name}" for name in ("passed", "failed", "skipped"))
    return f"tests/gpu: {counts}" + ("" if result["finished"] else ", and then the time was up")
