"""From the times that ``gpu.py`` measures to hours of training, and to a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EPOCHS, STEPS = 1000, 250  # of nnU-Net
DEFAULT_WORKERS = "12"  # nnU-Net's number of loader processes
ALONE = ("largest", "compiled", "smallest")
FAMILIES = ("prox", "progressive_shrinking")
MARKERS = ("<!-- gpu table -->", "<!-- end of the gpu table -->")

Part = Mapping[str, Any]


def phases(network: str, measured: Mapping[str, Part]) -> list[tuple[int, float]]:
    """Epochs of a training and the seconds of a step in them; [] if not all that it takes was measured."""
    if network not in measured or (network in FAMILIES and "skeletons" not in measured):
        return []
    if network in ALONE:
        return [(EPOCHS, measured[network]["step_seconds"]["mean"])]
    skeleton = measured["skeletons"]["build_seconds"]["mean"]
    return [
        (stage["epochs"], stage["step_seconds"]["mean"] + stage["new_members_per_epoch"] * skeleton / STEPS)
        for stage in measured[network]["stages"]
    ]


def periods(measured: Mapping[str, Part]) -> dict[str, float]:
    """Seconds between two batches: none, of the best number of loader processes, and of nnU-Net's default number."""
    rates = measured.get("loader", {}).get("batches_per_second", {})
    best = {"best_loader": 1 / max(rates.values())} if rates else {}
    default = {"default_loader": 1 / rates[DEFAULT_WORKERS]} if DEFAULT_WORKERS in rates else {}
    return {"steps_alone": 0.0} | best | default


def hours(measured: Mapping[str, Part]) -> dict[str, dict[str, float]]:
    """By network the hours of a training as long as nnU-Net's; a step takes as long as the slower of GPU and loader.

    Validation and checkpoints are not in them.
    """
    return {
        network: {
            limit: float(f"{sum(epochs * STEPS * max(step, period) for epochs, step in steps) / 3600:.4g}")
            for limit, period in periods(measured).items()
        }
        for network in (*ALONE, *FAMILIES)
        if (steps := phases(network, measured))
    }


# ---------------------------------------------------------------------- table
def table(result: Mapping[str, Any]) -> str:
    """Markdown, with the markers between which ``docs/gpu.md`` has it."""
    lines = [
        f"{result['date']}, {result['machine']}, torch {result['versions']['torch']}, commit {result['commit']}",
        "",
        "| task | network | step, ms: median (quartiles) | GiB | hours: steps alone | best loader | 12 workers |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, measured in result["measured"].items():
        for network, of_network in hours(measured).items():
            lines += _rows(task, network, measured[network], of_network)
        lines += _member_rows(task, measured.get("members", {}))
    lines += ["", *_loaders(result["measured"])]
    return "\n".join([MARKERS[0], "", *lines, "", MARKERS[1]])


def _rows(task: str, network: str, part: Part, of_network: Mapping[str, float]) -> Iterator[str]:
    limits = [of_network.get(limit) for limit in ("steps_alone", "best_loader", "default_loader")]
    last = " | ".join("-" if limit is None else f"{limit:.3g}" for limit in limits)
    if network in ALONE:
        yield f"| {task} | {network} | {_step(part)} | {last} |"
        return
    yield f"| {task} | {network} | | | {last} |"
    for stage in part["stages"]:
        yield f"| {task} | {network}, {stage['epochs']} epochs of {stage['name']} | {_step(stage)} | | | |"


def _member_rows(task: str, members: Mapping[str, Mapping[str, Part]]) -> Iterator[str]:
    for name, variants in members.items():
        for variant, part in variants.items():
            first = f"first step {part['first_step_seconds']:.3g} s"
            yield f"| {task} | {name} member of prox, {variant}, {first} | {_step(part)} | | | |"


def _step(part: Part) -> str:
    times, memory = part["step_seconds"], part["peak_memory_bytes"]
    low, high = (f"{1000 * quartile:.3g}" for quartile in times["quartiles"])
    return f"{1000 * times['median']:.3g} ({low} to {high}) | {'-' if memory is None else f'{memory / 2**30:.2f}'}"


def _loaders(tasks: Mapping[str, Mapping[str, Part]]) -> Iterator[str]:
    for task, measured in tasks.items():
        if "loader" in measured:
            rates = measured["loader"]["batches_per_second"].items()
            listed = ", ".join(f"{number}: {rate:.3g}" for number, rate in rates)
            yield f"Batches a second by number of workers, {task}: {listed}."


def put_into(page: str, text: str) -> str:
    """The page with ``text`` in the place of its markers and of what is between them. Raises ValueError if they are missing."""
    before, _, rest = page.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not end:
        raise ValueError(f"the page has no {MARKERS[0]} before {MARKERS[1]}")
    return before + text + after
