"""``monai-prox calibrate``: what Dice the agreement of exported files lets expect."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer

from monai_prox.cli.completion import PROVIDERS, one_of
from monai_prox.cli.predict_command import ThreadsOption
from monai_prox.cli.terminal import bars, say, say_failed
from monai_prox.errors import ProXError


def calibrate(
    model: Annotated[Path, typer.Argument(help="The file whose segmentations are wanted, as for `predict`.")],
    second_opinion: Annotated[
        list[Path],
        typer.Option("-s", "--second-opinion", help="The file of another member, or of a fold. It may be given several times."),
    ],
    images: Annotated[Path, typer.Option("-i", "--input", help="A folder of images that no file was trained on.")],
    labels: Annotated[
        Path,
        typer.Option("-l", "--labels", help="The folder of their labels, case.nii.gz. Images without labels are left out."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file for `predict --calibration`.")] = Path(
        "quality.json"
    ),
    threads: ThreadsOption = None,
    provider: Annotated[
        str | None,
        typer.Option(help="What ONNX Runtime runs .onnx files on, as for `predict`.", autocompletion=one_of(PROVIDERS)),
    ] = None,
    step_size: Annotated[float, typer.Option(help="As for `predict`, which then takes the same.")] = 0.5,
    mirror: Annotated[bool, typer.Option("--mirror", help="As for `predict`, which then takes the same.")] = False,
    postprocessing: Annotated[bool, typer.Option(help="As for `predict`, which then takes the same.")] = True,
) -> None:
    """Find out what Dice to expect of a case by the agreement of exported models, on held-out cases with labels."""
    from monai_prox.files import check_writable, make_folder, write_json
    from monai_prox.runtime.calibrate import labelled_cases, scores_and_dice
    from monai_prox.runtime.calibration import Calibration, calibration_file, check_count
    from monai_prox.runtime.description import Description
    from monai_prox.runtime.model import Model
    from monai_prox.runtime.options import Options
    from monai_prox.runtime.second_opinion import SecondOpinion

    opened, *others = (Model(path, threads=threads, provider=provider) for path in (model, *second_opinion))
    description = opened.description
    if not isinstance(description, Description):
        raise ProXError(f"{model} classifies; a calibration is for networks that segment")
    seconds = tuple(SecondOpinion.of(other) for other in others)
    options = Options(step=step_size, mirror=mirror, postprocess=postprocessing, second_opinions=seconds)
    cases = labelled_cases(images, labels, description)
    check_count(len(cases))
    pairs, failed = [], {}
    progress = bars()
    every = progress.add_task("cases", total=len(cases))
    found = scores_and_dice(description, opened, cases, options)
    make_folder(output.parent)
    if output.is_dir():
        raise ProXError(f"{output} is a folder; --output is the file that is written")
    check_writable(output)
    with progress:
        for name, result in found:
            progress.advance(every)
            if isinstance(result, str):
                failed[name] = result
            else:
                pairs.append(result)
    say_failed(failed)
    scores, dice = zip(*pairs, strict=True) if pairs else ((), ())
    calibration = Calibration(scores, dice, step_size, mirror, postprocessing)
    content = calibration_file(calibration, opened, others)
    write_json(content, output)
    say(f"{output}: {len(pairs)} of {len(cases)} cases", *_lines(content["summary"]))
    if failed:
        raise typer.Exit(1)


def _lines(summary: dict[str, Any]) -> list[str]:
    rank, left_out, coverage = (summary[name] for name in ("rank_correlation", "left_out", "coverage"))
    correlation = "none, for all scores or all Dice are equal"
    if not isnan(rank["spearman"]):
        correlation = f"{rank['spearman']:.2f} ({rank['lower']:.2f} to {rank['upper']:.2f})"
    return [
        f"Spearman's rank correlation of score and Dice: {correlation}",
        f"cases left out: expected Dice is wrong by {left_out['mean_absolute_error']:.3f} on average, the mean Dice of the "
        f"others by {left_out['error_of_mean']:.3f}",
        f"{left_out['coverage']:.0%} of them are in their intervals of {coverage['nominal']:.0%}",
    ]
