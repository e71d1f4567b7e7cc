"""What a search has found: a table, JSON, a plot, a page, and a file per member to export it by."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.resources import files
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.table import Table

from monai_prox import cost
from monai_prox.export.source import Source
from monai_prox.files import replacing, write_json
from monai_prox.report import count, plot_choices
from monai_prox.search.budget import UNITS
from monai_prox.search.study import Result, Scored

FORMAT = 1
PLOTTED = ("latency_ms", "macs", "parameters", "memory_mb")
TABLE, PLOT, PAGE, MEMBERS = "front.json", "front.png", "report.html", "members"


def named(result: Result) -> dict[str, Scored]:
    """The finalists by the names that they get, from the cheapest on."""
    by_cost = sorted(result.finalists, key=lambda one: tuple(one.price.of(name) for name in result.search.minimise))
    return {f"choice-{number:02d}": one for number, one in enumerate(by_cost, 1)}


def write_report(result: Result, output: Path) -> dict[str, Any]:
    """Writes everything into the folder ``output`` and returns what is in its front.json."""
    (output / MEMBERS).mkdir(parents=True, exist_ok=True)
    finalists = named(result)
    for old in (output / MEMBERS).glob("choice-*.json"):
        if old.stem not in finalists:
            old.unlink(missing_ok=True)  # another process may be writing, too
    for name, one in finalists.items():
        write_json({"subnet": one.subnet.to_json()}, output / MEMBERS / f"{name}.json")
    contents = _contents(result, finalists, output)
    write_json(contents, output / TABLE)
    plot_choices(
        [(one["price"], one["expected"]) for one in contents["members"]],
        [(one["price"], one["score"], one["standard_error"]) for one in contents["finalists"]],
        output / PLOT,
        axes={name: label for name, label in contents["axes"].items() if name in PLOTTED or name in result.search.minimise},
        measure=f"mean {result.search.source.measure.capitalize()}",
    )
    page = files("monai_prox.search").joinpath("report.html").read_text(encoding="utf-8")
    data = json.dumps(json.loads((output / TABLE).read_text())).replace("<", "\\u003c")
    with replacing(output / PAGE) as temporary:
        temporary.write_text(page.replace("/* data */", data), encoding="utf-8")
    return contents


def _contents(result: Result, finalists: dict[str, Scored], output: Path) -> dict[str, Any]:
    search, device = result.search, result.search.device
    source, family = search.source, search.source.family()
    # Some cases are easier than all: members that were scored on these alone are shown as much lower as the finalists came out
    before = {one.subnet: one.score for one in result.members}
    shift = fmean(one.score - before[one.subnet] for one in result.finalists)
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
        "cases": {"some": len(search.subset), "all": len(search.held_out.names)},
        "seconds": result.seconds,
        "space": search.prices.family.space.size(),
        "finalists": [
            {"name": name, **_of(one), **_whole(result, one), **_command(source, output, name)}
            for name, one in finalists.items()
        ],
        "members": [{**_of(one), "expected": one.score + shift} for one in result.members],
        "stages": family.get("stages", []),
        "monitor": family.get("monitor", []),
        "closed": family.get("closed", {}),
    }


def _of(one: Scored) -> dict[str, Any]:
    return {
        "subnet": one.subnet.to_json(),
        "score": one.score,
        "standard_error": one.standard_error,
        "cases": one.cases,
        "price": asdict(one.price),
    }


def _whole(result: Result, one: Scored) -> dict[str, Any]:
    """What the median case costs: patches at nnU-Net's step, without mirroring and with it along all axes."""
    search = result.search
    description = search.source.describe("member", one.subnet)
    shapes = search.held_out.shapes(search.subset, description)
    plain, mirrored = (
        median(cost.tiles(shape, description.patch, mirrored=axes) for shape in shapes) for axes in (0, len(description.patch))
    )
    return {"patches_a_case": plain, "patches_a_case_mirrored": mirrored, "macs_a_case": one.price.macs * plain}


def _command(source: Source, output: Path, name: str) -> dict[str, Any]:
    subnet = (output / MEMBERS / f"{name}.json").resolve()
    words = ["monai-prox", "export", str(source.path.resolve()), "--subnet", str(subnet), *source.arguments]
    return {"file": str(subnet), "command": shlex.join(words)}


def front_table(scored: Sequence[tuple[str, Scored]], axes: Sequence[str], measure: str) -> Table:
    """A row per member: its costs on ``axes``, names of UNITS, and its score, with the standard error over the cases."""
    table = Table(title="Members by cost")
    table.add_column("member", no_wrap=True)
    for name in axes:
        table.add_column(UNITS[name], justify="right")
    table.add_column(f"{measure.capitalize()} (cases)", justify="right")
    for title, one in scored:
        error = "" if one.standard_error is None else f" ± {one.standard_error:.3f}"
        costs = [count(one.price.of(name)) for name in axes]
        table.add_row(title, *costs, f"{one.score:.4f}{error} ({one.cases})")
    return table
