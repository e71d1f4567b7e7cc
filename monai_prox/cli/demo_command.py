"""``monai-prox demo``: from a task to a family of stock models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_prox.cli.terminal import console


def demo(
    task: Annotated[str | None, typer.Option(help="Decathlon task folder, or a task's name to download")] = None,
    work: Annotated[Path, typer.Option(help="Folder for everything the demo makes")] = Path("prox_demo"),
    trainer: Annotated[str, typer.Option(help="Any ProXTrainer variant")] = "ProXTrainerDemo",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default cuda if there is one")] = None,
    cases: Annotated[int, typer.Option(min=1, help="Held-out cases predicted with every exported member")] = 8,
) -> None:
    """From a Decathlon task to a family of stock nnU-Net models, with a table and a plot."""
    from monai_prox.cli.demo import Demo, default_device, run_demo

    run_demo(Demo(task, work, trainer, device or default_device(), cases), console)
