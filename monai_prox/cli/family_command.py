"""``monai-prox family``: the members that have names."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from monai_prox.cli.terminal import CheckpointOption, ModelArgument, console, say, say_origin
from monai_prox.errors import ProXError


def family(
    model: ModelArgument,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
    checkpoint: CheckpointOption = None,
) -> None:
    """List the members of a trained family that have names."""
    from monai_prox.report import Row, choices_text, describe_choices, family_table
    from monai_prox.trained.door import host_of

    if host_of(model) == "monai":
        from monai_prox.trained.bundle_folder import TrainedBundle

        if checkpoint is not None:
            raise ProXError("--checkpoint is for nnU-Net's model folders; a bundle has one model")
        opened = TrainedBundle.open(model)
        members, measure, scored = opened.family()["members"], opened.measure, opened.scored
    else:
        from monai_prox.trained.nnunet_folder import ModelFolder

        folder = ModelFolder.open(model, checkpoint or "final")
        members, measure, scored = folder.family()["members"], "dice", folder.scored
    if as_json:
        print(json.dumps(members, indent=2))
    else:
        rows = [
            Row(m["name"], m["parameters"], m["macs"], m[measure] or {}, choices=describe_choices(m["subnet"])) for m in members
        ]
        console.print(family_table(rows, measure, scored))
        say(*choices_text(rows))
        if checkpoint is not None:
            say_origin(model, checkpoint, folder.folds)
