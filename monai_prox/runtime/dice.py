"""Dice: what nnU-Net's evaluation and MONAI's metric compute, of counted voxels and of labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_prox.errors import ProXError


def mean_dice(counts: NDArray[Any]) -> float:
    """counts: (3, classes), true positives, false positives and false negatives.

    Mean over the classes that occur or are predicted, for of others they say nothing; NaN where there is none.
    """
    tp, fp, fn = counts[:, counts.sum(0) > 0]
    return float(np.mean(2 * tp / (2 * tp + fp + fn))) if tp.size else float("nan")


def dice_of(predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, Any]) -> float:
    """``mean_dice`` of classes or regions; voxels whose ``truth`` is to be ignored are not counted.

    labels: names and values, or lists of values, as in nnU-Net's dataset.json. Raises ProXError where none is a class.
    """
    seen = truth != labels.get("ignore", -1)
    predicted, truth = predicted[seen], truth[seen]
    masks = [(np.isin(predicted, values), np.isin(truth, values)) for values in foreground_values(labels).values()]
    return mean_dice(np.array([[np.sum(p & t), np.sum(p & ~t), np.sum(~p & t)] for p, t in masks]).T)


def foreground_values(labels: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Names and values of what is scored: neither background nor what is to be ignored.

    labels: as of ``dice_of``. Raises ProXError where none is a class.
    """
    values = {name: np.atleast_1d(value) for name, value in labels.items() if name != "ignore"}
    foreground = {name: value for name, value in values.items() if value.any()}
    if not foreground:
        raise ProXError(f"there is nothing to score: the labels {dict(labels)} have no class but background")
    return foreground
