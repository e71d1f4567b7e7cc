"""``monai-prox search``: the best members for what they cost."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from monai_prox.cli.case_options import CaseShapeOption, CaseSpacingOption, MaxRamOption, MaxSecondsOption, image_size
from monai_prox.cli.completion import COSTS, METRICS, complete_profile, one_of
from monai_prox.cli.model_argument import on_model
from monai_prox.cli.profile_command import of_this_machine
from monai_prox.cli.sizes import read_count, read_megabytes
from monai_prox.cli.terminal import CheckpointOption, FoldOption, bars, console, open_family, say, say_origin
from monai_prox.cli.torch_device import DeviceOption, check_device
from monai_prox.errors import ProXError
from monai_prox.files import check_inside, make_folder


@on_model
def search(
    model: Path,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="The most milliseconds of a patch or scan, on the device of --profile.")
    ] = None,
    max_params: Annotated[str | None, typer.Option(metavar="COUNT", help="The most weights, such as 500k, 2M or 2e6.")] = None,
    max_macs: Annotated[
        str | None, typer.Option(metavar="COUNT", help="The most multiply-accumulates of a patch or scan, such as 1.5G.")
    ] = None,
    max_memory_mb: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="The most memory of weights and feature maps in float32: megabytes, or a size such as 1.5G."
        ),
    ] = None,
    max_file_mb: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The largest file of weights in float32: megabytes, or a size such as 500k."),
    ] = None,
    max_seconds: MaxSecondsOption = None,
    max_ram_gb: MaxRamOption = None,
    case_shape: CaseShapeOption = None,
    case_spacing: CaseSpacingOption = None,
    minimise: Annotated[
        list[str] | None,
        typer.Option(
            help="A cost that is traded for the score: latency_ms, macs, parameters, memory_mb, file_mb, seconds or ram_gb. It "
            "may be repeated.",
            autocompletion=one_of(COSTS),
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="A device's file of `profile`. If latency, or seconds or memory a case, are asked for without one, this "
            "machine is measured.",
            autocompletion=complete_profile,
        ),
    ] = None,
    device: DeviceOption = None,
    dataset: Annotated[
        Path | None, typer.Option(help="The training's images and labels. By default they are in nnUNet_raw.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="The number of members to score, in all processes together.")] = 100,
    cases: Annotated[int, typer.Option(min=1, help="The number of held-out cases that each member is scored on.")] = 4,
    metric: Annotated[
        str | None,
        typer.Option(
            help="The score: dice, or surface_dice, which takes longer. By default it is dice, of classifiers accuracy.",
            autocompletion=one_of(METRICS),
        ),
    ] = None,
    finalists: Annotated[
        int, typer.Option(min=1, help="The number of best members that are scored on all held-out cases.")
    ] = 6,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The folder for the table, plot and page. By default it is MODEL/search."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Optuna's storage: a database's URL, or a file. By default it is in the output folder.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the proposals.")] = 0,
) -> None:
    """Find the best members for what they cost. Goes on where it was interrupted; several processes can share a storage."""
    import optuna
    from rich.console import Group
    from rich.live import Live

    from monai_prox.latency.case import CaseCosts, size_of_case
    from monai_prox.latency.device import Device
    from monai_prox.search.budget import OF_A_CASE, Budget, check_costs
    from monai_prox.search.report import PAGE, front_table, named, report_folder, write_report
    from monai_prox.search.scored import SearchProgress, best_so_far
    from monai_prox.search.study import Search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    profile, device = _moved(profile, device)
    check_device(device)
    budget = Budget(
        latency_ms=max_latency_ms,
        macs=read_count(max_macs, "--max-macs"),
        parameters=read_count(max_params, "--max-params"),
        memory_mb=read_megabytes(max_memory_mb, "--max-memory-mb"),
        file_mb=read_megabytes(max_file_mb, "--max-file-mb"),
        seconds=max_seconds,
        ram_gb=max_ram_gb,
    )
    size = image_size(case_shape, case_spacing)
    check_costs(minimise or ())
    source = open_family(model, fold, dataset, checkpoint, "a search")
    source = source if metric is None else source.scored_by(metric)
    source.check_all_trained()
    if source.supernet.family.space.size() == 1:
        raise ProXError(f"{model} has one network, so there is nothing to choose; a search is for families of several")
    output = output or check_inside(model / "search", model)
    source.held_out()  # what is missing is said before minutes of measuring
    asked = {*budget.limits(), *(minimise or ())}
    of_a_case = bool(asked & {*OF_A_CASE}) or size is not None
    if of_a_case:
        size = size_of_case(source, size)
    if profile is None and ("latency_ms" in asked or of_a_case):
        profile = of_this_machine(source, output / "device.json", whole=of_a_case)
    known = None if profile is None else Device.read(profile, source.supernet.family, source.size)
    of_case = None
    if known is not None and (of_a_case or CaseCosts.known(source, known)):
        of_case = CaseCosts.of(source, known, size)
    if not minimise:
        minimise = ["macs" if known is None else "latency_ms" if max_seconds is None else "seconds"]
    one = Search(
        source=source,
        storage=storage or str(output / "study.journal"),
        device=known,
        case=of_case,
        budget=budget,
        minimise=tuple(minimise),
        trials=trials,
        cases=cases,
        finalists=finalists,
        seed=seed,
        runs_on=device,
    )
    make_folder(output)
    progress, tasks = bars(), {}
    with Live(progress, console=console, transient=True) as live:

        def watch(done: SearchProgress) -> None:
            if done.phase not in tasks:
                tasks[done.phase] = progress.add_task(done.phase, total=done.total)
            progress.update(tasks[done.phase], completed=done.done)
            best = [(str(rank), scored) for rank, scored in enumerate(best_so_far(done.scored, one.minimise), 1)]
            live.update(Group(progress, front_table(best, one.minimise, source)))

        result = one.run(watch)
    write_report(result, output)
    axes = list(dict.fromkeys([*one.minimise, *one.budget.limits(), "parameters"]))
    console.print(front_table(list(named(result).items()), axes, source))
    if known is not None:
        say(f"{known.name}: latency predicted within {known.held_out_error:.1%} (median, of members left out)")
    if of_case is not None:
        say(f"a case of {of_case.size}: beside the network predicted within {of_case.parts.held_out_error:.1%} (median)")
    for name, problem in one.held_out.left_out.items():
        say(f"left out: {name}: {problem}")
    say(f"{len(result.members)} members in {result.seconds:.0f} s; {report_folder(one, output) / PAGE}")
    say_origin(source)


def _moved(profile: Path | None, device: str | None) -> tuple[Path | None, str | None]:
    """The device's file and torch's device. In 0.1.0 the file was given as --device, which a name of torch's is never like."""
    if device is None or not device.endswith(".json"):
        return profile, device
    if profile is not None:
        raise ProXError(f"--device is {device!r:.80} and --profile {str(profile)!r:.80}; a device's file is given as --profile")
    warnings.warn(f"a device's file is given as --profile now: --profile {device}", FutureWarning, stacklevel=2)
    return Path(device), None
