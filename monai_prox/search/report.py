"""The results of a search: a table, JSON, a plot, a page, and a file per member for its export."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.table import Table

from monai_prox.core import cost
from monai_prox.core.space import Subnet
from monai_prox.files import write_json
from monai_prox.latency.case import CaseCosts
from monai_prox.report import count, plot_choices
from monai_prox.search.budget import UNITS
from monai_prox.search.page import write_page
from monai_prox.search.result import Result
from monai_prox.search.scored import Scored
from monai_prox.search.settings import SearchSettings
from monai_prox.trained.source import Trained

FORMAT = 2
NUMBER = re.compile(r"^(Dataset|Task)\d+_")  # before a task's name
PLOTTED = ("latency_ms", "macs", "parameters", "memory_mb")
TABLE, PLOT, PAGE, MEMBERS = "front.json", "front.png", "report.html", "members"


def name_of(subnet: Subnet) -> str:
    """A name of a member that does not depend on the search that found it.

    Args:
        subnet: the member.
    """
    return f"choice-{sha256(str(subnet).encode()).hexdigest()[:8]}"


def named(result: Result) -> dict[str, Scored]:
    """The finalists by name, the cheapest first.

    Args:
        result: result of a search.
    """
    return _by_cost(result.finalists, result.search)


def _by_cost(scored: Sequence[Scored], search: SearchSettings) -> dict[str, Scored]:
    by_cost = sorted(scored, key=lambda member: tuple(member.price.value(name) for name in search.minimise))
    return {name_of(member.subnet): member for member in by_cost}


def report_folder(search: SearchSettings, output: Path) -> Path:
    """The folder of a search. Its name has the costs, the budget, and a digest of all settings.

    Args:
        search: the settings of the search.
        output: folder of all searches.
    """
    limits = (f"{name}_{limit:g}".replace("+", "") for name, limit in search.budget.limits().items())
    return output / "-".join([*search.minimise, *limits, sha256(search.name.encode()).hexdigest()[:8]])


def write_report(result: Result, output: Path) -> dict[str, Any]:
    """Writes the results of a search into its folder.

    Files for the export of members are written to ``output`` / MEMBERS, which all searches share.

    Args:
        result: result of the search.
        output: folder of all searches.

    Returns:
        The content of front.json.
    """
    folder = report_folder(result.search, output)
    for required in (output / MEMBERS, folder):
        required.mkdir(parents=True, exist_ok=True)
    for member in result.members:
        write_json({"subnet": member.subnet.to_json()}, output / MEMBERS / f"{name_of(member.subnet)}.json")
    contents = _contents(result, output)
    write_json(contents, folder / TABLE)
    measured = {member["name"] for member in contents["measured"]}
    plot_choices(
        [(member["price"], member["expected"]) for member in contents["members"] if member["name"] not in measured],
        [(member["price"], member["score"], member["standard_error"]) for member in contents["measured"]],
        folder / PLOT,
        axes={name: label for name, label in contents["axes"].items() if name in PLOTTED or name in result.search.minimise},
        measure=f"mean {result.search.source.measure.title()}",
    )
    write_page(json.loads((folder / TABLE).read_text(encoding="utf-8")), folder / PAGE, result.search.source.progress)
    return contents


def _contents(result: Result, output: Path) -> dict[str, Any]:
    search, device = result.search, result.search.device
    patches = _Patches(search)
    source, family = search.source, search.source.family()
    # Some cases may be easier than all. The finalists show by how much. Other members' scores are shifted by the same amount,
    # up to 1.
    scores_before = {member.subnet: member.score for member in result.members}
    measured = {member.subnet: member.score for member in result.measured}
    shift = fmean(measured[member.subnet] - scores_before[member.subnet] for member in result.finalists)
    # Another process may have left a case out, and only that process knows the reason
    left_out = [name for name in search.held_out.names if name not in result.cases]
    priced = [*search.minimise, *(name for name in UNITS if name not in search.minimise)]
    return {
        "format": FORMAT,
        "model": str(source.path),
        "task": NUMBER.sub("", source.describe(search.prices.family.space.largest()).task),
        "date": date.today().isoformat(),
        "measure": source.measure,
        "classes": search.classes,
        "formats": list(source.formats),
        "minimised": list(search.minimise),
        "axes": {name: UNITS[name] for name in priced if search.knows(name)},
        "budget": search.budget.limits(),
        "device": None if device is None else {"name": device.name, "held_out_error": device.held_out_error},
        "case": None if search.case is None else _case(search.case),
        "cases": {
            "some": len(search.scored_on),
            "all": len(result.cases),
            "left_out": {name: search.held_out.left_out.get(name) for name in left_out},
        },
        "seconds": result.seconds,
        "space": search.prices.family.space.size(),
        "finalists": [_entry(member, result, output, patches) for member in named(result).values()],
        "measured": [_entry(member, result, output, patches) for member in _by_cost(result.measured, search).values()],
        "members": [
            {**_entry(member, result, output, patches), "expected": measured.get(member.subnet, min(1.0, member.score + shift))}
            for member in result.members
        ],
        "stages": family.stages,
        "monitor": family.monitor,
        "closed": family.closed or {},
    }


def _case(costs: CaseCosts) -> dict[str, Any]:
    return {
        "size": str(costs.size),
        "shape": list(costs.size.shape[::-1]),
        "spacing": list(costs.size.spacing[::-1]),
        "held_out_error": costs.parts.held_out_error,
    }


def _entry(member: Scored, result: Result, output: Path, patches: _Patches) -> dict[str, Any]:
    name, counted = name_of(member.subnet), patches.count(member.subnet)
    return {
        "name": name,
        "subnet": member.subnet.to_json(),
        "score": member.score,
        "standard_error": member.standard_error,
        "cases": member.cases,
        "scores": member.scores,
        "classes": result.by_class(member),
        "price": asdict(member.price),
        **counted,
        "macs_a_case": member.price.macs * counted["patches_a_case"],
        **_command(result.search.source, output, name),
    }


class _Patches:
    """The number of patches of the median case at nnU-Net's step size, without mirroring and with mirroring along all axes."""

    def __init__(self, search: SearchSettings) -> None:
        self._search, self._known = search, dict[Any, dict[str, float]]()

    def count(self, subnet: Subnet) -> dict[str, float]:
        """The numbers for a member. They depend on its patch and grid only."""
        description = self._search.source.describe(subnet)
        grid = description.patch, description.grid  # cases are prepared once per grid
        if grid not in self._known:
            shapes, axes = self._search.held_out.shapes(self._search.scored_on, description), len(description.patch)
            plain, mirrored = (
                median(cost.tiles(shape, description.patch, mirrored=along) for shape in shapes) for along in (0, axes)
            )
            self._known[grid] = {"patches_a_case": plain, "patches_a_case_mirrored": mirrored}
        return self._known[grid]


def _command(source: Trained, output: Path, name: str) -> dict[str, Any]:
    subnet = (output / MEMBERS / f"{name}.json").resolve()
    words = ["monai-prox", "export", str(source.path.resolve()), "--subnet", str(subnet), *source.arguments]
    return {"file": str(subnet), "command": shlex.join(words)}


def front_table(scored: Sequence[tuple[str, Scored]], axes: Sequence[str], source: Trained) -> Table:
    """A table with one row per member.

    Args:
        scored: members and their names.
        axes: names of the costs, from UNITS.
        source: the trained family.
    """
    table = Table(title="Members by cost", caption=source.note)
    table.add_column("member", no_wrap=True)
    for name in axes:
        table.add_column(UNITS[name], justify="right")
    table.add_column(f"{source.measure.title()} (cases)", justify="right")
    for title, member in scored:
        error = "" if member.standard_error is None else f" ± {member.standard_error:.3f}"
        costs = [count(member.price.value(name)) for name in axes]
        table.add_row(title, *costs, f"{member.score:.4f}{error} ({member.cases})")
    return table
