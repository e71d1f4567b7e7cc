"""A member with what surrounds its network in prediction, whatever it does with images: what a bundle is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from monai_prox.errors import ProXError

MARKS = ("$", "@", "%")  # with which MONAI's configurations begin expressions, references and macros


def check_plain(data: Any) -> None:
    """Raises ProXError where a text in ``data``, from a plan or a dataset.json, would be code in a bundle's configuration."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            check_plain(key)
            check_plain(value)
    elif isinstance(data, list | tuple):
        for value in data:
            check_plain(value)
    elif isinstance(data, str) and data.lstrip().startswith(MARKS):
        raise ProXError(
            f"{data!r:.80} would be read as an expression in a bundle; names must not begin with {', '.join(MARKS)}"
        )


def metrics_of(measure: str, scores: Mapping[str, float | None]) -> dict[str, float]:
    """Scores by what is measured, as ``Prediction`` has them; those of classes that no case has are left out."""
    return {f"{measure} {label}": value for label, value in scores.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the members of all families have. Each kind says what is in its files, see ``monai_prox.export.bundle.Exportable``.

    name, task, source: of the member, of the data, and in words where it was trained. subnet: as JSON.
    network, architecture: the stock network with its weights, and its plain data.
    metrics: by name, as measured, {} where nothing was; measured_on: on what, in words.
    """

    name: str
    task: str
    source: str
    subnet: Mapping[str, Any]
    network: nn.Module
    architecture: Mapping[str, Any]
    metrics: Mapping[str, float]
    measured_on: str

    def __post_init__(self) -> None:
        check_plain([self.name, self.task, self.source, self.subnet, self.architecture, self.metrics])
