"""``monai-prox demo``: from a task to a family of stock models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_prox.cli.terminal import console


def demo(
    task: Annotated[str | None, typer.Option(help="Decathlon task folder, or a task's name to download")] = None,
    work: Annotated[Path, typer.Option(help="Folder for everything the demo makes")] = Path("prox_demo"),
    trainer: Annotated[
        str | None, typer.Option(help="Any ProXTrainer variant; ProXTrainerDemo if left out", show_default=False)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default cuda if there is one")] = None,
    cases: Annotated[int, typer.Option(min=1, help="Held-out cases, at most, that members are validated on")] = 8,
    quick: Annotated[
        bool, typer.Option("--quick", help="Below a minute, without nnUNetv2_predict: shows that all works, and learns nothing")
    ] = False,
) -> None:
    """From a Decathlon task to a family of stock nnU-Net models, with a table and a plot."""
    from monai_prox.cli.demo import Demo, default_device, run_demo

    run_demo(Demo(task, work, trainer, device or default_device(), cases, quick), console)
