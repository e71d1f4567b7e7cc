"""Dice by case, of patches drawn from the cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_prox.runtime.dice import mean_dice

# By case (3, classes): true positives, false positives and false negatives
Counts = dict[str, NDArray[np.float64]]


def add(counts: Counts, case: str, evaluated: Mapping[str, Any]) -> None:
    """Adds the counts of a patch, in place.

    Args:
        counts: counts by case.
        case: the case of the patch.
        evaluated: what nnU-Net's validation_step returned for a batch with this patch only.
    """
    patch = np.stack([np.asarray(evaluated[key], np.float64) for key in ("tp_hard", "fp_hard", "fn_hard")])
    counts[case] = counts[case] + patch if case in counts else patch


def dice_by_case(parts: Iterable[Counts]) -> dict[str, float]:
    """Mean Dice by case, over the classes that occur or are predicted in the case. Cases without such classes are left out.

    Args:
        parts: counts by case, for example one part per rank. Counts of the same case are added.
    """
    total: Counts = {}
    for part in parts:
        for case, counts in part.items():
            total[case] = total[case] + counts if case in total else counts
    dice = {case: mean_dice(counts) for case, counts in total.items()}
    return {case: mean for case, mean in dice.items() if not isnan(mean)}
