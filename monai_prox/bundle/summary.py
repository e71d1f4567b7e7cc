"""A summary of the plan and of the length of a training in its log."""

from __future__ import annotations

import logging
import os

from monai_prox.bundle.cache import Data, cached_bytes
from monai_prox.bundle.component import ProX
from monai_prox.bundle.sampling import TrainingSampler
from monai_prox.core import cost
from monai_prox.core.distributed import rank, world_size
from monai_prox.data.plans import TrainingPlan
from monai_prox.report import count


def log_plan(
    plan: TrainingPlan, prox: ProX, training: Data, validation: Data, *, sampler: TrainingSampler, cache_rate: float = 1.0
) -> None:
    """Logs three lines in the first process: the data and the memory of their cache, the network, and the training's length.

    The memory is left out if an image consists of several files.

    Args:
        plan: the plan.
        prox: the component that trains.
        training: items {"image": ..., ...} of the training dataset.
        validation: items of the validation dataset.
        sampler: the sampler of the training.
        cache_rate: part of the items that MONAI's CacheDataset keeps.
    """
    if rank() > 0:
        return
    family, logger = prox.supernet.family, logging.getLogger(__name__)
    images = [[item["image"] for item in items if isinstance(item.get("image"), str)] for items in (training, validation)]
    files = [{os.path.realpath(image) for image in of} for of in images]
    if (both := files[0] & files[1]) and len(training) > 1:
        logger.warning(f"{len(both)} cases are trained on and validated on, such as {min(both)}; their scores are too high")
    largest = family.space.largest()
    member_cost, size = cost.member_cost(family, largest, plan.patch_size), " x ".join(map(str, plan.patch_size))
    features = ", ".join(f"{value:g}" for value in largest["width"])
    cache = _cache(plan, training, validation, cache_rate)
    logger.info(f"Plan: {plan.images}; {len(training):,} cases to train on, {len(validation):,} to validate on{cache}")
    logger.info(
        f"Network: {len(largest['width'])} stages of {features} features; the largest of {family.space.size():,} members has "
        f"{count(member_cost.parameters)} weights and takes {count(member_cost.macs)}MAC for {size}"
    )
    epochs, iterations = prox.engine.schedule.epochs, sampler.iterations
    processes = f" in each of {world_size()} processes" if world_size() > 1 else ""
    logger.info(
        f"Length: {epochs:,} epochs of {iterations:,} iterations, {epochs * iterations:,} in all; an iteration takes "
        f"{sampler.batch_size} images{processes}"
    )


def _cache(plan: TrainingPlan, training: Data, validation: Data, rate: float) -> str:
    """The memory of the cache in words, or "" if it is not known."""
    size = cached_bytes(plan, *(items[: int(len(items) * rate)] for items in (training, validation)))
    if not size:
        return ""
    processes = " in each process" if world_size() > 1 else ""
    return f", kept in up to {count(size)}B of memory{processes}"
