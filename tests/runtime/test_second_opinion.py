"""Two networks segment the same case, and how far they agree is its score. Both look at voxels one by one."""

import csv
import warnings
from collections.abc import Callable
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.descriptions import DESCRIBED, SCANS
from helpers.dicom_series import headers, image_of
from helpers.dicom_series import network as on_series
from helpers.dicom_series import write as write_series
from helpers.refusals import refused

from monai_prox.runtime import memory, prediction
from monai_prox.runtime.calibrate import labelled_cases, scores_and_dice
from monai_prox.runtime.calibration import Calibration
from monai_prox.runtime.cases import find_cases
from monai_prox.runtime.description import Description, Normalisation
from monai_prox.runtime.locating import Locator
from monai_prox.runtime.memory import needed_for
from monai_prox.runtime.options import PLAIN, Options
from monai_prox.runtime.prediction import predict
from monai_prox.runtime.preprocessing import prepare
from monai_prox.runtime.quality_table import TABLE, QualityTable
from monai_prox.runtime.read_ahead import make_ready
from monai_prox.runtime.second_opinion import SecondOpinion, agreement

AS_IT_IS = Normalisation(scheme="NoNormalization")
FIRST = replace(DESCRIBED, normalisation=(AS_IT_IS,), cropped=False)
REGIONS = replace(FIRST, regions=(1, 2), labels={"background": 0, "whole": [1, 2], "core": 2})
KNOWN = Calibration(tuple(np.linspace(0.5, 1, 20)), tuple(np.linspace(0.4, 0.9, 20)), 0.5, False, True)  # Dice: 0.1 less


def above(*levels: float) -> Callable[[np.ndarray], np.ndarray]:
    """A network for which a class is where voxels are above its level, the last one if they are above several."""
    return lambda x: np.concatenate([np.zeros_like(x), *((x - level) * 10 * (1 + n) for n, level in enumerate(levels))], 1)


CORES = above(1.5)  # sees the core alone


def asked(network: Callable[[np.ndarray], np.ndarray] = CORES, **changes: Any) -> Options:
    second = SecondOpinion(network=network, description=replace(FIRST, member="second"))
    return Options(second_opinions=(second,), **changes)


def write(folder: Path, name: str, core: int, rim: int, *, ending: str = "_0000.nii.gz") -> None:
    """An image with ``core`` slices of 2 and ``rim`` slices of 1, each with 100 voxels."""
    voxels = np.zeros((16, 10, 10), np.float32)
    voxels[:core] = 2
    voxels[core : core + rim] = 1
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), folder / f"{name}{ending}")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The second network sees cores alone: 4 of 8 slices, 6 of 6, none of 3, and nobody sees anything in the last."""
    for name, core, rim in (("a", 4, 4), ("b", 6, 0), ("c", 0, 3), ("d", 0, 0)):
        write(tmp_path / "images", name, core, rim)
    return tmp_path / "images"


SCORES = {"a": 2 * 4 / (4 + 8), "b": 1.0, "c": 0.0, "d": nan}


def predicted(images: Path, output: Path, options: Options, **keywords: Any) -> dict[str, str | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images of zeros
        found = predict(FIRST, above(0.5), find_cases(images, FIRST), output, options, **keywords)
        return {case.name: problem for case, problem in found}


def table(output: Path) -> dict[str, list[str]]:
    with (output / TABLE).open(newline="") as file:
        return {case: rest for case, *rest in csv.reader(file)}


# ---------------------------------------------------------------------- scores
def test_agreement_is_the_mean_dice_of_the_labels_that_are_there() -> None:
    labels = {"background": 0, "one": 1, "two": 2, "three": 3}
    a, b = np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 4), np.uint8)
    a[0, 0], b[0, 0] = [1, 1, 1, 0], [1, 0, 1, 1]
    assert agreement(a, b, labels) == pytest.approx(2 * 2 / 6)
    a[1, 1, 0] = 2
    assert agreement(a, b, labels) == pytest.approx((2 / 3 + 0) / 2), "only one has it"
    b[1, 1, 0] = 2
    assert agreement(a, b, labels) == agreement(b, a, labels) == pytest.approx((2 / 3 + 1) / 2), "nobody has the third"
    assert agreement(a, a, labels) == 1
    assert isnan(agreement(a * 0, b * 0, labels)), "that both see nothing does not tell that there is nothing"


def test_regions_are_compared_each_with_all_its_values() -> None:
    a, b = (np.array([[of]], np.uint8) for of in ([1, 1, 2, 2, 0], [1, 2, 2, 2, 0]))
    assert agreement(a, b, REGIONS.labels) == pytest.approx((1 + 2 * 2 / 5) / 2)


def test_a_case_has_the_mean_of_all_second_opinions(images: Path) -> None:
    (case, *_) = find_cases(images, FIRST)
    others = [SecondOpinion(network=above(level), description=FIRST) for level in (1.5, 0.5, 9)]
    options = Options(second_opinions=tuple(others))
    ready = make_ready(case, FIRST, options)
    first = prediction.label(ready.prepared, ready.grid, FIRST, above(0.5), options)
    assert prediction.score(first, case, ready, FIRST, options) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert isnan(prediction.score(first, case, ready, FIRST, PLAIN))


# ---------------------------------------------------------------------- the table
def test_scores_lie_beside_segmentations_that_are_what_they_are_without(images: Path, tmp_path: Path) -> None:
    output, plain = tmp_path / "output", tmp_path / "plain"
    assert set(predicted(images, plain, PLAIN).values()) == {None} and not (plain / TABLE).exists()
    assert set(predicted(images, output, asked()).values()) == {None}
    assert {path.name for path in output.iterdir()} == {path.name for path in plain.iterdir()} | {TABLE}
    for path in plain.iterdir():
        assert (output / path.name).read_bytes() == path.read_bytes()
    rows = table(output)
    assert rows.pop("case") == ["score"]
    assert rows == {case: ["" if isnan(score) else f"{score:.6f}"] for case, score in SCORES.items()}


def test_with_a_calibration_there_is_the_dice_to_expect(images: Path, tmp_path: Path) -> None:
    predicted(images, tmp_path / "output", asked(calibration=KNOWN))
    rows = table(tmp_path / "output")
    assert rows.pop("case") == ["score", "expected_dice", "lower", "upper"]
    assert rows == {
        "a": ["0.666667", "0.566667", "0.566667", "0.566667"],
        "b": ["1.000000", "0.900000", "0.900000", "0.900000"],
        "c": ["0.000000", "0.000000", "0.000000", "0.000000"],
        "d": ["", "", "", ""],
    }


def test_a_case_that_fails_has_no_row_and_the_others_have_theirs(images: Path, tmp_path: Path) -> None:
    """Whether an image cannot be read, or the second network fails, which leaves nothing of the case."""
    (images / "b_0000.nii.gz").write_bytes(b"no image")

    def fails(x: np.ndarray) -> np.ndarray:
        if (x == 1).all():  # of the case c
            raise RuntimeError("it is out of order")
        return CORES(x)

    write(images, "c", 0, 16)
    problems = predicted(images, tmp_path / "output", asked(fails))
    assert "b_0000.nii.gz cannot be read" in (problems["b"] or "") and problems["c"] == "it is out of order"
    assert problems["a"] is problems["d"] is None
    assert list(table(tmp_path / "output")) == ["case", "a", "d"]
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["a.nii.gz", "d.nii.gz", TABLE]


def test_cases_that_are_done_keep_their_rows(images: Path, tmp_path: Path) -> None:
    """A case is done if it has a segmentation and a row. What is expected is of the calibration that is given now."""
    output = tmp_path / "output"
    late = images / "b_0000.nii.gz"
    late.rename(tmp_path / "later")
    predicted(images, output, asked())
    predicted(images, output, PLAIN, overwrite=False)
    assert list(table(output)) == ["case", "a", "c", "d"]
    (tmp_path / "later").rename(late)
    (output / "c.nii.gz").unlink()
    seen: list[str] = []
    known = asked(calibration=KNOWN)
    predicted(images, output, known, overwrite=False, done=lambda name, _: seen.append(name))
    assert set(seen) == {"b", "c"}
    rows = table(output)
    assert rows["a"] == ["0.666667", "0.566667", "0.566667", "0.566667"] and rows["b"][:2] == ["1.000000", "0.900000"]
    seen.clear()
    predicted(images, output, known, overwrite=False, done=lambda name, _: seen.append(name))
    assert not seen and table(output) == rows
    predicted(images / "a_0000.nii.gz", output, known)
    assert list(table(output)) == ["case", "a"], "of a table that is written anew"


@pytest.mark.parametrize("text", ["", "name,score\na,1\n", "case,score\na,2\n", "case,score\na,x\n", "case,score\na\n", "\xff"])
def test_another_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / TABLE).write_bytes(text.encode("latin-1"))
    if text in ("", "case,score\na\n"):  # a table without rows, and a case without a score
        QualityTable(tmp_path, None, keep=True)
    else:
        refused(f"{tmp_path / TABLE} is no table of cases and scores; remove it", QualityTable, tmp_path, None, keep=True)
    QualityTable(tmp_path, None, keep=False)


def test_a_network_that_fails_leaves_no_probabilities_either(images: Path, tmp_path: Path) -> None:
    def fails(x: np.ndarray) -> np.ndarray:
        raise RuntimeError("it is out of order")

    output = tmp_path / "output"
    assert set(predicted(images, output, asked(fails, probabilities=True)).values()) == {"it is out of order"}
    assert {path.name for path in output.iterdir()} == {"dataset.json", "plans.json"}
    predicted(images, output, asked(probabilities=True))
    wanted = {f"{case}{ending}" for case in SCORES for ending in (".nii.gz", ".npz", ".pkl")}
    assert wanted <= {path.name for path in output.iterdir()}


def test_scores_of_former_segmentations_do_not_stay(images: Path, tmp_path: Path) -> None:
    """Neither of those that are made anew without a score, nor of a case that fails now."""
    output = tmp_path / "output"
    predicted(images, output, asked())
    predicted(images / "a_0000.nii.gz", output, PLAIN)
    assert not (output / TABLE).exists()
    (output / TABLE).write_text("name,value\na,1\n")
    predicted(images, output, PLAIN)
    assert (output / TABLE).exists(), "it is another table"
    predicted(images, output, asked())
    (output / "b.nii.gz").unlink()
    (images / "b_0000.nii.gz").write_bytes(b"no image")
    assert predicted(images, output, asked(), overwrite=False)["b"] is not None
    assert list(table(output)) == ["case", "a", "c", "d"]
    (images / "a_0000.nii.gz").write_bytes(b"no image")
    predicted(images / "a_0000.nii.gz", output, asked())
    assert not (output / TABLE).exists()


def test_a_folder_in_the_place_of_the_table_stops_everything(images: Path, tmp_path: Path) -> None:
    (tmp_path / "output" / TABLE).mkdir(parents=True)
    with pytest.raises(OSError, match=TABLE):
        predicted(images, tmp_path / "output", asked())
    assert not (tmp_path / "output" / "a.nii.gz").exists()


def test_a_table_that_a_spreadsheet_has_saved_is_read(tmp_path: Path) -> None:
    (tmp_path / TABLE).write_text("case,score\na,0.5\n", encoding="utf-8-sig")
    assert "a" in QualityTable(tmp_path, None, keep=True)


# ---------------------------------------------------------------------- other networks
@pytest.mark.parametrize("changes", [{"spacing": (0.5, 2.0, 1.0)}, {"transpose": (2, 0, 1)}, {"patch": (4, 10, 6)}])
def test_a_network_of_another_plan_sees_the_same_image_in_its_own_way(
    changes: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    other = replace(FIRST, **changes)
    second = SecondOpinion(network=CORES, description=other)
    assert second.shares_images(FIRST) == ("patch" in changes)
    predicted(images, tmp_path / "output", Options(second_opinions=(second,)))
    rows = table(tmp_path / "output")
    assert abs(float(rows["a"][0]) - SCORES["a"]) < 0.06 and float(rows["c"][0]) == 0


def test_series_are_turned_alike_for_both_networks(tmp_path: Path) -> None:
    """Also for one that prepares them by itself, and whose file does not know how the training's images were stored."""
    series = write_series(headers(image_of()), tmp_path / "series")
    second = SecondOpinion(network=on_series, description=replace(FIRST, transpose=(2, 0, 1)))
    options = Options(second_opinions=(second,), format="nifti", orientation="SRA")
    ((_, problem),) = predict(FIRST, on_series, find_cases(series, FIRST), tmp_path / "output", options)
    assert problem is None and table(tmp_path / "output")["series"] == ["1.000000"]


def test_a_network_for_other_images_or_labels_is_refused() -> None:
    asked().check(replace(FIRST, member="largest", patch=(16, 16, 16), spacing=(2.0, 1.0, 1.0)))
    for name, value in {
        "labels": {"background": 0, "liver": 1},
        "channels": ("CT",),
        "reader": "NibabelIO",
        "file_ending": ".nrrd",
    }.items():
        other = SecondOpinion(network=above(1), description=replace(FIRST, **{name: value}))
        refused(f"--second-opinion names a network whose {name} is {value}", Options(second_opinions=(other,)).check, FIRST)
    regions = SecondOpinion(network=above(1), description=replace(REGIONS, labels=FIRST.labels))
    refused("whose regions is (1, 2)", Options(second_opinions=(regions,)).check, FIRST)
    scans: Any = SimpleNamespace(path=Path("scans.onnx"), description=SCANS)
    refused("--second-opinion names scans.onnx, which classifies", SecondOpinion.of, scans)
    refused("--second-opinion: these are for networks that segment", asked().check, SCANS)
    turned = SecondOpinion(network=above(1), description=replace(FIRST, stored_orientation="LPS"))
    Options(second_opinions=(turned,)).check(FIRST)
    refused("stored_orientation is LPS", Options(second_opinions=(turned,)).check, replace(FIRST, stored_orientation="RAS"))


def test_a_calibration_is_for_predictions_that_are_made_alike() -> None:
    asked(calibration=KNOWN).check(FIRST)
    mirroring = replace(FIRST, mirroring=(0,))
    refused("--calibration is for the scores that --second-opinion gives", Options(calibration=KNOWN).check, FIRST)
    refused("made with --step-size 0.5, and here it is 0.8", asked(calibration=KNOWN, step=0.8).check, FIRST)
    refused("made with --mirror False, and here it is True", asked(calibration=KNOWN, mirror=True).check, mirroring)
    refused("made with --postprocessing True", asked(calibration=KNOWN, postprocess=False).check, FIRST)
    located = asked(calibration=KNOWN, locator=Locator(network=above(1), description=FIRST))
    refused("leave out --locate", located.check, FIRST)
    asked(locator=located.locator).check(FIRST)


# ---------------------------------------------------------------------- memory
def test_memory_is_counted_with_the_second_network(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose patch is larger than the image takes more; one that prepares images in another way is asked in its turn."""
    large = replace(FIRST, patch=(64, 64, 64))
    options = Options(second_opinions=(SecondOpinion(network=CORES, description=large),))
    ready = make_ready(find_cases(images, FIRST)[0], FIRST, options)
    plain, held = needed_for(ready.grid, FIRST), 16 * 10 * 10
    assert ready.needed == needed_for(ready.grid, large) + held > plain
    monkeypatch.setattr(memory, "available", lambda: ready.needed - 1)
    problems = predicted(images, tmp_path / "output", options)
    assert all(problem and "it would take" in problem for problem in problems.values())
    assert set(predicted(images, tmp_path / "output", asked()).values()) == {None}
    fine = Options(second_opinions=(SecondOpinion(network=CORES, description=replace(FIRST, spacing=(0.002, 1, 1))),))
    problems = predicted(images, tmp_path / "fine", fine)
    assert all(problem and "it would take" in problem for problem in problems.values())


# ---------------------------------------------------------------------- calibrating
def measured(images: Path, labels: Path, description: Description = FIRST) -> dict[str, tuple[float, float] | str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(scores_and_dice(description, above(0.5), labelled_cases(images, labels, description), asked()))


def test_held_out_cases_have_scores_and_dice(images: Path, tmp_path: Path) -> None:
    """Of labels whose slices differ from those that are predicted. One has none, one has another size, and one no label."""
    labels = tmp_path / "labels"
    write(labels, "a", 0, 4, ending=".nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((16, 10, 9), np.uint8)), labels / "b.nii.gz")
    write(labels, "d", 0, 1, ending=".nii.gz")
    found = measured(images, labels)
    assert list(found) == ["a", "b", "d"]
    np.testing.assert_allclose(found["a"], [2 / 3, 2 * 4 / (8 + 4)])
    assert found["b"] == f"{labels / 'b.nii.gz'} has (9, 10, 16) voxels, its image (10, 10, 16)"
    assert found["d"] == "there is nothing to score, because no network finds anything"


def test_folders_without_cases_are_refused(images: Path, tmp_path: Path) -> None:
    refused(f"there is no folder {tmp_path / 'none'}", labelled_cases, images, tmp_path / "none", FIRST)
    (tmp_path / "empty").mkdir()
    refused("has labels of none of the 4 cases, such as a.nii.gz", labelled_cases, images, tmp_path / "empty", FIRST)


def test_what_is_prepared_of_an_image_serves_both_networks(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Description] = []

    def counted(image: Any, description: Description, options: Options) -> Any:
        calls.append(description)
        return prepare(image, description, options)

    monkeypatch.setattr("monai_prox.runtime.read_ahead.prepare", counted)
    write(images.parent / "labels", "a", 0, 8, ending=".nii.gz")
    assert measured(images, images.parent / "labels") == {"a": (pytest.approx(2 / 3), 1.0)}
    assert len(calls) == 1
