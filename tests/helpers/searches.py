"""What tests of searches share, beside the fixture ``source`` of nnunet_fixtures."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from monai_prox.core import cost
from monai_prox.latency.device import fingerprint
from monai_prox.latency.measure import profile
from monai_prox.latency.pack import choose_members
from monai_prox.search.report import write_report
from monai_prox.search.result import Result
from monai_prox.search.study import Search
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.trained.source import Members

NAMES = [f"case_{index}" for index in range(3)]


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches begin with few members, and what is measured on this machine is measured once."""
    monkeypatch.setattr("monai_prox.search.budget.LOOKED_AT", 9)
    monkeypatch.setattr("monai_prox.latency.measure.SECONDS", 0)
    for module in ("measure", "synthetic"):
        monkeypatch.setattr(f"monai_prox.latency.{module}.ROUNDS", 1)


def search_of(source: TrainedNNUNet, storage: Path, **settings: Any) -> Search:
    few: dict[str, Any] = {"trials": 10, "cases": 1, "finalists": 3}
    return Search(source=source, storage=str(storage), **few | settings)


def report_of(result: Result, output: Path) -> dict[str, Any]:
    """``write_report`` without its picture, which takes longer than a small search."""
    with patch("monai_prox.search.report.plot_choices"):
        return write_report(result, output)


def made_up_device(source: Members) -> dict[str, Any]:
    family, size = source.supernet.family, source.size
    members = [
        {"subnet": subnet.to_json(), "milliseconds": 1 + 1e-5 * cost.macs(family, subnet, size)}
        for subnet in choose_members(family, size)
    ]
    return profile(fingerprint(family, size), "made up", 1, members)
