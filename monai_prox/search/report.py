"""What a search has found: a table, JSON, a plot, a page, and a file per member to export it by."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.table import Table

from monai_prox.core import cost
from monai_prox.core.space import Subnet
from monai_prox.files import replacing, write_json
from monai_prox.report import count, plot_choices
from monai_prox.search.budget import UNITS
from monai_prox.search.scored import Scored
from monai_prox.search.study import Result, Search
from monai_prox.trained.source import Trained

FORMAT = 2
PLOTTED = ("latency_ms", "macs", "parameters", "memory_mb")
TABLE, PLOT, PAGE, MEMBERS = "front.json", "front.png", "report.html", "members"


def name_of(subnet: Subnet) -> str:
    """The same for the same member, whatever search has found it, and another for others."""
    return f"choice-{sha256(str(subnet).encode()).hexdigest()[:8]}"


def named(result: Result) -> dict[str, Scored]:
    """The finalists by their names, from the cheapest on."""
    return _by_cost(result.finalists, result.search)


def _by_cost(scored: Sequence[Scored], search: Search) -> dict[str, Scored]:
    by_cost = sorted(scored, key=lambda one: tuple(one.price.of(name) for name in search.minimise))
    return {name_of(one.subnet): one for one in by_cost}


def report_folder(search: Search, output: Path) -> Path:
    """Below ``output`` that of one search: its costs and budget, and what tells it from searches of other settings."""
    limits = (f"{name}_{most:g}".replace("+", "") for name, most in search.budget.limits().items())
    return output / "-".join([*search.minimise, *limits, sha256(search.name.encode()).hexdigest()[:8]])


def write_report(result: Result, output: Path) -> dict[str, Any]:
    """Writes what was found into ``report_folder`` and returns what is in its front.json.

    Files by which scored members are exported go into ``output`` / MEMBERS, which all searches share.
    """
    folder = report_folder(result.search, output)
    for needed in (output / MEMBERS, folder):
        needed.mkdir(parents=True, exist_ok=True)
    for one in result.members:
        write_json({"subnet": one.subnet.to_json()}, output / MEMBERS / f"{name_of(one.subnet)}.json")
    contents = _contents(result, output)
    write_json(contents, folder / TABLE)
    measured = {one["name"] for one in contents["measured"]}
    plot_choices(
        [(one["price"], one["expected"]) for one in contents["members"] if one["name"] not in measured],
        [(one["price"], one["score"], one["standard_error"]) for one in contents["measured"]],
        folder / PLOT,
        axes={name: label for name, label in contents["axes"].items() if name in PLOTTED or name in result.search.minimise},
        measure=f"mean {result.search.source.measure.capitalize()}",
    )
    page = files("monai_prox.search").joinpath("report.html").read_text(encoding="utf-8")
    data = json.dumps(json.loads((folder / TABLE).read_text())).replace("<", "\\u003c")
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(page.replace("/* data */", data), encoding="utf-8")
    return contents


def _contents(result: Result, output: Path) -> dict[str, Any]:
    search, device = result.search, result.search.device
    patches = _Patches(search)
    source, family = search.source, search.source.family()
    # Some cases are easier than all: members that were scored on these alone are shown as much lower as the finalists came out.
    # No score is above 1
    before = {one.subnet: one.score for one in result.members}
    measured = {one.subnet: one.score for one in result.measured}
    shift = fmean(measured[one.subnet] - before[one.subnet] for one in result.finalists)
    left_out = [name for name in search.held_out.names if name not in result.cases]  # maybe by another process, which knows why
    priced = [*search.minimise, *(name for name in UNITS if name not in search.minimise)]
    return {
        "format": FORMAT,
        "model": str(source.path),
        "date": date.today().isoformat(),
        "measure": source.measure,
        "formats": list(source.formats),
        "minimised": list(search.minimise),
        "axes": {name: UNITS[name] for name in priced if name != "latency_ms" or device is not None},
        "budget": search.budget.limits(),
        "device": None if device is None else {"name": device.name, "held_out_error": device.held_out_error},
        "cases": {
            "some": len(search.scored_on),
            "all": len(result.cases),
            "left_out": {name: search.held_out.left_out.get(name) for name in left_out},
        },
        "seconds": result.seconds,
        "space": search.prices.family.space.size(),
        "finalists": [_of(one, result, output, patches) for one in named(result).values()],
        "measured": [_of(one, result, output, patches) for one in _by_cost(result.measured, search).values()],
        "members": [
            {**_of(one, result, output, patches), "expected": measured.get(one.subnet, min(1.0, one.score + shift))}
            for one in result.members
        ],
        "stages": family.stages,
        "monitor": family.monitor,
        "closed": family.closed or {},
    }


def _of(one: Scored, result: Result, output: Path, patches: _Patches) -> dict[str, Any]:
    name, counted = name_of(one.subnet), patches.of(one.subnet)
    return {
        "name": name,
        "subnet": one.subnet.to_json(),
        "score": one.score,
        "standard_error": one.standard_error,
        "cases": one.cases,
        "price": asdict(one.price),
        **counted,
        "macs_a_case": one.price.macs * counted["patches_a_case"],
        **_command(result.search.source, output, name),
    }


class _Patches:
    """What the median case costs: patches at nnU-Net's step, without mirroring and with it along all axes."""

    def __init__(self, search: Search) -> None:
        self._search, self._known = search, dict[Any, dict[str, float]]()

    def of(self, subnet: Subnet) -> dict[str, float]:
        description = self._search.source.describe(subnet)
        grid = description.patch, description.grid  # cases of another grid are prepared anew
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
    """A row per member: its costs on ``axes``, names of UNITS, and its score, with the standard error over the cases."""
    table = Table(title="Members by cost", caption=source.note)
    table.add_column("member", no_wrap=True)
    for name in axes:
        table.add_column(UNITS[name], justify="right")
    table.add_column(f"{source.measure.capitalize()} (cases)", justify="right")
    for title, one in scored:
        error = "" if one.standard_error is None else f" ± {one.standard_error:.3f}"
        costs = [count(one.price.of(name)) for name in axes]
        table.add_row(title, *costs, f"{one.score:.4f}{error} ({one.cases})")
    return table
