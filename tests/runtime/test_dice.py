"""Dice: of what nnU-Net and MONAI count, and of nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from helpers.refusals import refused
from monai.metrics import compute_dice
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from monai_prox.runtime.dice import class_dice, dice_of, mean_dice


def test_dice_is_over_what_occurs_or_is_predicted() -> None:
    classes = {"background": 0, "a": 1, "b": 2}
    one, nothing = np.array([0, 1, 1, 0]), np.zeros(4, int)
    assert dice_of(one, one, classes) == 1, "b is nowhere"
    assert np.isnan(dice_of(nothing, nothing, classes)), "nothing was there to be found, and nothing says how well it was"
    for labels in ({"background": 0}, {"background": 0, "ignore": 1}, {"a": 0, "b": [0, 0]}):
        refused("there is nothing to score: the labels", dice_of, one, one, labels)
    assert dice_of(np.array([0, 1, 2, 0]), one, classes) == pytest.approx((2 / 3 + 0) / 2)
    assert dice_of(np.array([0, 1, 2, 0]), one, {"background": 0, "whole": [1, 2], "b": 2}) == pytest.approx((1 + 0) / 2)
    sparse = np.array([3, 1, 1, 3])
    assert dice_of(np.array([1, 1, 1, 2]), sparse, classes | {"ignore": 3}) == 1, "what is not labelled does not count"


def random_labels(seed: int, highest: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, highest + 1, (6, 7, 8)).astype(np.uint8)
    return np.where(generator.random(truth.shape) < 0.3, generator.integers(0, highest + 1, truth.shape), truth), truth


@pytest.mark.parametrize(
    "labels",
    [{"background": 0, "a": 1, "b": 2, "nowhere": 9}, {"background": 0, "whole": [1, 2], "core": [2]}, {"a": 1, "ignore": 2}],
    ids=["classes", "regions", "ignored"],
)
def test_dice_is_that_of_nnunets_evaluation(labels: dict[str, Any], tmp_path: Path) -> None:
    pair = random_labels(0, 2)
    predicted, truth = np.where(pair[0] == labels.get("ignore"), 0, pair[0]), pair[1]
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("truth", "predicted")]
    for array, file in zip((truth, predicted), files, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), file)
    values = [tuple(np.atleast_1d(value)) for name, value in labels.items() if name not in ("background", "ignore")]
    found = compute_metrics(*files, SimpleITKIO(), values, labels.get("ignore"))["metrics"]
    assert dice_of(predicted, truth, labels) == pytest.approx(np.nanmean([of["Dice"] for of in found.values()]), abs=1e-12)
    names = [name for name in labels if name not in ("background", "ignore")]
    by_class = {name: of["Dice"] for name, of in zip(names, found.values(), strict=True) if not np.isnan(of["Dice"])}
    assert class_dice(predicted, truth, labels) == pytest.approx(by_class, abs=1e-12) and "nowhere" not in by_class


def test_dice_is_that_of_monais_metric() -> None:
    """Classes that neither occur nor are predicted are NaN there."""
    predicted, truth = random_labels(1, 3)
    both = (torch.from_numpy(array.astype(np.int64))[None, None] for array in (predicted, truth))
    by_class = compute_dice(*both, include_background=False, num_classes=6)
    assert by_class.isnan().sum() == 2
    assert dice_of(predicted, truth, {str(value): value for value in range(6)}) == pytest.approx(float(by_class.nanmean()))


def test_dice_of_counts() -> None:
    assert mean_dice(np.array([[4, 2, 0], [2, 0, 0], [1, 4, 0]])) == pytest.approx((8 / 11 + 4 / 8) / 2)
    assert np.isnan(mean_dice(np.zeros((3, 2)))) and mean_dice(np.array([[0.0], [3], [0]])) == 0
