"""What a training leaves beside nnU-Net's own files: family.json, and the last lines of its log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_json

from monai_prox.errors import ProXError
from monai_prox.nnunet.member_surfaces import validated_surface_dice
from monai_prox.report import family_text, plot_progress, rows_of
from monai_prox.trained.family_file import FAMILY, FamilyFile, NamedMember, Scores
from monai_prox.trained.nnunet_checkpoint import plain
from monai_prox.trained.nnunet_dataset import labels_of
from monai_prox.trained.nnunet_folder import scored_in
from monai_prox.trained.nnunet_members import dice_of, with_names
from monai_prox.training.monitor import verdicts_of


def write_family(
    trainer: Any, summaries: Mapping[str, Any], surfaces: Mapping[str, Scores] | None = None, license: str | None = None
) -> None:
    """family.json: the named members with what they cost and, once validated, their Dice on whole cases.

    trainer: a ProXTrainer. summaries: nnU-Net's of validations, by member. surfaces: surface Dice by nnU-Net's keys for labels.
    license: what was said of these weights before.
    """
    surfaces = surfaces or {}
    family, patch = trainer.supernet.family, trainer.configuration_manager.patch_size
    dice = {name: dice_of(summary) for name, summary in summaries.items()}
    engine, named = trainer.engine, trainer.named_members.items()
    FamilyFile(
        members=tuple(
            NamedMember.of(name, subnet, family, patch, dice.get(name), surfaces.get(name)) for name, subnet in named
        ),
        trainer=type(trainer).__name__,
        recipe=trainer.recipe_name,
        epochs=trainer.num_epochs,
        validated_epoch=trainer.current_epoch if summaries else None,  # as in the checkpoint that was validated
        surface_tolerance_mm=trainer.surface_tolerance if surfaces else None,
        labels=labels_of(trainer.dataset_json),
        patch_size=plain(tuple(patch)),
        mirroring=plain(trainer.final_validation.axes),
        orientations=trainer.orientations,
        space=engine.final_space.to_json(),
        closed=engine.closed,
        stages=engine.schedule.to_json(),
        progress=plain(tuple(trainer.progress)),
        monitor=tuple(plain(comparison.to_json()) for comparison in engine.comparisons),
        license=license,
    ).write(Path(trainer.output_folder))


def print_family(trainer: Any) -> None:
    """Ends the log with a table of the members and the next command: its last Dice would be of the member validated last."""
    family = with_names(FamilyFile.read(Path(trainer.output_folder, FAMILY)), trainer.dataset_json)
    model = shlex.quote(str(trainer.output_folder_base))
    scored = scored_in(f"fold_{trainer.fold}", bool(family.mirroring), family.surface_tolerance_mm)
    trainer.print_to_log_file(family_text(rows_of(family.members), "dice", scored))
    search = "" if trainer.fold == "all" else f", or the best for a budget: monai-prox search {model}"  # on held-out cases
    trainer.print_to_log_file(
        "The checkpoint predicts as the member largest. Next, one as a model of its own: "
        f"monai-prox export {model} --subnet smallest{search}"
    )


def report_validated(trainer: Any) -> None:
    """family.json with the Dice and surface Dice of nnU-Net's validations, and a table. Other members have no Dice."""
    folders = {name: Path(trainer.output_folder, "members", name) for name in trainer.final_validation.members}
    folders["largest"] = Path(trainer.output_folder)
    summaries = {name: folder / "validation" / "summary.json" for name, folder in folders.items()}
    if all(file.is_file() for file in summaries.values()):  # nnU-Net's benchmark variants validate nothing
        loaded = {name: load_json(str(file)) for name, file in summaries.items()}
        license = _licence_said(Path(trainer.output_folder, FAMILY))
        write_family(trainer, loaded, license=license)  # should measuring surfaces, which takes longer, be interrupted
        surfaces = {name: validated_surface_dice(trainer, summary) for name, summary in loaded.items()}
        write_family(trainer, loaded, surfaces, license)
        print_family(trainer)


def _licence_said(path: Path) -> str | None:
    """What a family.json says of the weights, which ``--val`` does not change. A training has written one without it before."""
    with suppress(ProXError):  # it is written anew, whatever it is
        return FamilyFile.read(path).license if path.is_file() else None
    return None


def plot_training(trainer: Any) -> None:
    """prox_progress.png: the named members' pseudo Dice over epochs, once there is any."""
    if trainer.progress:
        engine, path = trainer.engine, Path(trainer.output_folder, "prox_progress.png")
        verdicts = verdicts_of(engine.comparisons)
        plot_progress(trainer.progress, engine.schedule, path, measure="pseudo Dice", verdicts=verdicts)
