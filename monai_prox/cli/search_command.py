"""``monai-prox search``: the best members for what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_prox.cli.profile_command import of_this_machine
from monai_prox.cli.terminal import CheckpointOption, FoldOption, ModelArgument, bars, console, open_family, say, say_origin
from monai_prox.files import check_inside, make_folder


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
    metric: Annotated[
        str | None,
        typer.Option(help="dice or, which takes longer, surface_dice; by default dice, of classifiers accuracy"),
    ] = None,
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

    from monai_prox.latency.device import Device
    from monai_prox.search.budget import Budget, check_costs
    from monai_prox.search.report import PAGE, front_table, named, report_folder, write_report
    from monai_prox.search.scored import SearchProgress, best_so_far
    from monai_prox.search.study import Search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    source = open_family(model, fold, dataset, checkpoint, "a search")
    source = source if metric is None else source.scored_by(metric)
    source.check_all_trained()
    output = output or check_inside(model / "search", model)
    budget = Budget(
        latency_ms=max_latency_ms, macs=max_macs, parameters=max_params, memory_mb=max_memory_mb, file_mb=max_file_mb
    )
    check_costs(minimise or ())
    source.held_out()  # what is missing is said before minutes of measuring
    if device is None and (max_latency_ms is not None or "latency_ms" in (minimise or ())):
        device = of_this_machine(source, output / "device.json")
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
    for name, problem in one.held_out.left_out.items():
        say(f"left out: {name}: {problem}")
    say(f"{len(result.members)} members in {result.seconds:.0f} s; {report_folder(one, output) / PAGE}")
    say_origin(source)
