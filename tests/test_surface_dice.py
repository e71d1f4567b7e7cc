"""Surface Dice: of cubes whose surfaces are known, and of what MONAI's own metric says of whole images."""

from __future__ import annotations

import ast
import warnings
from math import isnan, nan, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from monai.metrics import SurfaceDiceMetric
from test_layers import imported, modules

from monai_prox.surface_dice import check_tolerance, default_tolerance, mean_over_cases, surface_dice_by_class, surface_dice_of

LABELS = {"background": 0, "a": 1}
SIDE = 6  # voxels of a cube and a square


def cube(axes: int) -> np.ndarray:
    """A cube or a square of SIDE voxels, with room around it."""
    whole = np.zeros((SIDE + 6,) * axes, np.uint8)
    whole[(slice(3, 3 + SIDE),) * axes] = 1
    return whole


def shifted(spacing: tuple[float, ...], tolerance: float, *, along: int = 0) -> float:
    truth = cube(len(spacing))
    return surface_dice_of(np.roll(truth, 1, along), truth, LABELS, spacing=spacing, tolerance=tolerance)


def of_a_moved_cube(x: float, y: float, z: float) -> float:
    """Surface Dice of a cube moved by a voxel along x, if nothing is tolerated.

    The surface lies between voxels: squares on the faces, slopes along the edges, triangles at the corners. Of both cubes the
    face in front is wrong with its edges and corners; of the face behind, only what is within the other cube.
    """
    sides = SIDE - 1
    front, edges = sides**2 * y * z, sides * (y * sqrt(x**2 + z**2) + z * sqrt(x**2 + y**2)) / 2
    corner = sqrt((x * y) ** 2 + (y * z) ** 2 + (z * x) ** 2) / 8
    lateral = 2 * sides**2 * x * (y + z) + 4 * sides * x * sqrt(y**2 + z**2) / 2
    whole = 2 * (front + 2 * edges + 4 * corner) + lateral
    return 1 - (front + 2 * edges + 4 * corner + front) / whole


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.7, 0.7, 0.7)])
def test_a_cube_moved_by_a_voxel_is_right_from_the_voxel_s_edge_on(spacing: tuple[float, float, float]) -> None:
    x, y, z = spacing
    assert shifted(spacing, x) == shifted(spacing, x + 0.1) == 1
    assert shifted(spacing, 0.5 * min(spacing)) == pytest.approx(of_a_moved_cube(x, y, z), abs=1e-6)
    assert shifted((y, z, x), 0.5 * min(spacing), along=2) == pytest.approx(of_a_moved_cube(x, y, z), abs=1e-6)


def test_the_face_behind_is_right_where_a_side_is_near() -> None:
    """At 2.9 mm all of it but the square of 1 mm² in its middle, which is 3 mm from the sides, as the face in front is."""
    sides, slope = SIDE - 1, sqrt(3**2 + 1) / 2
    front = sides**2 + 4 * sides * slope + 4 * sqrt(3**2 + 3**2 + 1) / 8
    whole = 2 * front + 4 * sides**2 * 3 + 4 * sides * 3 * sqrt(2) / 2
    assert shifted((3.0, 1.0, 1.0), 2.9) == pytest.approx(1 - (front + 1) / whole, abs=1e-6)
    assert of_a_moved_cube(3, 1, 1) < shifted((3.0, 1.0, 1.0), 1.0) < shifted((3.0, 1.0, 1.0), 2.9)


@pytest.mark.parametrize("flat", [False, True], ids=["2D", "a slice"])
def test_a_square_moved_by_a_pixel(flat: bool) -> None:
    """Lines between pixels: sides, and slopes at the corners. nnU-Net stores a 2D image as a slice of 999 mm."""

    def moved(spacing: tuple[float, float], tolerance: float) -> float:
        truth = cube(2)
        pair = np.roll(truth, 1, 0), truth
        if flat:
            pair = pair[0][None], pair[1][None]
        return surface_dice_of(*pair, LABELS, spacing=(999.0, *spacing) if flat else spacing, tolerance=tolerance)

    sides = SIDE - 1
    for x, y in ((1.0, 1.0), (3.0, 1.0)):
        corner = sqrt(x**2 + y**2) / 2
        front = sides * y + 2 * corner
        whole = 2 * front + 2 * sides * x
        assert moved((x, y), 0.5) == pytest.approx(1 - (front + sides * y) / whole, abs=1e-6)
        assert moved((x, y), x) == 1


def test_classes_count_as_for_dice() -> None:
    truth, nothing = cube(3), np.zeros_like(cube(3))
    labels = {"background": 0, "a": 1, "b": 2, "whole": [1, 2]}
    given: dict[str, Any] = {"spacing": (1.0, 1.0, 1.0), "tolerance": 1.0}
    same = surface_dice_by_class(truth, truth, labels, **given)
    assert (same["a"], same["whole"]) == (1, 1) and isnan(same["b"])
    assert surface_dice_of(truth, truth, labels, **given) == 1, "b is nowhere"
    for pair in ((nothing, truth), (truth, nothing)):
        assert surface_dice_by_class(*pair, LABELS, **given) == {"a": 0}
    assert isnan(surface_dice_of(nothing, nothing, labels, **given))
    assert surface_dice_by_class(2 * truth, truth, labels, **given) == {"a": 0, "b": 0, "whole": 1}
    refused("there is nothing to score: the labels", surface_dice_of, truth, truth, {"background": 0}, **given)


def test_what_is_to_be_ignored_is_of_no_class() -> None:
    """The half of a cube that nobody labelled is no error, wherever it was predicted."""
    whole = cube(3)
    truth, half = whole.copy(), whole.copy()
    truth[6:], half[6:] = 2, 0
    given: dict[str, Any] = {"spacing": (1.0, 1.0, 1.0), "tolerance": 0.5}
    assert surface_dice_of(whole, truth, LABELS | {"ignore": 2}, **given) == 1
    assert surface_dice_of(half, truth, LABELS | {"ignore": 2}, **given) == 1
    assert surface_dice_of(whole, truth, LABELS, **given) < 1


def test_it_is_that_of_monais_metric_on_whole_images() -> None:
    """Also of classes at the border, of one slice and of one voxel, which the boxes around classes cut closely."""
    generator = np.random.default_rng(0)
    truth = np.zeros((9, 12, 14), np.int16)
    truth[0:4, 2:9, 0:6], truth[5, 3:9, 3:9], truth[8, 11, 13] = 1, 2, 3
    predicted = np.where(generator.random(truth.shape) < 0.1, generator.integers(0, 4, truth.shape), truth)
    spacing, tolerance, values = (2.5, 0.8, 1.1), 1.5, range(1, 6)
    metric = SurfaceDiceMetric([tolerance] * len(values), include_background=True, reduction="none", use_subvoxels=True)
    masks = (torch.from_numpy(np.stack([image == value for value in values]))[None] for image in (predicted, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = metric(*masks, spacing=spacing)[0].tolist()
    found = surface_dice_by_class(predicted, truth, {str(v): v for v in values}, spacing=spacing, tolerance=tolerance)
    assert list(found.values()) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert 0 < found["2"] < 1 and isnan(found["4"])


def test_means_are_those_of_nnunets_summary() -> None:
    cases = [{"1": 1.0, "2": nan, "3": nan}, {"1": 0.5, "2": 0.25, "3": nan}]
    assert mean_over_cases(cases) == {"mean": None, "1": 0.75, "2": 0.25, "3": None}
    assert mean_over_cases([{"1": 1.0, "2": 0.5}]) == {"mean": 0.75, "1": 1.0, "2": 0.5}


def test_the_tolerance_is_a_distance() -> None:
    assert default_tolerance((0.6, 0.6, 3.6)) == 3.6
    for wrong in (0, -1, nan, float("inf"), True, "2", None, 1001):
        refused("the surface tolerance is in mm, above 0 and at most 1000; got", check_tolerance, wrong)


def test_nothing_that_takes_long_is_imported_before_a_case_is_scored() -> None:
    first = ast.parse(modules()["monai_prox.surface_dice"].read_text()).body
    names = {alias.name for node in first if isinstance(node, ast.Import) for alias in node.names}
    modules_from = {str(node.module).partition(".")[0] for node in first if isinstance(node, ast.ImportFrom)}
    assert not {"torch", "monai"} & (names | modules_from)
    assert "monai.metrics.compute_surface_dice" in imported(modules()["monai_prox.surface_dice"])
