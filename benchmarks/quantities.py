"""What results say: quantities by contender, a value a seed, and the tables made of them.

A run has ``contender``. One that trained has ``members`` with their measure, Dice or accuracy, of which come ``largest``,
``middle``, ``smallest``, ``family`` and ``worst``; ``middle`` is measured, too, but does not count as the family. All other
numbers of a run are quantities by their own names, those within an object by the names joined by a dot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import nan
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from benchmarks.records import Run

Quantities = dict[str, dict[str, list[float]]]  # by contender and quantity, a value a seed
NOT_MEASURED = ("contender", "seed", "date", "commit", "machine", "versions", "settings")
MEASURES = ("dice", "accuracy")


class Column(NamedTuple):
    """How a quantity is written: its heading with the unit, what it is multiplied by, and the decimals."""

    title: str
    scale: float = 1.0
    decimals: int = 3


COLUMNS = {
    "largest": Column("largest"),
    "middle": Column("middle"),
    "smallest": Column("smallest"),
    "family": Column("family mean"),
    "worst": Column("worst"),
    "surface": Column("surface Dice, mean"),
    "training_macs": Column("training TMAC", 1e-12, 1),
    "training_seconds": Column("training s", 1, 0),
    "training_cpu_seconds": Column("CPU s", 1, 0),
    "peak_memory_bytes": Column("peak GB", 1e-9, 2),
    "seconds_a_case": Column("s a case", 1, 2),
    "read_cpu_seconds": Column("read", 1, 1),
    "prepare_cpu_seconds": Column("prepare", 1, 1),
    "windows_cpu_seconds": Column("windows", 1, 1),
    "labels_cpu_seconds": Column("labels", 1, 1),
    "write_cpu_seconds": Column("write", 1, 1),
    "beside_network_cpu_seconds": Column("all five, CPU s", 1, 1),
    "all_logits_cpu_seconds": Column("labels of all logits", 1, 1),
    "estimate": Column("estimate of it", 1, 2),
    "file_bytes": Column("file MB", 1e-6, 2),
    "dice": Column("Dice"),
    "surface_dice": Column("surface Dice"),
    "largest.macs": Column("largest GMAC", 1e-9, 2),
    "largest.dice": Column("largest's Dice"),
    "smallest.dice": Column("smallest's Dice"),
    "closed_share": Column("closed, % of trials", 100, 1),
    "agreement": Column("voxels alike, %", 100, 4),
    "dice_with_everywhere": Column("Dice with the largest everywhere"),
    "worst_case": Column("worst case, %", 100, 3),
    "ratio": Column("times the extracted network's"),
    "sliced_seconds": Column("sliced ms", 1000, 1),
    "extracted_seconds": Column("extracted ms", 1000, 1),
    "skeleton_seconds": Column("skeleton ms", 1000, 1),
    "median_error": Column("median error, %", 100, 1),
    "error_of_nine_in_ten": Column("nine in ten below, %", 100, 1),
    "members.smallest.dice.mean": Column("smallest's Dice"),
    "members.largest.dice.mean": Column("largest's Dice"),
    "hypervolume": Column("area below the front"),
    "seconds": Column("s", 1, 0),
    "seconds_warm": Column("next case, s", 1, 1),
    "network_seconds": Column("bare network, s", 1, 1),
    "beside_seconds": Column("all but the network, s", 1, 1),
    "rank_correlation": Column("rank correlation", 1, 2),
    "lower": Column("from", 1, 2),
    "upper": Column("to", 1, 2),
    "expected_error": Column("expected Dice, mean error"),
    "constant_error": Column("of a constant"),
    "coverage": Column("in the interval of 90 %, %", 100, 0),
    "width": Column("its width"),
    "spread": Column("Dice, standard deviation"),
    "seconds_error": Column("seconds, median error, %", 100, 1),
    "seconds_error_of_nine_in_ten": Column("nine in ten below, %", 100, 1),
    "memory_error": Column("GB, median error, %", 100, 1),
    "memory_error_of_nine_in_ten": Column("nine in ten below, %", 100, 1),
    "share_of_training": Column("of the training's time, %", 100, 1),
}


def measure_of(runs: Sequence[Run]) -> str | None:
    """By which members were judged; None where no run lists any."""
    listed = [run["members"] for run in runs if isinstance(run.get("members"), list)]
    found = (measure for measure in MEASURES for members in listed for member in members if measure in member)
    return next(found, None)


def of_family(members: Sequence[Mapping[str, Any]], measure: str) -> list[float]:
    """The measure of those that count as the family; of a network trained alone its own. NaN for one that has none."""
    return [_measured(member, measure) for member in members if member["name"] != "middle" or len(members) == 1]


def _measured(member: Mapping[str, Any], measure: str) -> float:
    """JSON has null for NaN."""
    value = member[measure]
    return nan if value is None else value


def quantities(runs: Sequence[Run]) -> Quantities:
    found: Quantities = {}
    measure = measure_of(runs)
    for run in runs:
        values = dict(_numbers({key: value for key, value in run.items() if key not in NOT_MEASURED}))
        if isinstance(members := run.get("members"), list) and members and measure is not None:
            named = {member["name"]: _measured(member, measure) for member in members}
            values |= {key: named[key] for key in ("largest", "middle", "smallest") if key in named}
            if len(family := of_family(members, measure)) > 1:
                values |= {"family": fmean(family), "worst": float(np.min(family))}
            if any("surface_dice" in member for member in members):  # earlier results have none
                values["surface"] = fmean(of_family(members, "surface_dice"))
        row = found.setdefault(run["contender"], {})
        for key, value in values.items():
            row.setdefault(key, []).append(value)
    return found


def _numbers(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{within}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{within}{key}", value


def cell(values: list[float] | None, column: Column) -> str:
    """Mean, and standard deviation over several seeds; where there is none, a dash. NaN where a seed has NaN."""
    if not values:
        return "-"
    mean, spread = fmean(values) * column.scale, float(np.std(values)) * column.scale
    return f"{mean:.{column.decimals}f}" + (f" ± {spread:.{column.decimals}f}" if len(values) > 1 else "")


def cells(found: Quantities, columns: Sequence[str]) -> Iterator[list[str]]:
    """A row a contender: its name, the number of its seeds, and the columns."""
    for contender, row in found.items():
        runs = max(map(len, row.values()), default=0)
        yield [contender, str(runs), *(cell(row.get(name), COLUMNS[name]) for name in columns)]


def headings(columns: Sequence[str]) -> list[str]:
    return ["", "seeds", *(COLUMNS[name].title for name in columns)]


def markdown(found: Quantities, columns: Sequence[str]) -> str:
    """A table without a column for the seeds where there is one each."""
    rows = [headings(columns), *cells(found, columns)]
    if all(row[1] == "1" for row in rows[1:]):
        rows = [[row[0], *row[2:]] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def terminal(found: Quantities, columns: Sequence[str]) -> Table:
    table = Table(*headings(columns))
    for row in cells(found, columns):
        table.add_row(*row)
    return table
