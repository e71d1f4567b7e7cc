"""How the suite runs: in one thread, with repeatable examples, and what takes long to make is made once for all workers."""

import os

# Before anything reads them. Tiny networks run fastest in one thread, and nnU-Net's pools with one process
os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "nnUNet_def_n_proc": "1"})

import gc
import shutil
import tempfile
import time

import pytest
import torch
from helpers.commands import forked
from helpers.made_once import SHARED
from hypothesis import settings

torch.set_num_threads(1)
os.fsync = lambda file: None  # which waits for the disk: no test cuts the power
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=10)
settings.register_profile("campaign", settings.get_profile("repeatable"), max_examples=100)

ALONE = "MONAI_PROX_TEST_ALONE"
STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--most-seconds", type=float, help="skip the tests that would begin later than this")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    most = item.config.getoption("--most-seconds")
    if most is not None and time.monotonic() - STARTED > most:
        pytest.skip(f"the {most:.0f} seconds that this run has are over")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("campaign" if is_campaign(config) else "repeatable")
    if SHARED not in os.environ:
        os.environ[SHARED] = tempfile.mkdtemp(prefix="monai_prox_tests_")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(SHARED), ignore_errors=True))


def is_campaign(config: pytest.Config) -> bool:
    return bool(config.option.markexpr.strip() == "slow")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Property tests are part of a campaign, too, in which they have many examples."""
    for item in items if is_campaign(config) else ():
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Leaves all that was imported out of later garbage collections, which would walk through it time and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs tests that are marked ``alone`` in a process of their own: what a native library leaves behind ends with it."""
    if pyfuncitem.get_closest_marker("alone") is None or ALONE in os.environ:
        return None
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with tempfile.TemporaryDirectory() as folder:
        options = ["-q", "-rs", "--show-capture=no", "-m", pyfuncitem.config.option.markexpr]
        options += ["-p", "no:cacheprovider", f"--basetemp={folder}"]
        done = forked(["pytest", *options, pyfuncitem.nodeid], kept | {ALONE: "1"}, cwd=pyfuncitem.config.rootpath)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for line in done.stdout.splitlines():
        if line.startswith("SKIPPED "):
            pytest.skip(line.partition(": ")[2])
    return True
