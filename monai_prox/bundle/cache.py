"""How many cases are kept in memory between epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import Any

from monai_prox.core.distributed import world_size
from monai_prox.data.plans import TrainingPlan
from monai_prox.errors import ProXError
from monai_prox.runtime.memory import available

Data = Sequence[Mapping[str, Any]]
LEFT = 0.5  # of the memory that is free, for the training and for others


def cache_rate(plan: TrainingPlan, training: Data, validation: Data, rate: float | None = None) -> float:
    """The part of the cases that MONAI's CacheDataset keeps.

    Args:
        plan: the plan.
        training: items {"image": ..., ...} of the training dataset.
        validation: items of the validation dataset.
        rate: this part. None means as many cases as half of the free memory holds, and all where that or their size is not
            known. Processes of one training share the memory.

    Raises:
        ProXError: the rate is not between 0 and 1.
    """
    if rate is not None:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ProXError(f"cache_rate is {rate!r:.80}; it is a number from 0 to 1, or None for what fits into memory")
        return float(rate)
    free, needed = available(), cached_bytes(plan, training, validation)
    if free is None or not needed:
        return 1.0
    return min(1.0, floor(100 * LEFT * free / (needed * world_size())) / 100)


def cached_bytes(plan: TrainingPlan, training: Data, validation: Data) -> int | None:
    """The memory of all cases once they are preprocessed, in bytes; None where it is not known. See ``cache_rate``."""
    sizes = [
        plan.cached_bytes(item["image"], trains=trains)
        for part, trains in ((training, True), (validation, False))
        for item in part
    ]
    return None if None in sizes else sum(size for size in sizes if size is not None)
