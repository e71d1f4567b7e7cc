"""``monai-prox predict``: an exported file on images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from monai_prox.cli.completion import OUTPUTS, PROVIDERS, one_of
from monai_prox.cli.terminal import bars, say, say_failed
from monai_prox.errors import ProXError, printable

INTERRUPTED = 130  # the exit code of programs that Ctrl-C has ended
MOST_THREADS = 1_024  # with a hundred thousand ONNX Runtime starts for hours, and says nothing


ModelFileArgument = Annotated[
    Path, typer.Argument(help="The file that `export --format onnx`, openvino or torchscript has written.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_THREADS, help="The number of processor threads. By default it is all of them."),
]
ProviderOption = Annotated[
    str | None,
    typer.Option(
        help="What ONNX Runtime runs an .onnx file on: cpu, cuda, tensorrt, coreml, dml or openvino. By default it is cpu.",
        autocompletion=one_of(PROVIDERS),
    ),
]
StepOption = Annotated[float, typer.Option(help="How far apart the tiles are at most, as a part of the patch: 1 is fastest.")]
MirrorOption = Annotated[
    bool, typer.Option("--mirror", help="Average over mirror images, along the axes that the training allows: slower.")
]
PostprocessingOption = Annotated[
    bool, typer.Option(help="Keep largest components only, where nnU-Net's cross-validation has found that this helps.")
]


def predict(
    model: ModelFileArgument,
    images: Annotated[
        Path,
        typer.Option(
            "-i",
            "--input",
            help="A folder of images case_0000.nii.gz, one per channel, of DICOM series or of scans; or one image.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for case.nii.gz, case.dcm or predictions.csv.")],
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    step_size: StepOption = 0.5,
    mirror: MirrorOption = False,
    postprocessing: PostprocessingOption = True,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write case.npz and case.pkl, for nnUNetv2_ensemble.")
    ] = False,
    locate: Annotated[
        Path | None,
        typer.Option(
            help="The file of a smaller member, which looks at everything; MODEL runs only where that finds something."
        ),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="With --locate: how far around that, in mm. By default it is 20.")
    ] = None,
    specks: Annotated[
        float | None,
        typer.Option(
            help="With --locate: take parts of less than this share of the largest one's voxels for nothing. By default 0."
        ),
    ] = None,
    unsure: Annotated[
        float | None,
        typer.Option(help="With --locate: run where its two best classes are at most this apart in probability instead."),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            help="What is written of DICOM series: dicom-seg, nifti or both. By default it is dicom-seg.",
            autocompletion=one_of(OUTPUTS),
        ),
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option(
            help="Axis codes that DICOM series are turned to, such as LPS: those of the training's images. By default they are "
            "what the file says."
        ),
    ] = None,
    second_opinion: Annotated[
        list[Path] | None,
        typer.Option(
            "-s",
            "--second-opinion",
            help="The file of another member, or of a fold: how far it agrees with MODEL is a score of each case, in "
            "quality.csv. It may be given several times.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="With --second-opinion: the file of `calibrate`, by which quality.csv has the Dice to expect."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Predict cases again that OUTPUT has already.")] = True,
) -> None:
    """Segment or classify images with an exported model, without torch. Exit code 1 if one failed; the others are done."""
    from monai_prox.runtime.calibration import read_calibration
    from monai_prox.runtime.kinds import KINDS
    from monai_prox.runtime.locating import MARGIN, Locator
    from monai_prox.runtime.model import Model
    from monai_prox.runtime.options import Options
    from monai_prox.runtime.second_opinion import SecondOpinion

    locator = None
    if locate is not None:
        small = Model(locate, threads=threads, provider=provider)
        if unsure is not None and (margin is not None or specks is not None):
            raise ProXError(
                "--margin and --specks are of what is found, and --unsure runs elsewhere; give --unsure or the others"
            )
        around = MARGIN if margin is None else margin
        locator = Locator(network=small, description=small.description, margin=around, specks=specks or 0.0, unsure=unsure)
    elif margin is not None or specks is not None or unsure is not None:
        raise ProXError("--margin, --specks and --unsure are for the file that --locate names; give --locate, too")
    opened = Model(model, threads=threads, provider=provider)
    others = [Model(path, threads=threads, provider=provider) for path in second_opinion or ()]
    options = Options(
        step=step_size,
        mirror=mirror,
        postprocess=postprocessing,
        probabilities=save_probabilities,
        locator=locator,
        format=output_format,
        orientation=orientation,
        second_opinions=tuple(SecondOpinion.of(other) for other in others),
        calibration=None if calibration is None else read_calibration(calibration, opened, others),
    )
    description = opened.description
    kind = KINDS[description.kind]
    found, failed = kind.find(images, description), {}
    progress = bars()
    every, one = progress.add_task(kind.counted, total=len(found)), progress.add_task("tiles", visible=False)

    def done(name: str, tiles: int) -> None:
        if progress.tasks[one].description != printable(name):
            progress.reset(one, total=tiles, description=printable(name), visible=True)
        progress.advance(one)

    predicted = kind.predict(description, opened, found, output, options, overwrite=overwrite, done=done)
    try:
        with progress:
            for name, problem in predicted:
                progress.advance(every)
                if problem is not None:
                    failed[name] = problem
    except KeyboardInterrupt:  # Python would wait for the thread that reads ahead
        Console(stderr=True).print("Aborted.")
        os._exit(INTERRUPTED)
    say(f"{output}: {len(found) - len(failed)} of {len(found)} {kind.counted}")
    say_failed(failed)
    if failed:
        raise typer.Exit(1)
