"""Which differences are within the noise: cases that are the same, and cases that are others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from math import log, sqrt

import pytest
from scipy import stats

from monai_prox.certificate.comparison import DIFFERS, OTHER, UNKNOWN, WITHIN, Comparison, Row, compare, summary
from monai_prox.certificate.record import CaseFigures, Certificate, Machine, Segment, Settings

MACHINE = Machine(
    processor="a processor", system="Linux", cores=4, threads=2, runtime="onnxruntime 1.30", provider="cpu", versions={}
)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


def case(
    name: str,
    dice: Mapping[str, float | None],
    *,
    voxels: int = 10_000,
    seconds: Sequence[float] = (1.0,),
    memory: int | None = 10**9,
    truth: str | None = "true",
    mask: str = "mask",
) -> CaseFigures:
    """Of labels that have as many voxels as they should."""
    segments = {
        label: Segment(voxels=voxels if value else 0, true_voxels=voxels if value else 0, dice=value)
        for label, value in dice.items()
    }
    if truth is None:
        segments = {label: Segment(voxels=voxels) for label in dice}
    return CaseFigures(
        image=digest(name),
        truth=None if truth is None else digest(truth),
        segmentation=digest(mask),
        segments=segments,
        seconds=tuple(seconds),
        memory=memory,
    )


def certificate(*cases: CaseFigures) -> Certificate:
    return Certificate(date="2026-11-30", settings=Settings(), machine=MACHINE, cases=cases)


def rows(comparison: Comparison) -> dict[str, Row]:
    return {row.figure: row for row in comparison.rows}


def test_what_was_measured_is_within_the_noise_of_itself() -> None:
    """Of one case and of several, measured once or more often."""
    for count in (1, 3):
        for seconds in ([1.0], [1.0, 1.2, 0.9]):
            of = certificate(*(case(f"{n}", {"a": 0.9 - 0.1 * n, "b": 0.5}, seconds=seconds) for n in range(count)))
            found = compare(of, of)
            assert {row.judgement for row in found.rows} <= {WITHIN, UNKNOWN} and not found.differs(strict=True)
            assert list(rows(found)) == [
                *("Dice, mean", "Dice, a", "Dice, b", "segmentations", "seconds a case", "peak memory"),
            ]
            assert rows(found)["Dice, a"].judgement == WITHIN
            assert rows(found)["segmentations"].here == f"{count} the same"
            alone = (count, len(seconds)) == (1, 1)
            assert rows(found)["seconds a case"].judgement == (UNKNOWN if alone else WITHIN)


@pytest.mark.parametrize(
    ("change", "voxels", "judgement"),
    [
        (0.0009, 10_000, WITHIN),  # a thousandth
        (0.0012, 10_000, DIFFERS),
        (-0.0012, 10_000, DIFFERS),
        (0.0095, 100, WITHIN),  # 2 / (100 + 100): a voxel of each
        (0.011, 100, DIFFERS),
    ],
)
def test_dice_of_the_same_cases_changes_by_rounding_alone(change: float, voxels: int, judgement: str) -> None:
    """In every case; the mean over twenty, of which one has changed, is within any of them."""
    old = [case(f"{n}", {"a": 0.8}, voxels=voxels) for n in range(20)]
    new = [case("0", {"a": 0.8 + change}, voxels=voxels), *old[1:]]
    found = compare(certificate(*old), certificate(*new))
    assert rows(found)["Dice, mean"].judgement == judgement
    assert found.differs(strict=False) == (judgement == DIFFERS)


def test_the_mean_difference_has_the_paired_interval() -> None:
    """Differences of -0.1, -0.2 and -0.3: the mean's error is 0.1 / sqrt(3)."""
    old = [case(f"{n}", {"a": 0.9 - 0.2 * n}) for n in range(3)]
    new = [case(f"{n}", {"a": 0.8 - 0.3 * n}) for n in range(3)]
    row = rows(compare(certificate(*old), certificate(*new)))["Dice, mean"]
    assert (row.certified, row.here) == ("0.7000", "0.5000")
    assert row.difference == f"-0.2000 ± {stats.t.ppf(0.975, 2) * 0.1 / sqrt(3):.4f}"


def test_a_large_label_is_not_excused_by_a_small_one() -> None:
    def of(large: float, small: float) -> Certificate:
        segments = {
            "large": Segment(voxels=10**6, true_voxels=10**6, dice=large),
            "small": Segment(voxels=3, true_voxels=3, dice=small),
        }
        return certificate(replace(case("0", {"large": 1.0}), segments=segments))

    found = rows(compare(of(0.9, 0.6), of(0.89, 0.8)))
    assert found["Dice, large"].judgement == DIFFERS and found["Dice, small"].judgement == WITHIN


def test_a_label_that_is_found_where_none_is_differs() -> None:
    """Its Dice is 0, and has been missing, for it did not occur."""
    absent, present = Segment(voxels=0, true_voxels=0), Segment(voxels=500, true_voxels=0, dice=0.0)
    plain = case("0", {"a": 0.9})
    old = certificate(replace(plain, segments={**plain.segments, "b": absent}))
    new = certificate(replace(plain, segments={**plain.segments, "b": present}))
    for before, after in ((old, new), (new, old)):
        found = rows(compare(before, after))
        assert found["Dice, b"].judgement == DIFFERS and found["Dice, mean"].judgement == DIFFERS
        assert found["Dice, a"].judgement == WITHIN
    assert "Dice, b" not in rows(compare(old, old))


def test_of_some_cases_that_are_the_same_these_alone_are_compared() -> None:
    old = [case(f"{n}", {"a": 0.9}, memory=(n + 1) * 10**9) for n in range(5)]
    new = [case("1", {"a": 0.9}, memory=2 * 10**9), case("new", {"a": 0.1}, memory=9 * 10**9)]
    found = compare(certificate(*old), certificate(*new))
    assert found.cases == "Of the 2 cases here 1 are among the 5 of the certificate, and are compared."
    assert rows(found)["Dice, mean"].here == "0.9000"
    assert (rows(found)["peak memory"].certified, rows(found)["peak memory"].judgement) == ("2 GB", WITHIN)


def test_other_labels_of_the_same_images_are_seen() -> None:
    old = [case(f"{n}", {"a": 0.9 + 0.01 * n}) for n in range(4)]
    some = [case("0", {"a": 0.3}, truth="other"), *old[1:]]
    found = compare(certificate(*old), certificate(*some))
    assert "The labels of 1 are others, so their Dice is left out." in found.cases
    assert rows(found)["Dice, mean"].judgement == WITHIN
    every = [case(f"{n}", {"a": 0.3 + 0.01 * n}, truth="other") for n in range(4)]
    found = compare(certificate(*old), certificate(*every))
    assert "The labels of 4 are others, so means of Dice are compared." in found.cases
    assert rows(found)["Dice, mean"].judgement == DIFFERS and rows(found)["segmentations"].judgement == WITHIN


def test_other_cases_are_compared_by_their_means() -> None:
    """By Welch's interval. Of three rows, the mean and two labels, each has a third of the chance to be wrong."""
    values = [0.90, 0.80, 0.85, 0.88]
    old = certificate(*(case(f"{n}", {"a": value, "b": 0.5}) for n, value in enumerate(values)))
    for shift, judgement in ((0.05, WITHIN), (0.5, DIFFERS)):
        new = certificate(*(case(f"new {n}", {"a": value - shift, "b": 0.5}) for n, value in enumerate(values)))
        found = compare(old, new)
        assert found.cases.startswith("None of the 4 cases here is among the 4 of the certificate")
        row = rows(found)["Dice, a"]
        margin = stats.t.ppf(1 - 0.05 / 6, 6) * sqrt(2 * stats.tvar(values) / 4)
        assert row.judgement == judgement and row.difference == f"{-shift:+.4f} ± {margin:.4f}"
        assert rows(found)["Dice, b"].judgement == WITHIN
        assert rows(found)["peak memory"].judgement == OTHER and "segmentations" not in rows(found)
        assert found.differs(strict=False) == (judgement == DIFFERS)
    alone = compare(old, certificate(case("new", {"a": 0.1})))
    assert rows(alone)["Dice, a"].judgement == UNKNOWN and not alone.differs(strict=True)


@pytest.mark.parametrize(("voxels", "judgement"), [(10_010, WITHIN), (10_020, DIFFERS), (9_980, DIFFERS)])
def test_without_labels_volumes_tell_whether_segmentations_differ(voxels: int, judgement: str) -> None:
    old, new = (case("0", {"a": None}, voxels=count, truth=None, mask=f"{count}") for count in (10_000, voxels))
    found = compare(certificate(old), certificate(new))
    row = rows(found)["segmentations"]
    assert row.judgement == judgement and row.here == "0 the same" and found.differs(strict=False) == (judgement == DIFFERS)
    assert row.difference == f"volumes by up to {100 * abs(voxels - 10_000) / max(voxels, 10_000):.2g} %"
    assert not any(name.startswith("Dice") for name in rows(found))


def test_dice_of_one_side_alone_is_shown() -> None:
    labelled, plain = case("0", {"a": 0.9}), case("0", {"a": None}, truth=None)
    for old, new, shown in ((labelled, plain, ("0.9000", "-")), (plain, labelled, ("-", "0.9000"))):
        row = rows(compare(certificate(old), certificate(new)))["Dice, mean"]
        assert (row.certified, row.here, row.difference, row.judgement) == (*shown, "", "")


def test_speed_is_compared_by_its_ratio() -> None:
    """Each repeat of each case is half as fast, then a tenth, of which the noise of ten per cent hides some."""
    times = [[10.0, 11.0, 9.0], [1.0, 0.9, 1.1]]

    def of(factor: float) -> Certificate:
        return certificate(*(case(f"{n}", {"a": 0.9}, seconds=[factor * t for t in s]) for n, s in enumerate(times)))

    slower = compare(of(1.0), of(2.0))
    row = rows(slower)["seconds a case"]
    assert row.judgement == DIFFERS and row.difference.startswith("x 2 (1.")
    assert not slower.differs(strict=False) and slower.differs(strict=True)
    assert rows(compare(of(1.0), of(1.1)))["seconds a case"].judgement == WITHIN
    residual = 2 * sum((log(t) - sum(map(log, s)) / 3) ** 2 for s in times for t in s)  # on both sides
    margin = stats.t.ppf(0.975, 12 - 3) * sqrt(residual / 9 / 3)  # 12 values; two cases and a machine; weights of 3/2
    low, high = (2.718281828459045 ** (log(2) + side * margin) for side in (-1, 1))
    assert row.difference == f"x 2 ({low:.3g} to {high:.3g})"


def test_speeds_that_differ_by_less_than_load_does_are_within_the_noise() -> None:
    times = [1.0, 1.0001, 0.9999]
    for factor, judgement in ((1.04, WITHIN), (1.06, DIFFERS), (1 / 1.06, DIFFERS)):
        old, new = (certificate(case("0", {"a": 0.9}, seconds=[of * time for time in times])) for of in (1, factor))
        assert rows(compare(old, new))["seconds a case"].judgement == judgement


@pytest.mark.parametrize(("factor", "judgement"), [(1.09, WITHIN), (1.11, DIFFERS), (0.92, WITHIN), (0.89, DIFFERS)])
def test_memory_is_compared_by_a_tolerance(factor: float, judgement: str) -> None:
    old, new = (certificate(case("0", {"a": 0.9}, memory=int(of * 10**9))) for of in (1, factor))
    row = rows(compare(old, new))["peak memory"]
    assert row.judgement == judgement and not compare(old, new).differs(strict=False)
    unknown = certificate(case("0", {"a": 0.9}, memory=None))
    assert rows(compare(old, unknown))["peak memory"] == Row("peak memory", "1 GB", "-")


def test_a_summary_has_means_and_their_intervals() -> None:
    of = certificate(*(case(f"{n}", {"a": 0.1 * n}, seconds=[2.0**n], memory=n * 10**9) for n in (1, 2, 3)))
    assert [(row.figure, row.certified) for row in summary(of)] == [
        *(("Dice, mean", "-"), ("seconds a case", "-"), ("peak memory", "-")),
    ]
    dice, seconds, memory = (row.here for row in summary(of))
    assert dice == f"0.2000 ± {stats.t.ppf(0.975, 2) * 0.1 / sqrt(3):.4f}"
    assert seconds.startswith("4 (") and memory == "3 GB"


def test_an_image_that_several_people_have_labelled_is_compared_with_the_labels_of_each() -> None:
    measured = certificate(case("a", {"organ": 0.9}, truth="mary"), case("a", {"organ": 0.7}, truth="john"))
    comparison = compare(measured, measured)
    assert "labels" not in comparison.cases
    assert (rows(comparison)["Dice, mean"].certified, rows(comparison)["Dice, mean"].judgement) == ("0.8000", WITHIN)
