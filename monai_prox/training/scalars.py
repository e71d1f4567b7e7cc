"""Scalars of a training for the loggers of its host, such as TensorBoard and Weights & Biases."""

from __future__ import annotations

from monai_prox.training.engine import Engine
from monai_prox.training.monitor import Comparison


def stage_scalars(engine: Engine, epoch: int) -> dict[str, float]:
    """The number of an epoch's stage, from 1, and the number of open members.

    Args:
        engine: the engine of the training, which has begun the epoch.
        epoch: counts from 0.
    """
    return {"prox/stage": float(engine.schedule.index(epoch) + 1), "prox/open_members": float(engine.space.size())}


def comparison_scalars(comparison: Comparison) -> dict[str, float]:
    """The gain of the choice on trial and its standard error. After a verdict also the number of choices that stay open.

    Args:
        comparison: the monitor's comparison.

    >>> counts = {"epoch": 7, "choices": 4, "cases": 9, "parameters": 10, "macs": 99, "judged": 3}
    >>> comparison_scalars(Comparison(dimension="width", gain=0.02, error=0.004, verdict="kept", **counts))
    {'prox/gain/width': 0.02, 'prox/gain_error/width': 0.004, 'prox/choices/width': 4.0}
    """
    dimension = comparison.dimension
    scalars = {f"prox/gain/{dimension}": comparison.gain, f"prox/gain_error/{dimension}": comparison.error}
    if comparison.verdict is not None:
        closed = comparison.verdict == "closed"
        scalars[f"prox/choices/{dimension}"] = float(comparison.choices - closed)
    return scalars
