"""The results of ``gpu.py`` as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from benchmarks.gpu_hours import ALONE, FAMILIES, LOADED, STEPS, UPDATES, Part, busy_share, first_use, hours, new_members

MARKERS = ("<!-- gpu table -->", "<!-- end of the gpu table -->")
STEP_HEAD = ("task", "network", "step, ms: median (quartiles)", "GiB", "hours: steps alone", "best loader", "12 workers")
LOADED_HEAD = ("task", "training beside the loader", "updates a batch", "ms a batch", "GPU busy", "hours")
NEW_HEAD = ("task", "training", "new members an epoch: pool", "all new", "seconds for them: pool", "all new", "for the steps")
TRAININGS = {"once": "prox, one update a batch", "fill": 'prox, "fill"'}

Tasks = Mapping[str, Mapping[str, Part]]
Row = tuple[str, ...]


def table(result: Mapping[str, Any]) -> str:
    """Markdown, with the markers between which ``docs/gpu.md`` has it."""
    tasks: Tasks = result["measured"]
    described = f"{result['date']}, {result['machine']}, torch {result['versions']['torch']}, commit {result['commit']}"
    blocks = [
        [described],
        _markdown(STEP_HEAD, _in_tasks(tasks, _step_rows)),
        [*_loader_lines(tasks)],
        _markdown(LOADED_HEAD, _in_tasks(tasks, _loaded_rows)),
        _markdown(NEW_HEAD, _in_tasks(tasks, _new_rows)),
        [*_first_use_lines(tasks)],
    ]
    return "\n\n".join([MARKERS[0], *("\n".join(block) for block in blocks if block), MARKERS[1]])


def _markdown(head: Row, rows: Iterable[Row]) -> list[str]:
    """No line if there is no row."""
    lines = [f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in row)}|" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines] if lines else []


def _in_tasks(tasks: Tasks, rows: Any) -> Iterator[Row]:
    for task, measured in tasks.items():
        for row in rows(measured):
            yield task, *row


# ---------------------------------------------------------------------- steps
def _step_rows(measured: Mapping[str, Part]) -> Iterator[Row]:
    of_networks = hours(measured)
    for network in (name for name in (*ALONE, *FAMILIES) if name in of_networks):
        limits = [of_networks[network].get(limit) for limit in ("steps_alone", "best_loader", "default_loader")]
        last = ["-" if limit is None else f"{limit:.3g}" for limit in limits]
        if network in ALONE:
            yield network, *_step(measured[network]), *last
            continue
        yield network, "", "", *last
        for stage in measured[network]["stages"]:
            yield f"{network}, {stage['epochs']} epochs of {stage['name']}", *_step(stage), "", "", ""
    for name, variants in measured.get("members", {}).items():
        for variant, part in variants.items():
            first = f"first step {part['first_step_seconds']:.3g} s"
            yield f"{name} member of prox, {variant}, {first}", *_step(part), "", "", ""


def _step(part: Part) -> tuple[str, str]:
    """The cells of time and memory."""
    times, memory = part["step_seconds"], part["peak_memory_bytes"]
    low, high = (_ms(quartile) for quartile in times["quartiles"])
    return f"{_ms(times['median'])} ({low} to {high})", "-" if memory is None else f"{memory / 2**30:.2f}"


def _loader_lines(tasks: Tasks) -> Iterator[str]:
    for task, measured in tasks.items():
        if "loader" in measured:
            rates = measured["loader"]["batches_per_second"].items()
            listed = ", ".join(f"{number}: {rate:.3g}" for number, rate in rates)
            yield f"Batches a second by number of workers, {task}: {listed}."


# ---------------------------------------------------------------------- beside the loader
def _loaded_rows(measured: Mapping[str, Part]) -> Iterator[Row]:
    if "loaded" not in measured:
        return
    part, of_training = measured["loaded"], hours(measured)[LOADED]
    yield f"largest, stock, {part['workers']} workers", "1", *_batch(part["largest"]), f"{of_training['largest']:.3g}"
    for updates in (name for name in UPDATES if name in of_training):
        yield TRAININGS[updates], "", "", f"{busy_share(updates, measured):.0%}", f"{of_training[updates]:.3g}"
        for stage in part["stages"]:
            trained, name = stage[updates], f"{TRAININGS[updates]}, {stage['epochs']} epochs of {stage['name']}"
            yield name, str(trained["updates_per_batch"]), *_batch(trained), ""


def _batch(part: Part) -> tuple[str, str]:
    return _ms(part["batch_seconds"]), f"{part['busy_share']:.0%}"


# ---------------------------------------------------------------------- new members
def _new_rows(measured: Mapping[str, Part]) -> Iterator[Row]:
    if "skeletons" not in measured:
        return
    for network in (name for name in FAMILIES if name in measured):
        for stage in measured[network]["stages"]:
            if stage["random_members_per_epoch"]:
                (pool, anew), seconds = new_members(stage, measured)
                steps = STEPS * stage["step_seconds"]["mean"]
                cells = (f"{value:.3g}" for value in (pool, anew, *seconds, steps))
                yield f"{network}, {stage['epochs']} epochs of {stage['name']}", *cells


def _first_use_lines(tasks: Tasks) -> Iterator[str]:
    for task, measured in tasks.items():
        if "skeletons" in measured:
            part = measured["skeletons"]
            build, first, later = (_ms(part[f"{name}_seconds"]["median"]) for name in ("build", "first_step", "later_step"))
            extra = part["extra_seconds"]
            half = len(extra) // 2
            begun, then = _ms(fmean(extra[:half])), _ms(first_use(measured))
            yield (
                f"A new member, {task}, median of {len(extra)}: built in {build} ms, first step {first} ms, later {later} ms. "
                f"A first step takes {begun} ms more in the mean of the first {half}, and {then} ms more in that of the others."
            )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"


# ---------------------------------------------------------------------- page
def put_into(page: str, text: str) -> str:
    """The page with ``text`` in the place of its markers and of what is between them. Raises ValueError if they are missing."""
    before, _, rest = page.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not end:
        raise ValueError(f"the page has no {MARKERS[0]} before {MARKERS[1]}")
    return before + text + after
