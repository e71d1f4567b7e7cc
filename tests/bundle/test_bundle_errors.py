"""The message that helps stands last."""

import json
import sys
from pathlib import Path

import pytest
from helpers.ranks import in_threads

from monai_prox.bundle.errors import MOVED, name_cause_last
from monai_prox.core.distributed import check_shared
from monai_prox.errors import ProXError


def wrapped(cause: Exception) -> RuntimeError:
    """As MONAI wraps what a component raises, and what raised that."""
    try:
        try:
            try:
                raise cause
            except Exception as error:
                raise RuntimeError("Failed to instantiate component") from error
        except RuntimeError as error:
            raise RuntimeError("Failed to evaluate expression") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (wrapped(ProXError("there is no folder DATA")), "error: there is no folder DATA"),
        (
            wrapped(ModuleNotFoundError(name="far.near")),
            "error: far is not installed: pip install far",
        ),
        (
            wrapped(ModuleNotFoundError("Cannot locate class or function path: 'monai_prox.decathlon.find_task'.")),
            f"error: Cannot locate class or function path: 'monai_prox.decathlon.find_task'. {MOVED}",
        ),
        (
            wrapped(ModuleNotFoundError("Cannot locate class or function path: 'far.near'.")),
            "error: Cannot locate class or function path: 'far.near'.",
        ),
        (wrapped(KeyError("DATA")), "error: KeyError: 'DATA'"),
        (KeyError("DATA"), "KeyError: 'DATA'"),
        (ProXError("there is no folder DATA"), "monai_prox.errors.ProXError: there is no folder DATA"),
    ],
    ids=["ours", "a package", "a place of 0.1", "another place", "another's", "another's, not wrapped", "not wrapped"],
)
def test_a_traceback_ends_with_our_cause(
    error: Exception, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    name_cause_last()
    name_cause_last()
    sys.excepthook(type(error), error, error.__traceback__)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == last
    assert sum(line.startswith("error: ") for line in lines) == last.startswith("error: ")


@pytest.mark.parametrize("error", [wrapped(ProXError("there is no folder DATA")), ProXError("there is no folder DATA")])
def test_torchrun_is_told_our_cause(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "error.json"
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(report))
    name_cause_last()
    sys.excepthook(KeyError, KeyError("DATA"), None)
    assert not report.exists()
    sys.excepthook(type(error), error, error.__traceback__)
    message = json.loads(report.read_text())["message"]
    assert message["message"] == "there is no folder DATA"
    assert message["extraInfo"]["py_callstack"] == "error: there is no folder DATA"


@pytest.mark.parametrize("training", [1, 2])
def test_fewer_cases_than_processes_are_said_before_a_sampler_fails(training: int) -> None:
    def check(rank: int) -> None:
        check_shared(range(training))

    check(0)  # one process alone
    if training == 2:
        in_threads(2, check)
        return
    with pytest.raises(ProXError, match="2 processes share the training cases, of which there are 1, and each needs one"):
        in_threads(2, check)
