"""Claims: sentences with the command that measures them, and the figures that its results have to give."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks import records
from benchmarks.quantities import COLUMNS, Quantities, quantities

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
TERM = re.compile(r"(?P<quantity>[a-z_.]+)\[(?P<contender>[^\]]+)\]")
TERMS = re.compile(rf"{TERM.pattern}(?: (?P<operator>[/-]) {TERM.pattern.replace('<', '<other_')})?")


class Figure(NamedTuple):
    """A number of a claim.

    Attributes:
        metric: ``quantity[contender]``, its mean over the seeds, or two of them with " / " or " - " between.
        expected: what the committed results give.
        tolerance: by how much another run of the command may differ.
        decimals: with which documents write it.
    """

    metric: str
    expected: float
    tolerance: float
    decimals: int = 2

    def measured(self, found: Quantities) -> float:
        """Raises ValueError where the metric cannot be read, and KeyError where the results lack what it names."""
        terms = TERMS.fullmatch(self.metric)
        if terms is None:
            raise ValueError(f"the metric {self.metric!r} is not quantity[contender], alone or with ' / ' or ' - ' another")
        value = fmean(found[terms["contender"]][terms["quantity"]])
        if terms["operator"] is None:
            return value
        other = fmean(found[terms["other_contender"]][terms["other_quantity"]])
        return value / other if terms["operator"] == "/" else value - other

    def holds(self, value: float) -> bool:
        return abs(value - self.expected) <= self.tolerance

    def written(self, value: float) -> str:
        return "-" if isnan(value) else f"{value:.{self.decimals}f}"


class Claim:
    """An entry of claims.toml: id, sentence, commands, hours, figures, columns of its table, and what makes a smoke run."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.id: str = entry["id"]
        self.sentence: str = entry["sentence"]
        self.commands: Sequence[str] = entry["commands"]
        self.smoke: Sequence[str] = entry["smoke"]
        self.hours: float = entry["hours"]
        self.columns: Sequence[str] = entry["columns"]
        self.figures = {name: Figure(**figure) for name, figure in entry.get("figures", {}).items()}
        if len(self.smoke) != len(self.commands):
            raise ValueError(f"the claim {self.id} has {len(self.commands)} commands and {len(self.smoke)} smoke options")
        if unknown := [column for column in self.columns if column not in COLUMNS]:
            raise ValueError(f"the claim {self.id} has the columns {', '.join(unknown)}, which benchmarks/quantities.py lacks")

    @cached_property
    def runs(self) -> list[records.Run]:
        return records.read(RESULTS / self.id)

    @cached_property
    def found(self) -> Quantities:
        return quantities(self.runs)

    def command_lines(self, *, smoke: bool, **folders: Path) -> Iterator[list[str]]:
        """folders: ``data`` with the Decathlon tasks, ``work``, ``results``."""
        for command, options in zip(self.commands, self.smoke, strict=True):
            words = shlex.split(f"{command} {options}" if smoke else command)
            yield [word.format_map(folders) for word in words]


def read_claims() -> dict[str, Claim]:
    """By id, in the order of claims.toml."""
    entries = tomllib.loads((FOLDER / "claims.toml").read_text(encoding="utf-8"))["claim"]
    return {entry["id"]: Claim(entry) for entry in entries}
