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
    """Adds one patch of ``case`` to ``counts``, as nnU-Net's validation_step has evaluated a batch of it alone."""
    patch = np.stack([np.asarray(evaluated[key], np.float64) for key in ("tp_hard", "fp_hard", "fn_hard")])
    counts[case] = counts[case] + patch if case in counts else patch


def dice_by_case(parts: Iterable[Counts]) -> dict[str, float]:
    """``mean_dice`` by case; cases in which no class occurs or is predicted are left out.

    parts: e.g. of several ranks; what they have of the same case is added up.
    """
    total: Counts = {}
    for part in parts:
        for case, counts in part.items():
            total[case] = total[case] + counts if case in total else counts
    dice = {case: mean_dice(counts) for case, counts in total.items()}
    return {case: mean for case, mean in dice.items() if not isnan(mean)}
