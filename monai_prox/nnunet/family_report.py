"""What a training leaves beside nnU-Net's own files: family.json, and the last lines of its log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_json

from monai_prox.files import write_json
from monai_prox.report import Row, describe_choices, family_text, plot_progress
from monai_prox.trained.family_file import FAMILY
from monai_prox.trained.nnunet_checkpoint import plain
from monai_prox.trained.nnunet_dataset import named_scores
from monai_prox.trained.nnunet_folder import scored_in
from monai_prox.trained.nnunet_members import dice_of, listed
from monai_prox.training.monitor import verdicts_of


def write_family(trainer: Any, summaries: Mapping[str, Any]) -> None:
    """family.json: the named members with what they cost and, once validated, their Dice on whole cases.

    trainer: a ProXTrainer. summaries: nnU-Net's of validations, by member.
    """
    patch = trainer.configuration_manager.patch_size
    members = [
        member | ({"dice": dice_of(summaries[member["name"]])} if member["name"] in summaries else {})
        for member in listed(trainer.supernet.family, trainer.named_members, patch)
    ]
    family = {
        "format": 1,
        "trainer": type(trainer).__name__,
        "recipe": trainer.recipe_name,
        "epochs": trainer.num_epochs,
        "validated_epoch": trainer.current_epoch if summaries else None,  # as in the checkpoint that was validated
        "patch_size": list(patch),
        "mirroring": trainer.inference_allowed_mirroring_axes,
        "orientations": trainer.orientations,
        "space": trainer.engine.final_space.to_json(),
        "closed": trainer.engine.closed,
        "stages": [
            stage.to_json() | {"first_epoch": start}
            for stage, start in zip(trainer.engine.schedule.stages, trainer.engine.schedule.starts, strict=True)
        ],
        "members": members,
        "probes": trainer.progress,
        "monitor": [comparison.to_json() for comparison in trainer.engine.comparisons],
    }
    write_json(plain(family), Path(trainer.output_folder, FAMILY))


def print_family(trainer: Any) -> None:
    """Ends the log with a table of the members and the next command: its last Dice would be of the member validated last."""
    members = load_json(str(Path(trainer.output_folder, FAMILY)))["members"]
    rows = [
        Row(
            m["name"],
            m["parameters"],
            m["macs"],
            named_scores(m["dice"], trainer.dataset_json),
            choices=describe_choices(m["subnet"]),
        )
        for m in members
    ]
    model = shlex.quote(str(trainer.output_folder_base))
    trainer.print_to_log_file(
        family_text(rows, "dice", scored_in(f"fold_{trainer.fold}", bool(trainer.inference_allowed_mirroring_axes)))
    )
    search = "" if trainer.fold == "all" else f", or the best for a budget: monai-prox search {model}"  # on held-out cases
    trainer.print_to_log_file(
        "The checkpoint predicts as the member largest. Next, one as a model of its own: "
        f"monai-prox export {model} --subnet smallest{search}"
    )


def report_validated(trainer: Any) -> None:
    """family.json with the Dice of nnU-Net's validations, and a table of it, if all named members have been validated."""
    folders = {name: Path(trainer.output_folder, "members", name) for name in trainer.named_members}
    folders["largest"] = Path(trainer.output_folder)
    summaries = {name: folder / "validation" / "summary.json" for name, folder in folders.items()}
    if all(file.is_file() for file in summaries.values()):  # nnU-Net's benchmark variants validate nothing
        write_family(trainer, {name: load_json(str(file)) for name, file in summaries.items()})
        print_family(trainer)


def plot_training(trainer: Any) -> None:
    """prox_progress.png: the named members' pseudo Dice over epochs, once there is any."""
    if trainer.progress:
        engine, path = trainer.engine, Path(trainer.output_folder, "prox_progress.png")
        verdicts = verdicts_of(engine.comparisons)
        plot_progress(trainer.progress, engine.schedule, path, measure="pseudo Dice", verdicts=verdicts)
