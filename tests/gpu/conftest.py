"""Tests on a GPU. Their bodies run on the CPU, too, so that on a machine without one they are known to be right themselves."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms, before CUDA starts

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.nnunet_task import bare_folders


@pytest.fixture(params=["on_cpu", "on_cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "on_cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU on this machine")
    return torch.device(request.param.removeprefix("on_"))


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """See ``bare_folders``."""
    bare_folders(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Single precision is not rounded to TF32, and algorithms are deterministic.

    The mean of nnU-Net's cross-entropy has no deterministic algorithm on GPUs. The gradient does not depend on it.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
