"""From the times that ``gpu.py`` measures to hours of training, and to what an epoch pays for new members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple

EPOCHS, STEPS = 1000, 250  # of nnU-Net
DEFAULT_WORKERS = "12"  # nnU-Net's number of loader processes
ALONE = ("largest", "compiled", "smallest")
FAMILIES = ("prox", "progressive_shrinking")
LOADED = "beside_loader"  # among the networks of ``hours``: the trainings that were measured while the loader ran
UPDATES = ("once", "fill")

Part = Mapping[str, Any]


# ---------------------------------------------------------------------- new members
def first_use(measured: Mapping[str, Part]) -> float:
    """Seconds that a member's first step takes more than its later ones.

    The mean of the second half of those that were measured, because kernels that cuDNN has chosen serve later members.
    """
    extra = measured["skeletons"]["extra_seconds"]
    return fmean(extra[len(extra) // 2 :])


class NewMembers(NamedTuple):
    """What a stage's epoch pays for them, with the pool and if it drew all random members anew.

    members: number of new ones. seconds: that their first steps take more.
    """

    members: tuple[float, float]
    seconds: tuple[float, float]


def new_members(stage: Part, measured: Mapping[str, Part]) -> NewMembers:
    members = (stage["new_members_per_epoch"], stage["random_members_per_epoch"])
    return NewMembers(members, (members[0] * first_use(measured), members[1] * first_use(measured)))


# ---------------------------------------------------------------------- hours
def phases(network: str, measured: Mapping[str, Part]) -> list[tuple[int, float]]:
    """Epochs of a training and the seconds of a step in them; [] if not all that it takes was measured."""
    if network not in measured or (network in FAMILIES and "skeletons" not in measured):
        return []
    if network in ALONE:
        return [(EPOCHS, measured[network]["step_seconds"]["mean"])]
    return [
        (stage["epochs"], stage["step_seconds"]["mean"] + new_members(stage, measured).seconds[0] / STEPS)
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

    Under LOADED those of the trainings that were measured beside the loader. Validation and checkpoints are not in them.
    """
    by_network = {
        network: {
            limit: _rounded(sum(epochs * STEPS * max(step, period) for epochs, step in steps))
            for limit, period in periods(measured).items()
        }
        for network in (*ALONE, *FAMILIES)
        if (steps := phases(network, measured))
    }
    return by_network | ({LOADED: _beside_loader(measured)} if "loaded" in measured else {})


def _beside_loader(measured: Mapping[str, Part]) -> dict[str, float]:
    """Of the stock network, and of ``prox`` with one update a batch and with "fill"."""
    part = measured["loaded"]
    stock = {"largest": _rounded(EPOCHS * STEPS * part["largest"]["batch_seconds"])}
    if "skeletons" not in measured:
        return stock
    return stock | {updates: _rounded(sum(seconds for seconds, _ in _stages(updates, measured))) for updates in UPDATES}


def busy_share(updates: str, measured: Mapping[str, Part]) -> float:
    """The part of all stages' time in which the training does not wait for batches, 0 to 1."""
    stages = [*_stages(updates, measured)]
    return sum(seconds * share for seconds, share in stages) / sum(seconds for seconds, _ in stages)


def _stages(updates: str, measured: Mapping[str, Part]) -> Iterator[tuple[float, float]]:
    """Seconds of a stage of ``prox`` beside the loader, with its new members, and the part of them that is no waiting."""
    for stage in measured["loaded"]["stages"]:
        batches, new = STEPS * stage[updates]["batch_seconds"], new_members(stage[updates], measured).seconds[0]
        yield stage["epochs"] * (batches + new), (batches * stage[updates]["busy_share"] + new) / (batches + new)


def _rounded(seconds: float) -> float:
    return float(f"{seconds / 3600:.4g}")
