"""Programs that a command starts in turn, without their start-up: each is forked as ``commands.forked`` forks the command.

They lie in a folder that a command finds in the place of its environment's: ``python`` as ``sys.executable``, console scripts
beside it. Each asks the test's process for what it was called for, waits, and passes on what that has said, and its exit code.
Tests of how processes end, and of real starts, use ``commands.fresh`` or a program of the environment instead.
"""

from __future__ import annotations

import json
import runpy
import socketserver
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from threading import Thread

from helpers.commands import FORKS, forked

PYTHON, SOCKET = "python", "socket"
SCRIPTS = [PYTHON, *(script.name for script in entry_points(group="console_scripts") if script.value.startswith("nnunetv2"))]
SCRIPTS += ["monai-prox"]
PROGRAM = f"""#!{sys.executable} -IS
import json, os, socket, sys
folder, name = os.path.split(__file__)
with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as stream:
    connection.connect(os.path.join(folder, {SOCKET!r}))
    stream.write(json.dumps([name, sys.argv[1:], os.getcwd(), dict(os.environ)]) + "\\n")
    stream.flush()
    code, out, err = json.loads(stream.readline())
print(out, end="", flush=True)
sys.stderr.write(err)
sys.exit(code if code >= 0 else 128 - code)
"""


class Programs:
    """Runs commands as ``forked`` does, in its place: what they start are the programs in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, words: Sequence[object], environment: Mapping[str, str], *, cwd: Path | None = None, module: bool = False
    ) -> subprocess.CompletedProcess[str]:
        line = ["-m", *words] if module else words
        return forked(["helpers.programs", self.folder, *line], environment, cwd=cwd, module=True)


@contextmanager
def serving() -> Iterator[Programs]:
    """The programs, while the block lasts; on Windows, which has no forks, those of this environment."""
    if not FORKS:
        yield Programs(Path(sys.executable).parent)
        return
    with tempfile.TemporaryDirectory(prefix="programs_") as folder:  # a socket's path has to be short
        made = Programs(Path(folder))
        for name in SCRIPTS:
            (made.folder / name).write_text(PROGRAM)
            (made.folder / name).chmod(0o755)

        class Called(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                name, words, cwd, environment = json.loads(self.rfile.readline())
                done = made(words if name == PYTHON else [name, *words], environment, cwd=Path(cwd))
                self.wfile.write(f"{json.dumps([done.returncode, done.stdout, done.stderr])}\n".encode())

        with socketserver.ThreadingUnixStreamServer(str(made.folder / SOCKET), Called) as server:
            Thread(target=server.serve_forever).start()
            yield made
            server.shutdown()


def _main(folder: str, *words: str) -> None:
    """What ``python`` does with these words, or a console script of this environment, its name first."""
    if FORKS:
        sys.executable = str(Path(folder, PYTHON))
    what, *rest = words[1:] if words[0] == "-u" else words
    if what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    elif script := entry_points(group="console_scripts", name=what):
        sys.argv = [what, *rest]
        sys.exit(next(iter(script)).load()())
    else:
        sys.argv, sys.path[:0] = [what, *rest], [str(Path(what).resolve().parent)]
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    _main(*sys.argv[1:])
