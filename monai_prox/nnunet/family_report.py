"""What a training leaves beside nnU-Net's own files: family.json, and the last lines of its log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_prox.report import family_text, rows_of
from monai_prox.trained.family_file import FAMILY, FamilyFile, NamedMember
from monai_prox.trained.nnunet_checkpoint import plain
from monai_prox.trained.nnunet_dataset import labels_of
from monai_prox.trained.nnunet_folder import scored_in
from monai_prox.trained.nnunet_members import dice_of, with_names


def write_family(trainer: Any, summaries: Mapping[str, Any]) -> None:
    """family.json: the named members with what they cost and, once validated, their Dice on whole cases.

    trainer: a ProXTrainer. summaries: nnU-Net's of validations, by member.
    """
    family, patch = trainer.supernet.family, trainer.configuration_manager.patch_size
    dice = {name: dice_of(summary) for name, summary in summaries.items()}
    schedule = trainer.engine.schedule
    FamilyFile(
        members=tuple(NamedMember.of(name, subnet, family, patch, dice.get(name)) for name, subnet in trainer.probes.items()),
        trainer=type(trainer).__name__,
        recipe=trainer.recipe_name,
        epochs=trainer.num_epochs,
        validated_epoch=trainer.current_epoch if summaries else None,  # as in the checkpoint that was validated
        labels=labels_of(trainer.dataset_json),
        patch_size=plain(tuple(patch)),
        mirroring=plain(trainer.inference_allowed_mirroring_axes),
        orientations=trainer.orientations,
        space=trainer.engine.final_space.to_json(),
        closed=trainer.engine.closed,
        stages=schedule.to_json(),
        progress=plain(tuple(trainer.probe_history)),
        monitor=tuple(plain(comparison.to_json()) for comparison in trainer.monitor.history),
    ).write(Path(trainer.output_folder))


def print_family(trainer: Any) -> None:
    """Ends the log with a table of the members and the next command: its last Dice would be of the member validated last."""
    rows = rows_of(with_names(FamilyFile.read(Path(trainer.output_folder, FAMILY)), trainer.dataset_json).members)
    model = shlex.quote(str(trainer.output_folder_base))
    trainer.print_to_log_file(
        family_text(rows, "dice", scored_in(f"fold_{trainer.fold}", bool(trainer.inference_allowed_mirroring_axes)))
    )
    search = "" if trainer.fold == "all" else f", or the best for a budget: monai-prox search {model}"  # on held-out cases
    trainer.print_to_log_file(
        "The checkpoint predicts as the member largest. Next, one as a model of its own: "
        f"monai-prox export {model} --subnet smallest{search}"
    )
