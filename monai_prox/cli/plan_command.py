"""``monai-prox plan``: what ProXTrainer would train by an nnU-Net plan, and the entry in the plan that asks for it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monai_prox.cli.case_options import CaseShapeOption, CaseSpacingOption, MaxRamOption, MaxSecondsOption, image_size
from monai_prox.cli.completion import (
    CONFIGURATIONS,
    MEMBERS,
    PRECISIONS,
    RECIPES,
    SPACES,
    UPDATES,
    complete_dataset,
    complete_profile,
    one_of,
)
from monai_prox.cli.model_argument import CONFIGURATION, PLANS, TRAINER, dataset_name, variable
from monai_prox.cli.terminal import console, say
from monai_prox.errors import ProXError

if TYPE_CHECKING:
    from monai_prox.nnunet.plan_entry import PlannedTraining


def plan(
    dataset: Annotated[
        str,
        typer.Argument(
            help="The dataset in nnUNet_preprocessed: a number such as 4, or Dataset004_Hippocampus.",
            autocompletion=complete_dataset("nnUNet_preprocessed"),
        ),
    ],
    configuration: Annotated[
        str, typer.Option("-c", help="The configuration of the plans.", autocompletion=one_of(CONFIGURATIONS))
    ] = CONFIGURATION,
    plans: Annotated[str, typer.Option("-p", help="The plans' name.")] = PLANS,
    trainer: Annotated[
        str, typer.Option("-tr", help="The trainer, whose own settings count for what the plan does not say.")
    ] = TRAINER,
    space: Annotated[
        str | None,
        typer.Option(
            help='The search space: default, paper, or JSON such as {"width": [0.5, 1.0], "kernel": [3, 5]}, or a file of it.',
            autocompletion=one_of(SPACES),
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The recipe: prox, prox_paper, progressive_shrinking, sandwich or adopt.", autocompletion=one_of(RECIPES)
        ),
    ] = None,
    monitor: Annotated[
        bool | None, typer.Option("--monitor/--no-monitor", help="Close choices that are not worth their cost, or none.")
    ] = None,
    members_per_batch: Annotated[
        str | None,
        typer.Option(
            help="How many members each batch trains, one after another: 1 to 8, or fill, as many as an idle GPU has time for.",
            autocompletion=one_of(UPDATES),
        ),
    ] = None,
    validate: Annotated[
        list[str] | None,
        typer.Option(
            help="A member that is validated on whole cases at the end, such as smallest; largest always is. Repeat the option "
            "for several.",
            autocompletion=one_of(MEMBERS),
        ),
    ] = None,
    validate_mirroring: Annotated[
        bool | None,
        typer.Option(
            "--validate-mirroring/--no-validate-mirroring", help="Mirror in the final validation, as nnU-Net does, or not."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of the steps: fp16, which is nnU-Net's own on a GPU, or bf16.", autocompletion=one_of(PRECISIONS)),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="A device's file of `profile --untrained`: shows what a case takes there.", autocompletion=complete_profile
        ),
    ] = None,
    max_seconds: MaxSecondsOption = None,
    max_ram_gb: MaxRamOption = None,
    case_shape: CaseShapeOption = None,
    case_spacing: CaseSpacingOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put the entry that is shown into the plans file, where nnUNetv2_train finds it.")
    ] = False,
) -> None:
    """Show the members, their costs and the stages that ProXTrainer would train by a plan, and what a case takes on a device.

    The plan asks for a search space and a recipe by an entry `prox` in its configuration, which --write puts there.
    """
    asked = {
        "space": None if space is None else space_of(space),
        "recipe": recipe,
        "monitor": monitor,
        "members_per_batch": None if members_per_batch is None else number_or_name(members_per_batch),
        "validate": [*dict.fromkeys([*validate, "largest"])] if validate else None,
        "validate_mirroring": validate_mirroring,
        "precision": precision,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    if write and not asked:
        raise ProXError(
            "--write has nothing to write; give --space, --recipe, --monitor, --no-monitor, --members-per-batch, --validate, "
            "--no-validate-mirroring or --precision"
        )
    size, limits = image_size(case_shape, case_spacing), {"--max-seconds": max_seconds, "--max-ram-gb": max_ram_gb}
    of_a_case = limits | {"--case-shape": size}
    if profile is None and (named := [option for option, value in of_a_case.items() if value is not None]):
        raise ProXError(
            f"{', '.join(named)}: for a device's file; give one by --profile, see monai-prox profile pack --untrained"
        )
    folder = variable("nnUNet_preprocessed") / dataset_name(dataset)
    from monai_prox.nnunet.plan_entry import plan_training

    planned = plan_training(folder, plans, configuration, trainer, asked)
    cases = None
    if profile is not None:
        from monai_prox.cli.planned_cases import PlannedCases

        cases = PlannedCases.read(planned, profile, size, max_seconds=max_seconds, max_ram_gb=max_ram_gb)
    _show(planned, folder.name)
    if cases is not None:
        cases.show(planned.members)
    if planned.entry != (planned.former or {}):
        if write:
            planned.write()
        say(f"{'written' if write else 'with --write'}: {json.dumps(planned.entry)}")
    train = ["nnUNetv2_train", folder.name, configuration, "0", "-tr", trainer, "-p", plans]
    say("", f"Train: {shlex.join(train)}")


def number_or_name(text: str) -> int | str:
    """A value as it stands in a plan: a whole number, or else the text."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def space_of(text: str) -> Any:
    """The space as it stands in a plan: a name, or an object of a JSON text or file."""
    from monai_prox.files import parse_json, read_json

    if text.lstrip().startswith("{"):
        return parse_json(text, "--space")
    return read_json(Path(text)) if text.endswith(".json") else text


def _show(planned: PlannedTraining, dataset: str) -> None:
    from monai_prox.report import choices_text, family_table, rows_of

    validation = [*planned.validated, *(() if planned.validation_mirrors else ("without mirroring",))]
    of_batch, precision = planned.members_per_batch, planned.precision  # or the entry is refused before anything is shown
    engine, configuration = planned.engine, planned.configuration
    whole, schedule = engine.supernet.family.space, engine.schedule
    patch = " x ".join(map(str, configuration["patch_size"]))
    say(f"{dataset}, {planned.plans_file.stem}, {planned.configuration_name}: patch {patch}")
    say(f"{whole.size():,} members: {whole}")
    rows = rows_of(planned.members)
    console.print(family_table(rows, "dice", "", width=console.width))
    say(*choices_text(rows))
    say(f"Recipe {planned.recipe}, {schedule.epochs} epochs of {planned.trainer.__name__}:")
    for stage, start in zip(schedule.stages, schedule.starts, strict=True):
        size = stage.space(whole).size()
        members = "1 member" if size == 1 else f"{size:,} members"
        say(f"  {stage.name} from epoch {start}: {members}, training {stage.trained}")
    if planned.mixed_in:
        say(f"{', '.join(planned.mixed_in)} may set another number of epochs")
    monitor = engine.monitor
    if monitor is None or not any(stage.monitored for stage in schedule.stages):
        settings = "off"
    else:
        settings = f"threshold {monitor.threshold:g}, patience {monitor.patience}"
    say(f"Monitor: {settings}", f"Members a batch: {of_batch}", f"Precision: {precision}")
    say(f"Final validation: {', '.join(validation)}")
    say(f"the plan's entry: {'none' if planned.former is None else json.dumps(planned.former)}")
