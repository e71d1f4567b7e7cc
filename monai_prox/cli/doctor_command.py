"""``monai-prox doctor`` and ``trainers``: what is missing, and where the trainers are."""

from __future__ import annotations

import typer
from rich.markup import escape

from monai_prox.cli.terminal import console


def doctor() -> None:
    """Say what is installed and what is missing: versions, extras, nnU-Net's variables, the trainer, devices.

    The exit code is 1 if anything is missing, other than an extra, which only some commands need.
    """
    from monai_prox.cli.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "[green]ok[/]     " if finding.good else "optional" if finding.optional else "[bold red]missing[/]"
        console.print(f"{mark}  {finding.what:<28} {escape(finding.detail)}", highlight=False, soft_wrap=True)
    if not all(finding.good or finding.optional for finding in findings):
        raise typer.Exit(1)


def trainers() -> None:
    """Print the folder to set nnUNet_extTrainer to, where nnU-Net does not find ProXTrainer by itself."""
    from monai_prox.cli.doctor import trainers_folder

    print(trainers_folder())
