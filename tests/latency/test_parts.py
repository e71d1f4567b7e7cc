"""What a case takes beside the network: its sizes in closed form, the fit of seconds, and measurements of synthetic images."""

import random
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from helpers.cases import WEIGHTS, made_up_parts
from helpers.descriptions import DESCRIBED
from helpers.refusals import refused

from monai_prox.errors import ProXError
from monai_prox.latency import synthetic
from monai_prox.latency.fit import fit, left_out
from monai_prox.latency.parts import PARTS, Parts, Work, features, in_words, multiply_adds, whole_grid
from monai_prox.latency.synthetic import measure_parts
from monai_prox.runtime import memory, resampling
from monai_prox.runtime.description import ALL_CHANNELS, PICTURES, Description, Normalisation, Resampling
from monai_prox.runtime.grid import Grid, ImageSize
from monai_prox.runtime.sliding_window import number_of_tiles, sliding_window

SIZE = ImageSize((40, 30, 20), (1.0, 1.0, 1.0))
COARSE = replace(DESCRIBED, patch=(16, 16, 16), spacing=(2.0, 2.0, 1.0))


# ---------------------------------------------------------------------- sizes
def test_the_work_of_a_case_is_counted() -> None:
    """40 x 30 x 20 voxels of 1 mm are 20 x 15 x 20 at 2 x 2 x 1 mm; the patch is laid twice along the first axis and the last.

    The first two axes are resampled: 20 x 30 x 20 values are sums of 40, then 20 x 15 x 20 values are sums of 30.
    """
    work = Work.of(SIZE, COARSE)
    assert (work.image, work.grid, work.tiles, work.patch) == (24_000, 6_000, 2 * 1 * 2, 4096)
    assert (work.channels, work.outputs, work.between, work.lengths) == (1, 2, 24_000, 40 + 20 + 30 + 15)
    assert work.resampled == 20 * 30 * 20 * 40 + 20 * 15 * 20 * 30


def test_nothing_is_resampled_to_the_images_own_grid() -> None:
    work = Work.of(SIZE, DESCRIBED)
    assert work.grid == work.image == 24_000 and (work.resampled, work.between, work.lengths) == (0, 0, 0)


def test_axes_are_in_the_networks_order() -> None:
    description = replace(DESCRIBED, transpose=(2, 0, 1), spacing=(4.0, 1.0, 1.0))
    assert whole_grid(ImageSize((40, 30, 20), (1.0, 1.0, 2.0)), description).shape == (10, 40, 30)


@pytest.mark.parametrize(
    ("rule", "old", "new", "mm"),
    [
        (Resampling(order=3), (12, 20, 16), (6, 30, 16), (1.0, 1.0, 1.0)),
        (Resampling(order=1), (12, 20, 16), (9, 15, 12), (1.0, 1.0, 1.0)),
        (Resampling(order=3), (5, 20, 16), (10, 30, 24), (8.0, 1.0, 1.0)),  # the thick axis comes last
    ],
)
def test_multiply_adds_are_those_of_the_resampling(
    rule: Resampling, old: tuple[int, ...], new: tuple[int, ...], mm: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []

    def noted(array: Any, weights: Any, axis: int, along: Any = resampling.along) -> Any:
        result = along(array, weights, axis)
        counted.append(0 if result is array else result.size * weights.shape[1])
        return result

    monkeypatch.setattr(resampling, "along", noted)
    target = tuple(size * side / to for size, side, to in zip(mm, old, new, strict=True))
    resampling.resample(np.zeros(old, np.float32), new, mm, target, rule)
    grid = Grid(old, tuple(slice(0, side) for side in old), new, mm, target)
    assert multiply_adds(rule, grid) == sum(counted) > 0


@pytest.mark.parametrize("patch", [(8, 8, 8), (6, 10, 4), (9, 40, 8), (8, 6), (1, 7, 7)])
@pytest.mark.parametrize("step", [0.5, 0.3, 1.0])
def test_the_number_of_tiles_is_that_of_the_sliding_window(patch: tuple[int, ...], step: float) -> None:
    done: list[int] = []

    def network(x: Any) -> Any:
        return np.zeros_like(x)

    sliding_window(np.ones((1, 11, 17, 8), np.float32), patch, 1, network, step=step, done=done.append)
    assert len(done) == number_of_tiles((11, 17, 8), patch, step) == done[0]


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [
        ((0, 3, 3), (1.0, 1.0, 1.0), "an image of (3, 3, 0) voxels; allowed are three axes of 1 to 32,768"),
        ((3, 3), (1.0, 1.0, 1.0), "an image of (3, 3) voxels"),
        ((3, 3, 3), (1.0, -1.0, 2.0), "a spacing of (2.0, -1.0, 1.0) mm; allowed are three numbers above 0"),
        ((3, 3, 3), (1.0, float("nan"), 1.0), "allowed are three numbers above 0"),
    ],
)
def test_what_is_no_size_of_an_image_is_refused(shape: tuple[int, ...], spacing: tuple[float, ...], words: str) -> None:
    refused(words, ImageSize, shape, spacing)


# ---------------------------------------------------------------------- the fit
def sizes(seed: int, count: int = 6) -> list[ImageSize]:
    generator = random.Random(seed)
    return [
        ImageSize(tuple(generator.randint(20, 90) for _ in range(3)), tuple(generator.uniform(0.5, 2) for _ in range(3)))
        for _ in range(count)
    ]


def test_the_fit_recovers_what_the_seconds_are_made_of() -> None:
    parts = made_up_parts([COARSE, DESCRIBED], sizes(1))
    assert parts.held_out_error < 1e-6
    for size in sizes(2, 10):
        work = Work.of(size, COARSE)
        found = parts.predicted(work)
        assert tuple(found) == PARTS
        for part, seconds in found.items():
            assert seconds == pytest.approx(float(np.dot(features(part, work), WEIGHTS[part])), rel=1e-5), part
    (line, second) = in_words(parts, SIZE, COARSE)
    assert line.startswith("beside the network, an image of 20 x 30 x 40 voxels of 1 x 1 x 1 mm: ") and "read 0.0" in second


def test_noise_shows_in_the_held_out_error() -> None:
    assert 0.01 < made_up_parts([COARSE, DESCRIBED], sizes(1), noise=0.2).held_out_error < 0.5


def test_a_size_that_is_left_out_is_predicted_by_the_others_alone() -> None:
    """Of one feature, 1, and values 1, 1 | 2: the first group says 1 of the second, the second 2 of the first."""
    rows, values = np.ones((3, 1)), np.array([1.0, 1.0, 2.0])
    assert left_out(rows, values, [0, 0, 1]).tolist() == pytest.approx([2.0, 2.0, 1.0])
    assert fit(rows, values).tolist() == pytest.approx([2.5 / 2.25])


def test_measurements_are_read_as_they_were_written() -> None:
    parts = made_up_parts([COARSE, DESCRIBED], sizes(1))
    data = parts.to_json()
    assert Parts.from_json(data, "a test") == parts and data["held_out_error"] == parts.held_out_error
    one, case = data["cases"][:1], data["cases"][0]
    for change, words in (
        ({"cases": 1}, "'cases' must be of type"),
        ({"cases": one}, "'pipeline' has cases of fewer than 2 sizes"),
        ({"cases": [case | {"seconds": {}}]}, "has no 'read'"),
        ({"cases": [case | {"work": case["work"] | {"grid": 0}}, data["cases"][-1]]}, "sizes must be above 0"),
        (
            {"cases": [case | {"work": case["work"] | {"tiles": 10**400}}, data["cases"][-1]]},
            "1,152,921,504,606,846,976 at most",
        ),
        ({"cases": [case | {"work": {"grid": 1}}, data["cases"][-1]]}, "'work'"),
        (
            {"cases": [case | {"seconds": case["seconds"] | {"read": 0.0}}, data["cases"][-1]]},
            "has seconds below 1e-09 or above 1e+09",
        ),
    ):
        refused(words, Parts.from_json, data | change, "a test")


# ---------------------------------------------------------------------- measurements
KINDS: dict[str, Description] = {
    "SimpleITK": DESCRIBED,
    "regions, turned, postprocessed": replace(
        DESCRIBED,
        channels=("T1", "T2"),
        normalisation=(Normalisation(scheme="ZScoreNormalization"),) * 2,
        labels={"background": 0, "whole": [1, 2], "core": 2},
        regions=(1, 2),
        transpose=(1, 0, 2),
        reader="NibabelIOWithReorient",
        postprocessing=((1, 2),),
    ),
    "two axes": replace(DESCRIBED, patch=(8, 8), spacing=(1.0, 1.0), file_ending=".mha"),
    "MONAI": replace(
        DESCRIBED,
        channels=("T1", "T2"),
        normalisation=(Normalisation(scheme="NormalizeIntensity", masked=True),) * 2,
        reader=ALL_CHANNELS,
        orientation="RAS",
        images=Resampling(order=1, separate_z=False, keeps="centre"),
        logits=Resampling(order=1, separate_z=False, keeps="centre"),
    ),
}


@pytest.mark.parametrize("description", KINDS.values(), ids=KINDS)
def test_synthetic_images_go_through_the_runtime(description: Description, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "LONG", 0.0)
    read, said = [], list[str]()

    def noted(case: Any, of: Description, read_case: Any = synthetic.read_case) -> Any:
        image = read_case(case, of)
        read.append(image.voxels.shape[1:])
        return image

    monkeypatch.setattr(synthetic, "read_case", noted)
    case = ImageSize((12, 24, 18), (2.0, 1.0, 1.0))
    parts = measure_parts([description, description], case, said.append)
    assert parts is not None and parts.sizes == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    assert (12, 24, 18) in read and len(read) == 10, "the median case is one of them"
    assert [prod(shape) for shape in read] == [work.image for work in parts.works] == sorted(prod(shape) for shape in read)
    assert all(work.channels == len(description.channels) for work in parts.works)
    assert all(min(of) > 0 for of in parts.seconds.values())
    assert said[0] == "image 1 of 10 beside the network" and len(said) == 10
    assert Parts.from_json(parts.to_json(), "a test") == parts


def test_the_images_fit_into_the_memory_and_without_a_median_are_of_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = ImageSize((4000, 4000, 4000), (1.0, 1.0, 1.0))
    free = 50_000_000
    monkeypatch.setattr(memory, "available", lambda: free)
    planned = synthetic._planned([DESCRIBED, DESCRIBED], huge)
    largest = max(prod(size.shape) for _, size, _ in planned)
    assert 100_000 < largest < synthetic.MOST_VOXELS
    assert all(4 * memory.needed_for(whole_grid(size, DESCRIBED), DESCRIBED) <= 1.05 * free for _, size, _ in planned[::2])
    monkeypatch.setattr(memory, "available", lambda: None)
    planned = synthetic._planned([DESCRIBED, DESCRIBED], huge)
    assert max(prod(size.shape) for _, size, _ in planned) == pytest.approx(synthetic.MOST_VOXELS, rel=0.02)
    assert synthetic._of_patches(replace(COARSE, transpose=(2, 0, 1))) == ImageSize((32, 32, 32), (2.0, 1.0, 2.0))


def test_pictures_are_not_measured() -> None:
    pictures = replace(DESCRIBED, patch=(8, 8), spacing=(1.0, 1.0), reader=PICTURES, file_ending=".png")
    assert measure_parts([pictures, pictures], None, print) is None


def test_an_image_that_vanishes_is_refused() -> None:
    with pytest.raises(ProXError, match="vanishes at the network's spacing"):
        Work.of(ImageSize((1, 30, 30), (0.1, 1.0, 1.0)), DESCRIBED)
