"""``monai-prox family``: the members that have names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from monai_prox.cli.model_argument import on_model
from monai_prox.cli.terminal import CheckpointOption, FoldOption, console, say, say_origin


@on_model
def family(
    model: Path,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the members of a trained family that have names."""
    from monai_prox.export.options import folds_of
    from monai_prox.report import choices_text, family_table, rows_of
    from monai_prox.trained.door import open_trained

    source = open_trained(model, fold=folds_of(fold or ()), checkpoint=checkpoint)
    members = source.members()
    if as_json:
        print(json.dumps([member.to_json(source.measure) for member in members], indent=2))
    else:
        rows = rows_of(members)
        console.print(family_table(rows, source.measure, source.scored, width=console.width))
        say(*choices_text(rows))
        say_origin(source, every=True)
