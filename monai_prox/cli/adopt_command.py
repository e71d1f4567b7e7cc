"""``monai-prox adopt``: a network that is trained already becomes the largest member of a family."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from monai_prox.cli.completion import SPACES, one_of
from monai_prox.cli.model_argument import on_model, variable
from monai_prox.cli.plan_command import space_of
from monai_prox.cli.terminal import CheckpointOption, FoldOption, say

TRAINER = "ProXTrainerAdopt"


@on_model
def adopt(
    model: Path,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    space: Annotated[
        str | None,
        typer.Option(
            help='The search space: default, paper, or JSON such as {"width": [0.5, 1.0]}, or a file of it.',
            autocompletion=one_of(SPACES),
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Make a trained nnU-Net the start of a family. It prints the command that trains the family.

    The training's files are written into nnUNet_preprocessed, beside the data.
    """
    preprocessed = variable("nnUNet_preprocessed")
    asked: Any = None if space is None else space_of(space)
    from monai_prox.export.options import folds_of
    from monai_prox.nnunet.adoption import adopt as write_start
    from monai_prox.trained.nnunet_folder import ModelFolder

    folder = ModelFolder.open(model, checkpoint or "final")
    folds = folder.chosen(folds_of(fold or ()))
    adopted = write_start(folder, preprocessed, folds=folds, space=asked, overwrite=overwrite)
    say(f"{adopted.members:,} members; the largest is the network of {folder.path.name}")
    for warning in adopted.warnings:
        say(f"warning: {warning}")
    of = ["-d", adopted.dataset, "-plans_name", adopted.plans_name, "-c", adopted.configuration]
    if not adopted.preprocessed:
        say(shlex.join(["nnUNetv2_preprocess", *of]))
    for number in adopted.folds:
        train = ["nnUNetv2_train", adopted.dataset, adopted.configuration, number, "-tr", TRAINER, "-p", adopted.plans_name]
        say(shlex.join(train))
