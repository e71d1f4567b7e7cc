"""``monai-prox export``: a member as a model of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monai_prox.cli.terminal import CheckpointOption, FoldOption, ModelArgument, say, say_origin
from monai_prox.errors import ProXError

if TYPE_CHECKING:
    from monai_prox.export.bundle import Exportable


def export(
    model: ModelArgument,
    subnet: Annotated[str, typer.Option(help="smallest, largest, another name of `family`, or a JSON file")],
    format: Annotated[
        str | None, typer.Option(help="nnunet, bundle, onnx, openvino or torchscript; by default what MODEL is")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder, or file of a device's format; for nnunet by default where nnU-Net looks")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there")] = False,
    fine_tune: Annotated[bool, typer.Option(help="nnunet: also put the plan beside the preprocessed data")] = False,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    any_patch: Annotated[bool, typer.Option(help="onnx, openvino: inputs of any size, for other programs; slower")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="onnx, openvino: in 8-bit integers, if that costs at most 0.01 Dice")
    ] = False,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            "--calibration",
            help="Of the training, for int8 and for a classifier's members; by default in nnUNet_raw",
        ),
    ] = None,
) -> None:
    """Cut a member out as a model that runs without this package, or as a file for a device."""
    from monai_prox.export.options import check_options, folds_of, one_fold
    from monai_prox.runtime.kinds import SEGMENTATION
    from monai_prox.trained.bundle_folder import TrainedBundle
    from monai_prox.trained.door import host_of

    from_nnunet, folds = host_of(model) == "nnunet", folds_of(fold or ())
    format = format or ("nnunet" if from_nnunet else "bundle")
    check_options(
        format,
        of_nnunet=from_nnunet,
        kind=SEGMENTATION if from_nnunet else TrainedBundle.open(model).kind,
        fine_tune=fine_tune,
        folds=folds,
        checkpoint=checkpoint is not None,
        any_patch=any_patch,
        int8=int8,
        dataset=dataset is not None,
    )
    if format == "nnunet":
        _export_nnunet(model, subnet, output, folds, checkpoint, overwrite, fine_tune)
        return
    if output is None:
        raise ProXError("give --output, the folder of the bundle, or the file to write, e.g. smallest.onnx")
    chosen = one_fold(folds, f"the format {format}")
    if format == "bundle":
        _export_bundle(model, subnet, output, overwrite, from_nnunet, chosen, checkpoint, dataset)
        return
    from monai_prox.export.device_file import export_file
    from monai_prox.trained.door import open_trained

    source = open_trained(model, fold=chosen, dataset=dataset, checkpoint=checkpoint)
    loss = export_file(source, subnet, output, format, overwrite=overwrite, any_patch=any_patch, int8=int8)
    command = f"monai-prox predict {shlex.quote(str(output))} -i INPUT -o OUTPUT"
    say(str(output), command, *([] if loss is None else [str(loss)]))
    say_origin(model, checkpoint, [chosen])


def _export_nnunet(
    model: Path,
    subnet: str,
    output: Path | None,
    folds: Sequence[str],
    checkpoint: str | None,
    overwrite: bool,
    fine_tune: bool,
) -> None:
    from monai_prox.export.nnunet import export_nnunet, is_found_by_name
    from monai_prox.trained.nnunet_folder import ModelFolder

    opened = ModelFolder.open(model, checkpoint or "final")
    folder = export_nnunet(opened, subnet, output, folds=folds, overwrite=overwrite, fine_tune=fine_tune)
    written = json.loads((folder / "plans.json").read_text())
    plans, dataset, configuration = written["plans_name"], opened.plans["dataset_name"], opened.configuration_name
    # nnU-Net asks for the folds 0 to 4 otherwise
    named = ["-f", *(fold.removeprefix("fold_") for fold in folds or opened.folds), "-i", "INPUT", "-o", "OUTPUT"]
    commands = [["nnUNetv2_predict_from_modelfolder", "-m", str(folder), *named]]
    if is_found_by_name(opened, folder, plans):
        commands.append(["nnUNetv2_predict", "-d", dataset, "-c", configuration, "-p", plans, *named])
    say(str(folder), *map(shlex.join, commands))
    say_origin(model, checkpoint, folds or opened.folds)
    data = written["configurations"][configuration]["data_identifier"]
    if fine_tune and data != opened.configuration["data_identifier"]:
        say(
            "Before fine-tuning at this resolution: "
            + shlex.join(["nnUNetv2_preprocess", "-d", dataset, "-plans_name", plans, "-c", configuration])
        )


def _export_bundle(
    model: Path,
    subnet: str,
    output: Path,
    overwrite: bool,
    from_nnunet: bool,
    fold: str | None,
    checkpoint: str | None,
    dataset: Path | None,
) -> None:
    from monai_prox.export.bundle import write_bundle

    prediction: Exportable
    if from_nnunet:
        from monai_prox.export.from_nnunet import prediction_of
        from monai_prox.trained.nnunet_folder import ModelFolder

        prediction = prediction_of(ModelFolder.open(model, checkpoint or "final"), subnet, fold)
    else:
        from monai_prox.export.from_bundle import member_of
        from monai_prox.trained.bundle_folder import TrainedBundle

        prediction = member_of(TrainedBundle.open(model), subnet, dataset)
    folder = write_bundle(prediction, output, overwrite=overwrite)
    command = "python -m monai.bundle run --config_file configs/inference.json --dataset_dir INPUT --output_dir OUTPUT"
    say(str(folder), f"cd {shlex.quote(str(folder))} && {command}")
    say_origin(model, checkpoint, [fold])
