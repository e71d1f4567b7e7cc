"""The peak of the memory: it rises with what is allocated, and falls when it begins anew."""

import os
from pathlib import Path

import numpy as np
import pytest

from monai_prox.certificate import peak_memory as module
from monai_prox.certificate.peak_memory import peak_memory, reset_peak

# Bytes. Linux counts those of each thread now and then only, and may put away meanwhile what the process has not used for long
SIZE, SLACK = 200_000_000, 60_000_000


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system does not begin anew")
def test_the_peak_is_of_what_came_since() -> None:
    reset_peak()
    before = peak_memory()
    large = np.ones(SIZE, np.uint8)
    with_it = peak_memory()
    del large
    freed = peak_memory()
    reset_peak()
    after = peak_memory()
    assert before and with_it and freed and after
    assert with_it - before == pytest.approx(SIZE, abs=SLACK) and freed == pytest.approx(with_it, abs=SLACK)
    assert after == pytest.approx(before, abs=SLACK)


@pytest.mark.skipif(os.name != "posix", reason="Windows does not tell")
def test_without_linux_it_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = peak_memory()
    for name in ("STATUS", "RESET"):
        monkeypatch.setattr(module, name, tmp_path / "missing" / "file")
    reset_peak()
    found = peak_memory()
    assert found is not None and known is not None and found >= known - SLACK
