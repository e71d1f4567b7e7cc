"""Postprocessing as nnU-Net itself has found, written and applied it."""

import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from helpers.nnunet_task import BARE_DATASET, bare_plans
from helpers.refusals import refused
from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing, determine_postprocessing
from scipy import ndimage

from monai_prox.runtime.postprocessing import keep_largest
from monai_prox.trained.nnunet_postprocessing import postprocessing_of

THREADS = SimpleNamespace(Pool=ThreadPool)  # in the place of processes, which take seconds to start
CROSSVAL = "crossval_results_folds_0_1"
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


def blobs(seed: int) -> np.ndarray:
    """Labels 0 to 2 in many components, some of which touch at corners only."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(14, 18, 16)), 1)
    return np.digitize(noise, np.quantile(noise, [0.75, 0.9])).astype(np.uint8)


@pytest.mark.parametrize("dataset", [{}, REGIONS], ids=["classes", "regions"])
def test_it_is_what_nnunet_has_found(dataset: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: THREADS)
    for seed in (0, 1):
        predicted = blobs(seed)
        truth = predicted.copy()
        keep_largest(truth, [(1, 2), (2,)])
        assert 0 < np.count_nonzero(truth) < np.count_nonzero(predicted)
        for folder, labels in ((CROSSVAL, predicted), ("truth", truth)):
            (tmp_path / folder).mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(labels), tmp_path / folder / f"case_{seed}.nii.gz")
    folder = tmp_path / CROSSVAL
    determine_postprocessing(str(folder), str(tmp_path / "truth"), bare_plans(), BARE_DATASET | dataset, 1, False)
    steps = postprocessing_of(tmp_path, ["fold_0"])
    functions, arguments = load_pickle(str(folder / "postprocessing.pkl"))
    assert steps[0] == (1, 2) and (2,) in steps and len(steps) == len(functions)
    for seed in range(5):
        found = blobs(seed)
        wanted = apply_postprocessing(found, functions, arguments)
        keep_largest(found, steps)
        np.testing.assert_array_equal(found, wanted)


def test_of_equal_components_all_are_kept_and_none_is_no_fault() -> None:
    labels = np.array([[[1, 0, 1, 0, 2, 2, 0, 300]]], np.uint16)
    keep_largest(labels, [(1,), (7,), (1, 2, 300)])
    assert labels.tolist() == [[[0, 0, 0, 0, 2, 2, 0, 0]]]
    two = np.array([[[1, 0, 1]]], np.uint8)
    keep_largest(two, [(1,)])
    assert two.tolist() == [[[1, 0, 1]]]


def write(folder: Path, steps: Any = 1, name: str = "remove_all_but_largest_component_from_segmentation", **more: Any) -> None:
    folder.mkdir(exist_ok=True)
    data = {"postprocessing_fns": [name], "postprocessing_kwargs": [{"labels_or_regions": steps} | more]}
    (folder / "postprocessing.json").write_text(json.dumps(data))


def test_it_is_of_the_same_folds_else_of_most(tmp_path: Path) -> None:
    assert postprocessing_of(tmp_path, ["fold_0"]) == ()
    write(tmp_path / "crossval_results_folds_0_1_2", 1)
    write(tmp_path / "crossval_results_folds_0_1", [[1, 2], 3])
    (tmp_path / "crossval_results_folds_0_1_2_3_4").mkdir()
    assert postprocessing_of(tmp_path, ["fold_0"]) == ((1,),)
    assert postprocessing_of(tmp_path, ["fold_0", "fold_1"]) == ((1, 2, 3),)


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (lambda folder: (folder / "postprocessing.pkl").touch(), "postprocessing.pkl is not applied, for it is a program"),
        (lambda folder: write(folder, name="mine"), "json is not applied, for it has more than nnU-Net's remove_all_but_la"),
        (lambda folder: write(folder, background_label=3), "json is not applied, for it has more than nnU-Net's remove_all"),
    ],
)
def test_what_is_not_applied_is_said(leave: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    (tmp_path / CROSSVAL).mkdir()
    leave(tmp_path / CROSSVAL)
    with pytest.warns(UserWarning, match=words):
        assert postprocessing_of(tmp_path, ["fold_0"]) == ()


@pytest.mark.parametrize("steps", [-1, 0, 70000, [], "1", 1.5, [[[1]]], None, True])
def test_what_is_not_nnunets_is_refused(steps: Any, tmp_path: Path) -> None:
    write(tmp_path / CROSSVAL, steps)
    refused("postprocessing.json", postprocessing_of, tmp_path, ["fold_0"])
