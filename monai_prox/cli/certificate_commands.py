"""``monai-prox certify`` and ``verify``: how good and how fast an exported file was, inside it, and whether it is so here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from monai_prox.cli.predict_command import (
    MOST_THREADS,
    MirrorOption,
    ModelFileArgument,
    PostprocessingOption,
    ProviderOption,
    StepOption,
    ThreadsOption,
)
from monai_prox.cli.terminal import bars, console, say, say_failed
from monai_prox.errors import ProXError, printable
from monai_prox.files import check_writable

if TYPE_CHECKING:
    from monai_prox.certificate.comparison import Row
    from monai_prox.certificate.record import Certificate, Settings

ImagesOption = Annotated[
    Path, typer.Option("-i", "--images", help="A folder of images, as `predict` takes them, or one image.")
]
LabelsOption = Annotated[
    Path | None, typer.Option("-l", "--labels", help="The folder of their labels, case.nii.gz for each case, for Dice.")
]
RepeatsOption = Annotated[int, typer.Option(min=1, max=100, help="How often each case is predicted, so that noise is known.")]


def certify(
    model: ModelFileArgument,
    images: ImagesOption,
    labels: LabelsOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    step_size: StepOption = 0.5,
    mirror: MirrorOption = False,
    postprocessing: PostprocessingOption = True,
    repeats: RepeatsOption = 3,
    overwrite: Annotated[bool, typer.Option(help="Replace the certificate that the file has.")] = False,
) -> None:
    """Measure Dice, seconds and memory of an exported file, and write them into it. Exit code 1 if a case failed.

    Nothing else in the file changes. Names of cases and of the machine are not written.
    """
    from monai_prox.certificate.comparison import summary
    from monai_prox.certificate.measurement import available_threads
    from monai_prox.certificate.record import Settings, has_certificate, write_certificate
    from monai_prox.runtime.model import check_model_file

    settings = Settings(step=step_size, mirror=mirror, postprocess=postprocessing)
    check_model_file(model)
    if has_certificate(model) and not overwrite:
        raise ProXError(f"{model} has a certificate; give --overwrite to replace it, or compare with it: monai-prox verify")
    if not os.access(model, os.W_OK):
        raise ProXError(f"{model} is read-only, so no certificate can be written into it; make it writable")
    check_writable(model.resolve())
    threads = threads or available_threads()
    measured, failed = _measure(model, images, labels, settings, threads, provider, repeats, written=True)
    write_certificate(measured, model)
    _show(summary(measured), compared=False)
    say(f"{model}: certified, {len(measured.cases)} of {len(measured.cases) + len(failed)} cases", *_about(measured))
    _end(failed)


def verify(
    model: ModelFileArgument,
    images: ImagesOption,
    labels: LabelsOption = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_THREADS,
            help="The number of processor threads. By default it is that of the certificate, or all of them.",
        ),
    ] = None,
    provider: ProviderOption = None,
    repeats: RepeatsOption = 3,
    strict: Annotated[bool, typer.Option("--strict", help="Also fail if seconds or memory differ.")] = False,
) -> None:
    """Measure an exported file again, and say which differences from its certificate are within the noise.

    The options of the prediction are those of the certificate. The exit code is 1 if Dice or segmentations differ, or if a case
    failed.
    """
    from monai_prox.certificate.comparison import compare, summary
    from monai_prox.certificate.measurement import available_threads
    from monai_prox.certificate.record import Settings, read_certificate
    from monai_prox.runtime.model import check_model_file

    check_model_file(model)
    certificate = read_certificate(model)
    settings = Settings() if certificate is None else certificate.settings
    most = available_threads()
    threads = threads or (most if certificate is None else min(certificate.machine.threads, most))
    measured, failed = _measure(model, images, labels, settings, threads, provider, repeats)
    if certificate is None:
        _show(summary(measured), compared=False)
        said = f"{model} has no certificate, so there is nothing to compare with; monai-prox certify writes one"
        say(said, *_about(measured))
        _end(failed)
        return
    comparison = compare(certificate, measured)
    _show(comparison.rows, compared=True)
    other = certificate.machine.differences(measured.machine)
    others = f"differs in {', '.join(other)}" if other else "the same"
    say(
        comparison.cases,
        f"certified {certificate.date} on {certificate.machine}",
        f"here {measured.machine}: {others}",
        str(settings),
    )
    differs = comparison.differs(strict=strict)
    if differs:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]differs:[/] {escape(str(model))}", highlight=False)
    _end(failed, differs=differs)


def _measure(
    path: Path,
    images: Path,
    labels: Path | None,
    settings: Settings,
    threads: int,
    provider: str | None,
    repeats: int,
    *,
    written: bool = False,
) -> tuple[Certificate, dict[str, str]]:
    """The figures of all cases that could be measured, and what was wrong with the others, by name.

    written: whether they have to be small enough for the file.
    """
    from monai_prox.certificate.measurement import cases_in, measure_cases, this_machine
    from monai_prox.certificate.record import MOST_CASES, CaseFigures, Certificate, expected_size
    from monai_prox.runtime.description import Description
    from monai_prox.runtime.dice import foreground
    from monai_prox.runtime.model import Model
    from monai_prox.runtime.model_digest import model_digest
    from monai_prox.runtime.model_entries import MOST_BYTES

    model = Model(path, threads=threads, provider=provider)
    if not isinstance(model.description, Description):
        raise ProXError(f"certificates are for members that segment; {path} classifies")
    cases, description = cases_in(images, model.description)
    if len(cases) > MOST_CASES:
        raise ProXError(f"{images} has {len(cases):,} cases; a certificate has {MOST_CASES:,} at most, so give fewer")
    size = expected_size(len(cases), foreground(description.labels), repeats, scored=labels is not None)
    if written and size > MOST_BYTES:
        raise ProXError(
            f"a certificate of {len(cases):,} cases would have about {size:,} characters, and a file has {MOST_BYTES:,} at "
            f"most; give up to {MOST_BYTES * len(cases) // size:,} cases"
        )
    digest = model_digest(path)
    found: dict[str, CaseFigures | str] = {}
    progress = bars()
    every, tiles = progress.add_task("predictions", total=len(cases) * repeats), progress.add_task("tiles", visible=False)

    def done(name: str, count: int) -> None:
        if progress.tasks[tiles].finished or progress.tasks[tiles].description != printable(name):
            progress.reset(tiles, total=count, description=printable(name), visible=True)
        progress.advance(tiles)

    measuring = measure_cases(cases, description, model, settings.options(), labels=labels, repeats=repeats, done=done)
    with progress:
        for case, figures in measuring:
            found[case.name] = figures
            progress.advance(every)
    if model_digest(path) != digest:
        raise ProXError(f"{path} has changed while it was measured; measure it again")
    measured = [figures for figures in found.values() if not isinstance(figures, str)]
    failed = {name: figures for name, figures in found.items() if isinstance(figures, str)}
    if not measured:
        name, problem = next(iter(failed.items()))
        raise ProXError(f"none of {len(cases)} cases can be measured, e.g. {name}: {problem}")
    machine = this_machine(path, threads, provider)
    return Certificate(date=date.today().isoformat(), settings=settings, machine=machine, cases=tuple(measured)), failed


def _about(measured: Certificate) -> list[str]:
    return [f"on {measured.machine}", str(measured.settings)]


def _show(rows: Sequence[Row], *, compared: bool) -> None:
    table = Table()
    names = ("figure", "certified", "here", "difference", "judgement") if compared else ("figure", "here")
    for name in names:
        words = name in ("figure", "judgement")
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    for row in rows:
        table.add_row(*(Text(printable(getattr(row, name))) for name in names))
    console.print(table)


def _end(failed: Mapping[str, str], *, differs: bool = False) -> None:
    """Exit code 1 if a case failed, each with its line, or if something differs."""
    say_failed(failed)
    if failed or differs:
        raise typer.Exit(1)
