"""``monai-prox export``: a member as a model of its own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monai_prox.cli.completion import FORMATS, MEMBERS, one_of
from monai_prox.cli.model_argument import on_model
from monai_prox.cli.terminal import CheckpointOption, FoldOption, say, say_licence, say_origin
from monai_prox.errors import ProXError

if TYPE_CHECKING:
    from monai_prox.trained.source import Trained


@on_model
def export(
    model: Path,
    *,
    subnet: Annotated[
        str | None,
        typer.Option(
            help="The member: smallest, largest, another name that `family` lists, or a JSON file with a subnet. A stock "
            "nnU-Net model has one, which need not be named.",
            autocompletion=one_of(MEMBERS),
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="What the member becomes: nnunet, bundle, onnx, openvino, torchscript, html. By default it is what MODEL is.",
            autocompletion=one_of(FORMATS),
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The folder to write, or the file of a device's format. For nnunet it is by default where nnU-Net looks.",
        ),
    ] = None,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    fine_tune: Annotated[bool, typer.Option(help="For nnunet: also put the plan beside the preprocessed data.")] = False,
    any_patch: Annotated[
        bool, typer.Option(help="For onnx and openvino: take inputs of any size, as other programs need. This is slower.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="For onnx and openvino: write 8-bit integers, if that costs at most 0.01 Dice.")
    ] = False,
    half: Annotated[
        bool, typer.Option("--half", help="For onnx and openvino: write float16, half as large, and faster on some devices.")
    ] = False,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="For files for devices: write no transposed convolutions, which some runtimes lack.",
        ),
    ] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            help="For html: the folder dist of the npm package onnxruntime-web. By default the package is downloaded once.",
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            "--calibration",
            help="The training's images and labels, for --int8 and classifiers. By default they are in nnUNet_raw.",
        ),
    ] = None,
) -> None:
    """Cut a member out as a model that runs without this package, or as a file for a device."""
    from monai_prox.export.options import check_options, folds_of
    from monai_prox.trained.door import open_trained

    folds = folds_of(fold or ())
    source = open_trained(model, fold=folds, dataset=dataset, checkpoint=checkpoint)
    format = format or source.formats[0]
    check_options(
        format,
        source,
        fine_tune=fine_tune,
        folds=folds,
        any_patch=any_patch,
        int8=int8,
        half=half,
        portable=portable,
        onnxruntime_web=onnxruntime_web is not None,
        dataset=dataset is not None,
    )
    subnet = subnet or _only_member(source)
    if format == "nnunet":
        _export_nnunet(source, subnet, output, overwrite, fine_tune)
        return
    if output is None:
        raise ProXError("give --output, the folder of the bundle, or the file to write, e.g. smallest.onnx")
    if format == "bundle":
        _export_bundle(source, subnet, output, overwrite)
    else:
        options = {"any_patch": any_patch, "int8": int8, "half": half, "portable": portable}
        _export_file(source, subnet, output, format, overwrite=overwrite, onnxruntime_web=onnxruntime_web, **options)
    say_licence(source)
    say_origin(source)


def _only_member(source: Trained) -> str:
    names = [member.name for member in source.members()]
    if len(names) != 1:
        raise ProXError(f"give --subnet, the member to export: {', '.join(names)}, or the path of a JSON file")
    return names[0]


def _export_nnunet(source: Trained, subnet: str, output: Path | None, overwrite: bool, fine_tune: bool) -> None:
    from monai_prox.export.nnunet import export_nnunet, how_to_predict, how_to_preprocess
    from monai_prox.trained.nnunet_source import TrainedNNUNet

    assert isinstance(source, TrainedNNUNet)
    folder = export_nnunet(source, subnet, output, overwrite=overwrite, fine_tune=fine_tune)
    say(str(folder), *map(shlex.join, how_to_predict(source, folder)))
    say_licence(source)
    say_origin(source, every=True)
    if fine_tune and (command := how_to_preprocess(source, folder)):
        say(f"Before fine-tuning at this resolution: {shlex.join(command)}")


def _export_bundle(source: Trained, subnet: str, output: Path, overwrite: bool) -> None:
    from monai_prox.export.exportable import write_member

    folder = write_member(source, subnet, output, overwrite=overwrite)
    command = "python -m monai.bundle run --config_file configs/inference.json --dataset_dir INPUT --output_dir OUTPUT"
    say(str(folder), f"cd {shlex.quote(str(folder))} && {command}")


def _export_file(source: Trained, subnet: str, output: Path, format: str, **options: Any) -> None:
    from monai_prox.export.device_file import export_file

    loss = export_file(source, subnet, output, format, **options)
    predict = f"monai-prox predict {shlex.quote(str(output))} -i INPUT -o OUTPUT"
    say(str(output), "Open it in a browser." if format == "html" else predict, *([] if loss is None else [str(loss)]))
