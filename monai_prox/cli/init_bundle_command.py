"""``monai-prox init-bundle``: a folder made of a bundle that comes with the package."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from monai_prox.cli.completion import BUNDLES, one_of
from monai_prox.cli.terminal import say


def init_bundle(
    name: Annotated[
        str,
        typer.Argument(
            help="The bundle: brats_prox, hippocampus_prox, msd_prox or roct_prox.",
            autocompletion=one_of(BUNDLES),
            metavar="NAME",
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="The folder to make.", metavar="FOLDER")],
    task: Annotated[str | None, typer.Option(help="Of msd_prox: the task that it trains on, such as Task09_Spleen.")] = None,
) -> None:
    """Write a MONAI bundle that comes with the package: its configurations, its documents and its licence."""
    from monai_prox.bundle.shipped import init_bundle as write

    write(name, folder, task)
    say(
        str(folder),
        f"cd {shlex.quote(str(folder))} && python -m monai.bundle run --config_file configs/train.json --dataset_dir DATA",
    )
