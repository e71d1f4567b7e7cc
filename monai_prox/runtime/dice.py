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


def foreground(labels: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The values of the classes or regions that are scored, by name: all but background and what is to be ignored.

    labels: names and values, or lists of values, as in nnU-Net's dataset.json. Raises ProXError where none is a class.
    """
    values = {name: np.atleast_1d(value) for name, value in labels.items() if name != "ignore"}
    classes = {name: value for name, value in values.items() if value.any()}
    if not classes:
        raise ProXError(f"there is nothing to score: the labels {dict(labels)} have no class but background")
    return classes


def class_counts(predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """By name of the classes or regions, (3, 1): true positives, false positives and false negatives.

    Voxels whose ``truth`` is to be ignored are not counted. labels, and errors: see ``foreground``.
    """
    classes, seen = foreground(labels), truth != labels.get("ignore", -1)
    predicted, truth = predicted[seen], truth[seen]
    counts = {}
    for name, values in classes.items():
        p, t = np.isin(predicted, values), np.isin(truth, values)
        counts[name] = np.array([[np.sum(p & t)], [np.sum(p & ~t)], [np.sum(~p & t)]])
    return counts


def class_dice(predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, Any]) -> dict[str, float]:
    """Dice by name of the classes or regions that occur or are predicted. The rest: see ``class_counts``."""
    scores = {name: mean_dice(counts) for name, counts in class_counts(predicted, truth, labels).items()}
    return {name: score for name, score in scores.items() if not np.isnan(score)}


def mean_score(by_class: Mapping[str, float]) -> float:
    """The mean over the classes that have a score; NaN where none has."""
    return float(np.mean(list(by_class.values()))) if by_class else float("nan")


def dice_of(predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, Any]) -> float:
    """The mean of ``class_dice``."""
    return mean_score(class_dice(predicted, truth, labels))
