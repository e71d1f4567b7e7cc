"""``monai-prox profile``: how long members take on a device, and what a case takes beside them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monai_prox.cli.completion import RUNTIMES, one_of
from monai_prox.cli.model_argument import ModelCommand, Plan, on_model
from monai_prox.cli.predict_command import ThreadsOption
from monai_prox.cli.terminal import CheckpointOption, FoldOption, bars, console, example, open_family, say
from monai_prox.cli.torch_device import DeviceOption, check_device
from monai_prox.errors import ProXError
from monai_prox.files import make_folder, write_json

if TYPE_CHECKING:
    from monai_prox.latency.device import Device
    from monai_prox.trained.source import Members

UntrainedOption = Annotated[
    bool,
    typer.Option("--untrained", help="Take what the plan of -d would train, before any training. The weights are of no use."),
]
profile = typer.Typer(no_args_is_help=True, help="Measure how long members take on a device.")


@profile.command(epilog=example("profile pack -d 4 -o clinic.zip"), cls=ModelCommand)
@on_model
def pack(
    model: Path | Plan,
    untrained: UntrainedOption = False,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .zip file to write.")] = Path("prox_profile.zip"),
    members: Annotated[int, typer.Option(help="The number of members to measure.")] = 24,
    dataset: Annotated[Path | None, typer.Option(help="The training's scans, for a classifier's members.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Pack members and a script that measures them where Python, numpy and onnxruntime are."""
    from monai_prox.latency.pack import write_pack

    source = open_to_measure(model, fold, dataset, checkpoint)
    with bars() as progress:
        bar = progress.add_task("members", total=members)
        write_pack(
            source,
            output,
            count=members,
            overwrite=overwrite,
            done=lambda number, total: progress.update(bar, completed=number, total=total),
        )
    unpack = f"python -m zipfile -e {output.name} ."
    say(str(output), "On the device:", f"  {unpack} && python {output.stem}/measure.py --output device.json")
    if isinstance(model, Plan):
        options = ["-c", model.configuration, "-tr", model.trainer, "-p", model.plans]
        say("", f"Here: monai-prox plan {shlex.join([model.dataset, *options])} --profile device.json --max-seconds 20")
    elif source.supernet.family.space.size() > 1:
        say("", f"Here: monai-prox search {shlex.quote(str(model))} --profile device.json --max-seconds 20")


@profile.command(epilog=example("profile measure -d 4 -o device.json"), cls=ModelCommand)
@on_model
def measure(
    model: Path | Plan,
    untrained: UntrainedOption = False,
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, for `search --profile`.")] = Path(
        "device.json"
    ),
    runtime: Annotated[
        str,
        typer.Option(
            help="What runs the members: onnxruntime or openvino on the processor, or torch on --device.",
            autocompletion=one_of(RUNTIMES),
        ),
    ] = "onnxruntime",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    members: Annotated[int, typer.Option(help="The number of members to measure.")] = 24,
    dataset: Annotated[Path | None, typer.Option(help="The training's scans, for a classifier's members.")] = None,
) -> None:
    """Measure members on this machine."""
    check_device(device)
    source = open_to_measure(model, fold, dataset, checkpoint)
    measure_members(source, runtime, threads, output, members, device)


def open_to_measure(model: Path | Plan, fold: list[str] | None, dataset: Path | None, checkpoint: str | None) -> Members:
    """Any checkpoint, for what its members have learnt takes no other time."""
    if isinstance(model, Plan):
        given = {"--fold": fold, "--dataset": dataset, "--checkpoint": checkpoint}
        if wrong := [option for option, value in given.items() if value]:
            raise ProXError(f"{', '.join(wrong)}: for what was trained; leave it out with --untrained")
        from monai_prox.nnunet.plan_entry import plan_training
        from monai_prox.nnunet.planned_family import PlannedFamily

        return PlannedFamily(plan_training(model.folder, model.plans, model.configuration, model.trainer, {}))
    source = open_family(model, fold, dataset, checkpoint, "a profile")
    if dataset is not None and not source.kind.calibrated:
        raise ProXError("--dataset is for classifiers, whose members' norms need scans; leave it out")
    return source


def of_this_machine(source: Members, path: Path, *, whole: bool = False) -> Path:
    """Measured, unless ``path`` is of this machine and family already. whole: whether it has to have what a case takes."""
    from monai_prox.latency.device import Device
    from monai_prox.latency.measure import device

    threads = os.cpu_count() or 1
    try:
        known = Device.read(path, source.supernet.family, source.size)
        same = known.machine == device(threads) and (known.parts is not None or not whole)
    except (OSError, ValueError):
        same = False
    if not same:
        measure_members(source, "onnxruntime", threads, path)
    return path


def measure_members(
    source: Members, runtime: str, threads: int | None, output: Path, members: int = 24, torch_device: str | None = None
) -> None:
    from monai_prox.latency.device import Device
    from monai_prox.latency.pack import choose_members, measure_here

    chosen, threads = choose_members(source.supernet.family, source.size, members), threads or os.cpu_count() or 1
    with console.status("measuring") as status:
        measured = measure_here(
            source, chosen, runtime, threads=threads, progress=lambda text: status.update(text), device=torch_device
        )
    make_folder(output.parent)
    write_json(measured, output)
    device = Device.from_json(measured, source.supernet.family, source.size, str(output))
    times = device.measured.values()
    if len(times) == 1:  # of one network there are no others to predict
        say(str(output), f"{device.name}: {min(times):.3g} ms a patch", *_of_a_case(source, device))
        return
    say(
        str(output),
        f"{device.name}: {min(times):.3g} to {max(times):.3g} ms a patch, {len(times)} members",
        f"others are predicted within {device.held_out_error:.1%} (median, of members left out)",
        *_of_a_case(source, device),
    )


def _of_a_case(source: Members, device: Device) -> list[str]:
    """What the median case takes beside the network, in lines; none if it is not known."""
    from monai_prox.latency.parts import in_words
    from monai_prox.runtime.description import Description

    largest, size = source.describe(source.supernet.family.space.largest()), source.median_image
    if device.parts is None or size is None or not isinstance(largest, Description):
        return []
    return in_words(device.parts, size, largest)
