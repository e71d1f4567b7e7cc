"""``monai-prox adopt``: a network that is trained already becomes the largest member of a family."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from monai_prox.cli.completion import SPACES, one_of
from monai_prox.cli.model_argument import on_model, variable
from monai_prox.cli.overlay_command import voxels, write_overlay
from monai_prox.cli.plan_command import space_of
from monai_prox.cli.terminal import CheckpointOption, FoldOption, say
from monai_prox.errors import ProXError

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
    weights: Annotated[
        Path | None, typer.Option(help="The weights of a MONAI bundle's network. By default they are in models/model.pt.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Voxels of a patch of a MONAI bundle, such as 96,96,96. By default the bundle says it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Make a trained network the start of a family, and print the command that trains it.

    For nnU-Net, files are written into nnUNet_preprocessed, beside the data. A MONAI bundle gets configs/prox.json.
    """
    asked: Any = None if space is None else space_of(space)
    if (model / "configs").is_dir():
        if fold or checkpoint:
            raise ProXError(
                f"--fold and --checkpoint are for nnU-Net's models, and {model} is a MONAI bundle; --weights names a file"
            )
        _adopt_bundle(model, asked, weights, size, overwrite=overwrite)
    elif weights is not None or size is not None:
        raise ProXError(f"--weights and --size are for MONAI bundles, and {model} has no folder configs")
    else:
        _adopt_nnunet(model, fold or [], checkpoint, asked, overwrite=overwrite)


def _adopt_nnunet(model: Path, fold: list[str], checkpoint: str | None, space: Any, *, overwrite: bool) -> None:
    preprocessed = variable("nnUNet_preprocessed")
    from monai_prox.export.options import folds_of
    from monai_prox.nnunet.adoption import adopt as write_start
    from monai_prox.trained.nnunet_folder import ModelFolder

    folder = ModelFolder.open(model, checkpoint or "final")
    adopted = write_start(folder, preprocessed, folds=folder.chosen(folds_of(fold)), space=space, overwrite=overwrite)
    say(f"{adopted.members:,} members; the largest is the network of {folder.path.name}")
    for warning in adopted.warnings:
        say(f"warning: {warning}")
    if not adopted.preprocessed:
        of = ["-d", adopted.dataset, "-plans_name", adopted.plans_name, "-c", adopted.configuration]
        say(shlex.join(["nnUNetv2_preprocess", *of]))
    for number in adopted.folds:
        train = ["nnUNetv2_train", adopted.dataset, adopted.configuration, number, "-tr", TRAINER, "-p", adopted.plans_name]
        say(shlex.join(train))


def _adopt_bundle(bundle: Path, space: Any, weights: Path | None, size: str | None, *, overwrite: bool) -> None:
    from monai_prox.bundle.checkpoints import weights_of
    from monai_prox.bundle.overlay import GIVEN, family_of, make_overlay
    from monai_prox.core.supernet import without_weights
    from monai_prox.files import make_folder
    from monai_prox.tensor_file import write_tensors
    from monai_prox.trained.pipeline_config import OVERLAY, PipelineConfig

    pipeline = PipelineConfig.read(bundle, None)
    content = make_overlay(pipeline, size=voxels(size), space=space or "default", recipe="adopt", adopts=True)
    try:
        network = without_weights(family_of(pipeline, content)[0]).network
    except LookupError as unknown:
        raise ProXError(
            f"{pipeline.source}: what the network is like is known when it runs, because of {unknown}; adopted are networks "
            "whose arguments are plain values, or references to such"
        ) from None
    kept, overlay = bundle / GIVEN, bundle / "configs" / OVERLAY
    if there := [path for path in (kept, overlay) if path.exists() and not overwrite]:
        raise ProXError(f"{there[0]} exists; --overwrite replaces it")
    # A training writes the family's largest member into model.pt, so what was given before is still the given network
    usual = bundle / "models" / "model.pt"
    again = weights is None and kept.exists()
    given = weights_of(weights or (kept if again else usual), network)
    make_folder(kept.parent)
    new = not kept.exists()
    write_tensors(given, kept)
    try:
        write_overlay(bundle, pipeline, content, overwrite=overwrite)
    except BaseException:
        if new:
            kept.unlink()
        raise
    if again:
        say(f"weights: {kept}, those of the adoption before; --weights {usual} takes others")
