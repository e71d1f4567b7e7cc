"""The command ``monai-prox``. Thin: what a command needs is imported inside it, so that help is quick."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from monai_prox.errors import ProXError, printable
from monai_prox.files import check_inside, make_folder, read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monai_prox.export.source import Source

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()
PYTHONS_FORMAT = warnings.formatwarning
ModelArgument = Annotated[
    Path, typer.Argument(help="Trained folder: .../ProXTrainer__nnUNetPlans__3d_fullres, or a MONAI bundle")
]
FoldOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Of an nnU-Net model: a number, several such as 0,1,2 for nnunet, or all, its fold_all; "
        "by default the first that has finished, for nnunet each"
    ),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(help="Of an nnU-Net model: best or latest, e.g. of a training that has not finished; by default final"),
]


def main() -> None:
    """Entry point: errors that users can mend are one line and exit code 1."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # of packages that nnU-Net imports
    warnings.formatwarning = _format_warning
    try:
        app()
    except ProXError as error:
        message = " ".join(str(error).split())
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("monai_prox"):
            raise
        from monai_prox.requirements import missing

        message = f"this command needs a package: {missing(error.name)}"
    except OSError as error:
        message = f"{error.filename or 'a file'}: {error.strerror or error}"
    else:
        return
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(printable(message))}", highlight=False)
    sys.exit(1)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of this package is for users, a line without the code that gave it; others as Python has them."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"warning: {printable(str(message))}\n"
    return PYTHONS_FORMAT(message, category, filename, lineno, line)


@app.callback()
def about() -> None:
    """Once-for-all supernets for nnU-Net and MONAI, trained by progressive expansion."""


@app.command()
def demo(
    task: Annotated[str | None, typer.Option(help="Decathlon task folder, or a task's name to download")] = None,
    work: Annotated[Path, typer.Option(help="Folder for everything the demo makes")] = Path("prox_demo"),
    trainer: Annotated[str, typer.Option(help="Any ProXTrainer variant")] = "ProXTrainerDemo",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default cuda if there is one")] = None,
    cases: Annotated[int, typer.Option(min=1, help="Held-out cases predicted with every exported member")] = 8,
) -> None:
    """From a Decathlon task to a family of stock nnU-Net models, with a table and a plot."""
    from monai_prox.demo import Demo, default_device, run_demo

    run_demo(Demo(task, work, trainer, device or default_device(), cases), console)


@app.command()
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

    from_nnunet, folds = (model / "plans.json").is_file() or not _has_family(model), folds_of(fold or ())
    format = format or ("nnunet" if from_nnunet else "bundle")
    check_options(
        format,
        of_nnunet=from_nnunet,
        classifies=not from_nnunet and _classifies(model),
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
    from monai_prox.export.source import open_source

    source = open_source(model, fold=chosen, dataset=dataset, checkpoint=checkpoint)
    loss = export_file(source, subnet, output, format, overwrite=overwrite, any_patch=any_patch, int8=int8)
    command = f"monai-prox predict {shlex.quote(str(output))} -i INPUT -o OUTPUT"
    _say(str(output), command, *([] if loss is None else [str(loss)]))
    _say_origin(model, checkpoint, [chosen])


def _say_origin(model: Path, checkpoint: str | None, folds: Sequence[str | None]) -> None:
    """Where a model comes from that is not the end of a training."""
    if checkpoint not in (None, "final"):
        from monai_prox.nnunet.model_folder import ModelFolder

        opened = ModelFolder.open(model, checkpoint)
        _say(*(opened.origin(opened.checkpoint(opened.finished(fold))) for fold in folds))


def _open(model: Path, fold: list[str] | None, dataset: Path | None, checkpoint: str | None, what: str) -> Source:
    """The family of one fold. what: for a refusal of several."""
    from monai_prox.export.options import folds_of, one_fold
    from monai_prox.export.source import open_source

    return open_source(model, fold=one_fold(folds_of(fold or ()), what), dataset=dataset, checkpoint=checkpoint)


def _open_to_measure(model: Path, fold: list[str] | None, dataset: Path | None, checkpoint: str | None) -> Source:
    """Any checkpoint, for what its members have learnt takes no other time."""
    source = _open(model, fold, dataset, checkpoint, "a profile")
    if dataset is not None and not source.classifies:
        raise ProXError("--dataset is for classifiers, whose members' norms need scans; leave it out")
    return source


def _classifies(model: Path) -> bool:
    from monai_prox.bundle.trained import TrainedBundle

    return TrainedBundle.open(model).classifies


def _has_family(model: Path) -> bool:
    return any((model / place / "family.json").is_file() for place in ("models", ".", "configs"))


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
    from monai_prox.nnunet.model_folder import ModelFolder

    opened = ModelFolder.open(model, checkpoint or "final")
    folder = export_nnunet(opened, subnet, output, folds=folds, overwrite=overwrite, fine_tune=fine_tune)
    written = json.loads((folder / "plans.json").read_text())
    plans, dataset, configuration = written["plans_name"], opened.plans["dataset_name"], opened.configuration_name
    # nnU-Net asks for the folds 0 to 4 otherwise
    named = ["-f", *(fold.removeprefix("fold_") for fold in folds or opened.folds), "-i", "INPUT", "-o", "OUTPUT"]
    commands = [["nnUNetv2_predict_from_modelfolder", "-m", str(folder), *named]]
    if is_found_by_name(opened, folder, plans):
        commands.append(["nnUNetv2_predict", "-d", dataset, "-c", configuration, "-p", plans, *named])
    _say(str(folder), *map(shlex.join, commands))
    _say_origin(model, checkpoint, folds or opened.folds)
    data = written["configurations"][configuration]["data_identifier"]
    if fine_tune and data != opened.configuration["data_identifier"]:
        _say(
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
    from monai_prox.export.bundle import Exportable, write_bundle

    prediction: Exportable
    if from_nnunet:
        from monai_prox.export.from_nnunet import prediction_of
        from monai_prox.nnunet.model_folder import ModelFolder

        prediction = prediction_of(ModelFolder.open(model, checkpoint or "final"), subnet, fold)
    else:
        from monai_prox.bundle.trained import TrainedBundle
        from monai_prox.export.classifier import classification_of
        from monai_prox.export.from_bundle import prediction_of as member_of

        opened = TrainedBundle.open(model)
        prediction = classification_of(opened, subnet, dataset) if opened.classifies else member_of(opened, subnet)
    folder = write_bundle(prediction, output, overwrite=overwrite)
    command = "python -m monai.bundle run --config_file configs/inference.json --dataset_dir INPUT --output_dir OUTPUT"
    _say(str(folder), f"cd {shlex.quote(str(folder))} && {command}")
    _say_origin(model, checkpoint, [fold])


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A file of `export --format onnx`, openvino or torchscript")],
    images: Annotated[
        Path, typer.Option("-i", "--input", help="Folder of case_0000.nii.gz, one per channel, or of scans; or one image")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for case.nii.gz, or for predictions.csv")],
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor; all by default")] = None,
    overwrite: Annotated[bool, typer.Option(help="Predict again what is there")] = True,
) -> None:
    """Segment or classify images with an exported model, without torch. Exit code 1 if one failed; the others are done."""
    from monai_prox.runtime.description import Description
    from monai_prox.runtime.model import Model

    opened = Model(model, threads=threads)
    description = opened.description
    if isinstance(description, Description):
        from monai_prox.runtime.cases import find_cases
        from monai_prox.runtime.prediction import predict as predict_cases

        cases, what = find_cases(images, description), "cases"
        count = len(cases)
        with _bars() as progress:
            every, one = progress.add_task("cases", total=count), progress.add_task("tiles")

            def done(name: str, tiles: int) -> None:
                if progress.tasks[one].description != printable(name):
                    progress.reset(one, total=tiles, description=printable(name))
                progress.advance(one)

            failed = {}
            for case, problem in predict_cases(description, opened, cases, output, overwrite=overwrite, done=done):
                progress.advance(every)
                if problem is not None:
                    failed[case.name] = problem
    else:
        from monai_prox.runtime.classification import classify, find_scans

        scans, what = find_scans(images), "scans"
        count = len(scans)
        with _bars() as progress:
            outcomes = classify(description, opened, scans, output, overwrite=overwrite)
            tracked = progress.track(outcomes, count, description=what)
            failed = {str(path): problem for path, problem in tracked if problem is not None}
    _say(f"{output}: {count - len(failed)} of {count} {what}")
    if failed:
        lines = "\n".join(printable(f"{name}: {problem}") for name, problem in failed.items())
        Console(stderr=True, soft_wrap=True).print(f"[bold red]failed:[/]\n{escape(lines)}", highlight=False)
        raise typer.Exit(1)


@app.command()
def search(
    model: ModelArgument,
    max_latency_ms: Annotated[float | None, typer.Option(help="Of a patch or scan, on --device")] = None,
    max_params: Annotated[float | None, typer.Option(help="Weights, e.g. 2e6")] = None,
    max_macs: Annotated[float | None, typer.Option(help="Multiply-accumulates of a patch or scan, e.g. 5e9")] = None,
    max_memory_mb: Annotated[float | None, typer.Option(help="Weights and feature maps in float32")] = None,
    max_file_mb: Annotated[float | None, typer.Option(help="Weights in float32")] = None,
    minimise: Annotated[
        list[str] | None,
        typer.Option(help="Traded for the score: latency_ms, macs, parameters, memory_mb, file_mb; may be repeated"),
    ] = None,
    device: Annotated[
        Path | None, typer.Option(help="File of `profile`; where latency is asked for without one, this machine is measured")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="Of the training; by default in nnUNet_raw")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Members to score, in all processes together")] = 100,
    cases: Annotated[int, typer.Option(min=1, help="Held-out cases that each is scored on")] = 4,
    finalists: Annotated[int, typer.Option(min=1, help="Of the best, scored on all held-out cases")] = 6,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the table, plot and page; by default MODEL/search"),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Of Optuna: a database's URL, or a file; by default in the output folder")
    ] = None,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    seed: Annotated[int, typer.Option(help="Of the proposals")] = 0,
) -> None:
    """Find the best members for what they cost. Goes on where it was interrupted; several processes can share a storage."""
    import optuna
    from rich.console import Group
    from rich.live import Live

    from monai_prox.export.options import folds_of
    from monai_prox.latency.device import Device
    from monai_prox.search.budget import Budget, check_costs
    from monai_prox.search.report import PAGE, front_table, named, report_folder, write_report
    from monai_prox.search.study import Search, SearchProgress, best_so_far

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    source = _open(model, fold, dataset, checkpoint, "a search")
    source.check_all_trained()
    output = output or check_inside(model / "search", model)
    budget = Budget(
        latency_ms=max_latency_ms, macs=max_macs, parameters=max_params, memory_mb=max_memory_mb, file_mb=max_file_mb
    )
    check_costs(minimise or ())
    source.held_out()  # what is missing is said before minutes of measuring
    if device is None and (max_latency_ms is not None or "latency_ms" in (minimise or ())):
        device = _of_this_machine(source, output / "device.json")
    known = None if device is None else Device.read(device, source.supernet.family, source.size)
    minimise = minimise or (["macs"] if known is None else ["latency_ms"])
    one = Search(
        source=source,
        storage=storage or str(output / "study.journal"),
        device=known,
        budget=budget,
        minimise=tuple(minimise),
        trials=trials,
        cases=cases,
        finalists=finalists,
        seed=seed,
    )
    make_folder(output)
    progress, bars = _bars(), {}
    with Live(progress, console=console, transient=True) as live:

        def watch(done: SearchProgress) -> None:
            if done.what not in bars:
                bars[done.what] = progress.add_task(done.what, total=done.total)
            progress.update(bars[done.what], completed=done.done)
            best = [(str(rank), scored) for rank, scored in enumerate(best_so_far(done.scored, one.minimise), 1)]
            live.update(Group(progress, front_table(best, one.minimise, source.measure)))

        result = one.run(watch)
    write_report(result, output)
    axes = list(dict.fromkeys([*one.minimise, *one.budget.limits(), "parameters"]))
    console.print(front_table(list(named(result).items()), axes, source.measure))
    if known is not None:
        _say(f"{known.name}: latency predicted within {known.held_out_error:.1%} (median, of members left out)")
    for name, problem in one.held_out.left_out.items():
        _say(f"left out: {name}: {problem}")
    _say(f"{len(result.members)} members in {result.seconds:.0f} s; {report_folder(one, output) / PAGE}")
    _say_origin(model, checkpoint, folds_of(fold or ()) or [None])


profile = typer.Typer(no_args_is_help=True, help="How long members take on a device.")
app.add_typer(profile, name="profile")


@profile.command()
def pack(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .zip to write")] = Path("prox_profile.zip"),
    members: Annotated[int, typer.Option(help="To measure")] = 24,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    dataset: Annotated[Path | None, typer.Option(help="Scans of the training, for a classifier's members")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there")] = False,
) -> None:
    """Pack members and a script that measures them where Python, numpy and onnxruntime are."""
    from monai_prox.latency.pack import write_pack

    source = _open_to_measure(model, fold, dataset, checkpoint)
    with _bars() as progress:
        bar = progress.add_task("members", total=members)
        write_pack(
            source,
            output,
            count=members,
            overwrite=overwrite,
            done=lambda number, total: progress.update(bar, completed=number, total=total),
        )
    _say(str(output), "On the device:", f"  unzip {output.name} && python {output.stem}/measure.py --output device.json")
    _say("", f"Here: monai-prox search {shlex.quote(str(model))} --device device.json --max-latency-ms 800")


@profile.command()
def measure(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File for `search --device`")] = Path("device.json"),
    runtime: Annotated[
        str, typer.Option(help="onnxruntime or openvino on the processor; torch, on the GPU if there is one")
    ] = ("onnxruntime"),
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor; all by default")] = None,
    members: Annotated[int, typer.Option(help="To measure")] = 24,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    dataset: Annotated[Path | None, typer.Option(help="Scans of the training, for a classifier's members")] = None,
) -> None:
    """Measure members on this machine."""
    _measure(_open_to_measure(model, fold, dataset, checkpoint), runtime, threads, output, members)


def _of_this_machine(source: Source, path: Path) -> Path:
    """Measured, unless ``path`` is of this machine and family already."""
    import os

    from monai_prox.latency.device import fingerprint
    from monai_prox.latency.measure import device

    threads = os.cpu_count() or 1
    try:
        data = read_json(path)
        same = data["family"] == fingerprint(source.supernet.family, source.size) and data["device"] == device(threads)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        _measure(source, "onnxruntime", threads, path)
    return path


def _measure(source: Source, runtime: str, threads: int | None, output: Path, members: int = 24) -> None:
    import os

    from monai_prox.files import write_json
    from monai_prox.latency.device import Device
    from monai_prox.latency.pack import choose_members, measure_here

    chosen, threads = choose_members(source.supernet.family, source.size, members), threads or os.cpu_count() or 1
    with console.status("measuring") as status:
        measured = measure_here(source, chosen, runtime, threads=threads, progress=lambda text: status.update(text))
    make_folder(output.parent)
    write_json(measured, output)
    device = Device.from_json(measured, source.supernet.family, source.size, str(output))
    times = device.measured.values()
    _say(
        str(output),
        f"{device.name}: {min(times):.3g} to {max(times):.3g} ms a patch, {len(times)} members",
        f"others are predicted within {device.held_out_error:.1%} (median, of members left out)",
    )


def _bars() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _say(first: str, *rest: str) -> None:
    console.print(printable(first), soft_wrap=True, highlight=False, markup=False)
    for line in rest:
        console.print(printable(line), soft_wrap=True, highlight=False, markup=False, style="dim")


@app.command()
def family(
    model: ModelArgument,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
    checkpoint: CheckpointOption = None,
) -> None:
    """List the members of a trained family that have names."""
    from monai_prox.report import Row, choices_text, family_table, what_it_is

    if _has_family(model):
        from monai_prox.bundle.trained import TrainedBundle

        if checkpoint is not None:
            raise ProXError("--checkpoint is for nnU-Net's model folders; a bundle has one model")
        opened = TrainedBundle.open(model)
        members, measure, scored = opened.family()["members"], opened.measure, opened.scored
    else:
        from monai_prox.nnunet.model_folder import ModelFolder

        folder = ModelFolder.open(model, checkpoint or "final")
        members, measure, scored = folder.family()["members"], "dice", folder.scored
    if as_json:
        print(json.dumps(members, indent=2))
    else:
        rows = [Row(m["name"], m["parameters"], m["macs"], m[measure] or {}, choices=what_it_is(m["subnet"])) for m in members]
        console.print(family_table(rows, measure, scored))
        _say(*choices_text(rows))
        if checkpoint is not None:
            _say_origin(model, checkpoint, folder.folds)


@app.command()
def doctor() -> None:
    """Say what is missing: versions, nnU-Net's variables, the trainer. Exit code 1 if anything is."""
    from monai_prox.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "[green]ok[/]     " if finding.good else "[bold red]missing[/]"
        console.print(f"{mark}  {finding.what:<28} {escape(finding.detail)}", highlight=False, soft_wrap=True)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


@app.command()
def trainers() -> None:
    """Print the folder to set nnUNet_extTrainer to, where nnU-Net does not find ProXTrainer by itself."""
    from monai_prox.doctor import trainers_folder

    print(trainers_folder())
