"""``monai-prox demo``: from a task to a family of stock models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_prox.cli.completion import DEVICES, one_of
from monai_prox.cli.terminal import console


def demo(
    task: Annotated[
        str | None,
        typer.Option(help="The folder of a Decathlon task, or the name of one to download. By default images are synthetic."),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", "--work", help="The folder for everything that the demo makes.")
    ] = Path("prox_demo"),
    trainer: Annotated[
        str | None, typer.Option(help="A ProXTrainer. By default it is ProXTrainerDemo.", show_default=False)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="The device of torch: cpu, cuda or mps. By default it is the GPU if there is one.",
            autocompletion=one_of(DEVICES),
        ),
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="The most held-out cases that members are validated and timed on.")] = 8,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Show in less than a minute that all works. Nothing is learned, and nnUNetv2_predict is not run."
        ),
    ] = False,
) -> None:
    """From a Decathlon task to a family of stock nnU-Net models, with a table and a plot."""
    from monai_prox.cli.demo import Demo, default_device, run_demo

    run_demo(Demo(task, output, trainer, device or default_device(), cases, quick), console)
