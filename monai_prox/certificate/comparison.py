"""What a certificate says beside what was measured here, and which differences are within the noise.

If cases here are among those of the certificate, by the digests of their voxels, these alone are compared, each with itself. A
network makes the same segmentation of the same image up to rounding, so more than that is a difference in any case. If all
cases are others, means are compared, by Welch's interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, isinf, isnan, log, log1p

import numpy as np

from monai_prox.certificate.estimates import LEVEL, Estimate, of_difference, of_mean, of_paired_difference
from monai_prox.certificate.record import CaseFigures, Certificate

WITHIN, DIFFERS, UNKNOWN, OTHER = "within the noise", "differs", "too few to tell", "other cases"
ROUNDING = 0.001  # of Dice, and of a label's voxels: what the rounding of another processor changes at most
VOXELS = 1  # of a label, that it may change if that is more
MEANS = 1e-6  # the rounding of means
TIMING = 0.05  # by how much load and clock change the speed of one machine
MEMORY = 0.1  # by how much allocators and versions of libraries change the memory
NOTHING = "-"

Pair = tuple[CaseFigures, CaseFigures]  # a case as certified, and as measured here


@dataclass(frozen=True)
class Row:
    """A figure of a comparison, in words.

    Args:
        figure: what was measured.
        certified: its value in the certificate.
        here: its value here.
        difference: of the two.
        judgement: WITHIN, DIFFERS, UNKNOWN, OTHER, or "" if there is nothing to judge.
        essential: whether it has to be equal on every machine.
    """

    figure: str
    certified: str
    here: str
    difference: str = ""
    judgement: str = ""
    essential: bool = False


@dataclass(frozen=True)
class Comparison:
    """A certificate beside what was measured here.

    Args:
        rows: figure by figure.
        cases: which cases were compared, in words.
    """

    rows: tuple[Row, ...]
    cases: str

    def differs(self, *, strict: bool) -> bool:
        """Whether something differs that should not: Dice and segmentations, and with ``strict`` seconds and memory, too."""
        return any(row.judgement == DIFFERS and (row.essential or strict) for row in self.rows)


def summary(measured: Certificate) -> list[Row]:
    """What was measured, with nothing to compare it with: means over the cases, with their intervals."""
    rows = []
    for score in _scores(measured):
        if values := score.present(measured.cases):
            estimate = of_mean(values)
            rows.append(Row(f"Dice, {score.name}", NOTHING, f"{estimate.value:.4f}{_margin(estimate)}"))
    rows.append(Row("seconds a case", NOTHING, _factor(of_mean(_log_seconds(measured.cases)), "")))
    rows.append(Row("peak memory", NOTHING, _size(_peak(measured.cases))))
    return rows


def compare(certified: Certificate, here: Certificate) -> Comparison:
    """Compares a measurement with a certificate.

    Args:
        certified: the certificate.
        here: what was measured on this machine, with the settings of the certificate.
    """
    known = {case.image: case for case in certified.cases}
    alike = {(case.image, case.truth): case for case in certified.cases}  # an image may have the labels of several people
    pairs = [(alike.get((case.image, case.truth), known[case.image]), case) for case in here.cases if case.image in known]
    rows = [*_dice_rows(certified, here, pairs), *_segmentation_rows(pairs)]
    rows += [_seconds_row(certified, here, pairs), _memory_row(certified, here, pairs)]
    return Comparison(tuple(rows), _cases(certified, here, pairs))


def _cases(certified: Certificate, here: Certificate, pairs: Sequence[Pair]) -> str:
    count = len(certified.cases)
    if not pairs:
        return f"None of the {len(here.cases)} cases here is among the {count} of the certificate, so means are compared."
    text = f"Of the {len(here.cases)} cases here {len(pairs)} are among the {count} of the certificate, and are compared."
    alike = _alike(pairs)
    if other := sum(old.truth is not None and new.truth is not None for old, new in pairs) - len(alike):
        text += f" The labels of {other} are others, so {'their Dice is left out' if alike else 'means of Dice are compared'}."
    return text


def _alike(pairs: Iterable[Pair]) -> list[Pair]:
    """Those whose labels are the same."""
    return [(old, new) for old, new in pairs if old.truth is not None and old.truth == new.truth]


def _sides(pairs: Sequence[Pair]) -> tuple[list[CaseFigures], list[CaseFigures]]:
    return [old for old, _ in pairs], [new for _, new in pairs]


# ---------------------------------------------------------------------- Dice
@dataclass(frozen=True)
class _Score:
    """Of one label, or the mean if ``label`` is None."""

    label: str | None

    @property
    def name(self) -> str:
        return "mean" if self.label is None else self.label

    def of(self, case: CaseFigures) -> float | None:
        if self.label is not None:
            return case.dice.get(self.label)
        return None if isnan(case.mean_dice) else case.mean_dice

    def present(self, cases: Iterable[CaseFigures]) -> list[float]:
        return [value for case in cases if (value := self.of(case)) is not None]

    def tolerance(self, pair: Pair) -> float:
        """By how much rounding changes it at most.

        Dice is 2 TP / (found + true), in voxels. One voxel changes it by 2 / (found + true) at most.
        """
        if self.label is None:
            labels = {name for case in pair for name in case.dice}
            return float(np.mean([_Score(label).tolerance(pair) for label in labels]))
        of = [case.segments[self.label] for case in pair if self.label in case.segments]
        return max(ROUNDING, 2 * VOXELS / max(1, *(part.voxels + (part.true_voxels or 0) for part in of)))


def _scores(*measured: Certificate) -> list[_Score]:
    """The mean, and each label if there are several."""
    labels = list(dict.fromkeys(name for of in measured for case in of.cases for name in case.segments))
    return [_Score(None), *(_Score(label) for label in labels if len(labels) > 1)]


def _dice_rows(certified: Certificate, here: Certificate, pairs: Sequence[Pair]) -> Iterator[Row]:
    scores, alike = _scores(certified, here), _alike(pairs)
    level = 1 - (1 - LEVEL) / len(scores)  # Bonferroni: one chance of a false alarm for all rows
    for score in scores:
        before, after = score.present(certified.cases), score.present(here.cases)
        estimate, judgement = None, ""
        if alike:
            known = [pair for pair in alike if score.present(pair)]
            # A label that does not occur and is not found is right. If it is found in one of the two, that one's Dice is 0
            before, after = ([1.0 if (value := score.of(case)) is None else value for case in side] for side in _sides(known))
            if known:
                estimate = of_paired_difference([[value] for value in before], [[value] for value in after])
                changes = zip(before, after, map(score.tolerance, known), strict=True)
                judgement = WITHIN if all(abs(new - old) <= most for old, new, most in changes) else DIFFERS
        elif before and after:
            estimate = of_difference(before, after, level)
            judgement = _judged(estimate, MEANS)
        if before or after:
            difference = "" if estimate is None else f"{estimate.value:+.4f}{_margin(estimate)}"
            yield Row(f"Dice, {score.name}", _mean(before), _mean(after), difference, judgement, essential=True)


def _segmentation_rows(pairs: Sequence[Pair]) -> Iterator[Row]:
    """Of the same images, with or without labels."""
    if not pairs:
        return
    equal, largest, within = 0, 0.0, True
    for old, new in pairs:
        equal += old.segmentation == new.segmentation
        for name in {*old.segments, *new.segments}:
            before, after = (case.segments[name].voxels if name in case.segments else 0 for case in (old, new))
            larger = max(before, after, 1)
            largest = max(largest, abs(after - before) / larger)
            within &= abs(after - before) <= max(VOXELS, ROUNDING * larger)
    change = f"volumes by up to {100 * largest:.2g} %" if equal < len(pairs) else "none"
    judgement = WITHIN if within else DIFFERS
    yield Row("segmentations", str(len(pairs)), f"{equal} the same", change, judgement, essential=True)


# ---------------------------------------------------------------------- seconds and memory
def _seconds_row(certified: Certificate, here: Certificate, pairs: Sequence[Pair]) -> Row:
    """By the ratio: a machine that is slower is so by a factor."""
    if pairs:
        before, after = _sides(pairs)
        estimate = of_paired_difference(_logs(before), _logs(after))
    else:
        before, after = list(certified.cases), list(here.cases)
        estimate = of_difference(_log_seconds(before), _log_seconds(after))
    shown = _factor(estimate, "x ")
    return Row("seconds a case", _geometric(before), _geometric(after), shown, _judged(estimate, log1p(TIMING)))


def _logs(cases: Iterable[CaseFigures]) -> list[list[float]]:
    return [[log(time) for time in case.seconds] for case in cases]


def _log_seconds(cases: Iterable[CaseFigures]) -> list[float]:
    """Means of the logarithms, case by case."""
    return [float(np.mean(times)) for times in _logs(cases)]


def _geometric(cases: Iterable[CaseFigures]) -> str:
    return f"{exp(np.mean(_log_seconds(cases))):.3g}"


def _memory_row(certified: Certificate, here: Certificate, pairs: Sequence[Pair]) -> Row:
    before, after = map(_peak, _sides(pairs) if pairs else (certified.cases, here.cases))
    if before is None or after is None:
        return Row("peak memory", _size(before), _size(after))
    change = after / before - 1
    judgement = OTHER if not pairs else WITHIN if abs(log(after / before)) <= log1p(MEMORY) else DIFFERS
    return Row("peak memory", _size(before), _size(after), f"{100 * change:+.0f} %", judgement)


def _peak(cases: Iterable[CaseFigures]) -> int | None:
    return max((case.memory for case in cases if case.memory is not None), default=None)


# ---------------------------------------------------------------------- words
def _judged(estimate: Estimate, tolerance: float) -> str:
    """Something differs if its whole interval is farther from 0 than the tolerance."""
    if isinf(estimate.margin):
        return UNKNOWN
    return DIFFERS if abs(estimate.value) - estimate.margin > tolerance else WITHIN


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f}" if values else NOTHING


def _margin(estimate: Estimate) -> str:
    return "" if isinf(estimate.margin) or not round(estimate.margin, 4) else f" ± {estimate.margin:.4f}"


def _factor(estimate: Estimate, sign: str) -> str:
    """Of a logarithm."""
    value = f"{sign}{exp(estimate.value):.3g}"
    if isinf(estimate.margin):
        return value
    ends = (exp(estimate.value + side * estimate.margin) for side in (-1, 1))
    return f"{value} ({' to '.join(f'{end:.3g}' for end in ends)})"


def _size(count: int | None) -> str:
    return NOTHING if count is None else f"{count / 1e9:.3g} GB"
