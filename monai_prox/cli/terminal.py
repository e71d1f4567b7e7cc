"""What commands share: the console, progress bars, options, and the family that they work on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from monai_prox.cli.completion import CHECKPOINTS, one_of
from monai_prox.errors import printable

if TYPE_CHECKING:
    from monai_prox.trained.source import Trained

console = Console()
FoldOption = Annotated[
    list[str] | None,
    typer.Option(
        "-f",
        "--fold",
        help="The fold of an nnU-Net model: a number, or all for fold_all. `family` and `export` take several, such as 0 1 2, "
        "or every for all that have a number; a file has the mean of their networks, as nnU-Net has it. By default `family` "
        "and the format nnunet take all that have finished, everything else the first of them.",
    ),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        help="The checkpoint of an nnU-Net model: final, or best or latest, e.g. of a training that has not finished. By "
        "default it is final.",
        autocompletion=one_of(CHECKPOINTS),
    ),
]


def example(arguments: str) -> str:
    """The last line of a command's help.

    Args:
        arguments: what follows ``monai-prox`` in a command that works.
    """
    return f"Example: {escape(f'monai-prox {arguments}')}"


def bars() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def say(first: str, *rest: str) -> None:
    console.print(printable(first), soft_wrap=True, highlight=False, markup=False)
    for line in rest:
        console.print(printable(line), soft_wrap=True, highlight=False, markup=False, style="dim")


def say_failed(problems: Mapping[str, str]) -> None:
    """Names what failed, with what was wrong, on standard error.

    Args:
        problems: what was wrong, by name.
    """
    if problems:
        lines = "\n".join(printable(f"{name}: {problem}") for name, problem in problems.items())
        Console(stderr=True, soft_wrap=True).print(f"[bold red]failed:[/]\n{escape(lines)}", highlight=False)


def open_family(model: Path, fold: list[str] | None, dataset: Path | None, checkpoint: str | None, what: str) -> Trained:
    """The family of one fold. what: for a refusal of several."""
    from monai_prox.export.options import folds_of, one_fold
    from monai_prox.trained.door import open_trained

    return open_trained(model, fold=one_fold(folds_of(fold or ()), what), dataset=dataset, checkpoint=checkpoint)


def say_licence(source: Trained) -> None:
    """What family.json says of the weights' licence, which holds for whatever is made of them, too."""
    if (licence := source.family().license) is not None:
        say(f"Of the family's weights it is said: {licence}")


def say_origin(source: Trained, *, every: bool = False) -> None:
    """Where a model comes from that is not the end of a training. every: of every fold."""
    if origins := source.origins(every=every):
        say(*origins)
