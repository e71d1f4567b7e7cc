"""The claims of the documents, and what they rest on.

python -m benchmarks list
python -m benchmarks show four-dimensions
python -m benchmarks run four-dimensions --data FOLDER_OF_DECATHLON_TASKS --work FOLDER
python -m benchmarks check
"""

from __future__ import annotations

import os
import subprocess
import sys
from math import nan
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import records
from benchmarks.documents import documents, rewritten
from benchmarks.quantities import Quantities, quantities, terminal
from benchmarks.registry import RESULTS, Claim, Figure, read_claims

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)
console = Console(width=None if sys.stdout.isatty() else 160)
Id = Annotated[str, typer.Argument(metavar="CLAIM", help="its id, see list")]


def claim_of(name: str) -> Claim:
    claims = read_claims()
    if name not in claims:
        raise typer.BadParameter(f"there is no claim {name!r}; there are {', '.join(claims)}")
    return claims[name]


def value_of(figure: Figure, found: Quantities) -> float:
    """NaN where the results lack it, as those of a contender whose package is not installed."""
    try:
        return figure.measured(found)
    except KeyError:
        return nan


def figures(claim: Claim, found: Quantities) -> tuple[Table, bool]:
    """Figures as expected and as measured, and whether all of them hold."""
    table, all_hold = Table("figure", "metric", "expected", "measured", "holds"), True
    for name, figure in claim.figures.items():
        value = value_of(figure, found)
        expected = f"{figure.written(figure.expected)} ± {figure.tolerance:g}"
        table.add_row(name, escape(figure.metric), expected, figure.written(value), "yes" if figure.holds(value) else "no")
        all_hold &= figure.holds(value)
    return table, all_hold


@app.command("list")
def list_claims() -> None:
    """Shows all claims, and how long each takes to measure."""
    table = Table("claim", "hours", "sentence")
    for claim in read_claims().values():
        table.add_row(claim.id, f"{claim.hours:g}", claim.sentence)
    console.print(table)


@app.command()
def show(name: Id) -> None:
    """Shows what a claim rests on: its commands, machines, results and figures."""
    claim = claim_of(name)
    console.print(claim.sentence, *(f"  {command}" for command in claim.commands), sep="\n", soft_wrap=True, markup=False)
    machines = dict.fromkeys(
        (run["date"], run["machine"], f"torch {run['versions']['torch']}", run["commit"]) for run in claim.runs
    )
    for machine in machines:
        console.print(", ".join(map(str, machine)), soft_wrap=True, highlight=False)
    console.print(terminal(claim.found, claim.columns))
    if claim.figures:
        console.print(figures(claim, claim.found)[0])


@app.command()
def run(
    name: Id,
    work: Annotated[Path, typer.Option(help="A folder for the results and all that is made on the way.")],
    data: Annotated[
        Path, typer.Option(envvar="MONAI_PROX_DATA", help="The folder that contains the Decathlon tasks.")
    ] = Path(),
    smoke: Annotated[bool, typer.Option("--smoke", help="Takes minutes, and its figures mean nothing.")] = False,
) -> None:
    """Measures a claim again, and compares. An interrupted run goes on where it stopped."""
    claim = claim_of(name)
    work = work.resolve() / "smoke" if smoke else work.resolve()  # of its own, for the tasks that it makes are smaller
    results = work / "results"
    folders = {"data": data.resolve(), "work": work, "results": results}
    work.mkdir(parents=True, exist_ok=True)
    path = filter(None, [str(RESULTS.parents[1]), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    for command in claim.command_lines(smoke=smoke, **folders):
        console.print("+", " ".join(command), soft_wrap=True, markup=False)
        program, *options = command
        start = {"python": [sys.executable], "monai-prox": [sys.executable, "-m", "monai_prox"]}[program]
        done = subprocess.run([*start, *options], env=environment, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
    found = quantities(records.read(results))
    console.print(terminal(found, claim.columns))
    if not smoke:
        table, all_hold = figures(claim, found)
        console.print(table)
        raise SystemExit(0 if all_hold else 1)


@app.command()
def check(
    write: Annotated[bool, typer.Option("--write", help="Writes what differs into the documents.")] = False,
) -> None:
    """Recomputes every figure and table from the committed results, and fails where a document says something else."""
    claims = read_claims()
    folders = [folder for folder in sorted(RESULTS.iterdir()) if not folder.name.startswith(".")]
    wrong = [f"results of no claim: {folder}" for folder in folders if folder.name not in claims]
    for claim in claims.values():
        if not claim.runs:
            wrong.append(f"{claim.id} has no results")
            continue
        for name, figure in claim.figures.items():
            measured, expected = figure.written(value_of(figure, claim.found)), figure.written(figure.expected)
            if measured != expected:
                wrong.append(f"{claim.id}.{name} is {measured}, and claims.toml expects {expected}")
    for document in documents():
        text, ends = document.read_text(encoding="utf-8"), "\r\n" if b"\r\n" in document.read_bytes() else "\n"
        try:
            right = rewritten(text, claims)
        except (KeyError, ValueError) as error:
            wrong.append(f"{document}: {error.args[0]}")
            continue
        if text != right:
            if write:
                document.write_text(right, encoding="utf-8", newline=ends)
            else:
                wrong.append(f"{document}: differs from the results; python -m benchmarks check --write")
    for line in wrong:
        console.print(line, soft_wrap=True, markup=False)
    if wrong:
        raise SystemExit(1)
    number = sum(len(claim.figures) for claim in claims.values())
    console.print(f"{number} figures of {len(claims)} claims are those of the results, in all documents as well")


if __name__ == "__main__":
    app()
