"""From the agreement of networks to the Dice that is to be expected, by cases whose Dice is known.

A line by least squares, which does not fall, gives the expected Dice. The interval is that of the jackknife+ (Barber et al.,
Predictive inference with the jackknife+, Annals of Statistics 49, 2021): lines without each of the cases, and how far each
is from the case that it has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, nan
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

import monai_prox
from monai_prox.errors import ProXError
from monai_prox.files import read_json
from monai_prox.runtime.model import Model
from monai_prox.runtime.model_digest import model_digest
from monai_prox.typed import check_types

FORMAT = 1
COVERAGE = 0.9  # of the interval
GUARANTEED = 2 * COVERAGE - 1  # by the theorem on the jackknife+, whatever the scores are
FEWEST = ceil(1 / (1 - COVERAGE) - 1e-9)  # cases: one more than an interval takes, so that each can be left out
MOST = 2_000  # cases
RESAMPLED, SEED = 2_000, 0  # of the bootstrap
EQUAL = 1e-12  # the sum of squares below which scores are all equal
FILE = {"member": str, "digest": str}
ENTRIES = {
    "format": Literal[FORMAT],
    "model": FILE,
    "second_opinions": tuple[Mapping[str, Any], ...],
    "options": {"step_size": float, "mirror": bool, "postprocessing": bool},
    "scores": tuple[float, ...],
    "dice": tuple[float, ...],
}
Values = NDArray[np.float64]


class Expected(NamedTuple):
    """Dice that is to be expected, and the ends of its interval."""

    dice: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Calibration:
    """scores: agreement, of cases that no network was trained on. dice: the first network's in the same cases.

    step, mirror, postprocess: with which they were predicted, see ``Options``.
    Raises ProXError for too few cases, and for numbers that are none of Dice.
    """

    scores: tuple[float, ...]
    dice: tuple[float, ...]
    step: float
    mirror: bool
    postprocess: bool

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.dice):
            raise ProXError(f"a calibration has {len(self.scores)} scores, and Dice of {len(self.dice)} cases")
        check_count(len(self.scores))
        if not all(0 <= value <= 1 for value in (*self.scores, *self.dice)):
            raise ProXError("a calibration has scores and Dice from 0 to 1, and one of these is not")

    def expected(self, score: float) -> Expected:
        """Of a case with this score."""
        return _expected(score, np.array(self.scores), np.array(self.dice))

    def summary(self) -> dict[str, Any]:
        """What the cases say of the calibration itself, for people: each is left out once, and expected by the others."""
        scores, dice = np.array(self.scores), np.array(self.dice)
        slope, intercept = map(float, line(scores, dice))
        correlation, lower, upper = rank_correlation(self.scores, self.dice)
        left_out = [_expected(score, np.delete(scores, index), np.delete(dice, index)) for index, score in enumerate(scores)]
        pairs = list(zip(left_out, self.dice, strict=True))
        return {
            "cases": len(self.scores),
            "line": {"slope": slope, "intercept": intercept},
            "rank_correlation": {"spearman": correlation, "lower": lower, "upper": upper},
            "left_out": {
                "mean_absolute_error": float(np.mean([abs(of.dice - truth) for of, truth in pairs])),
                "error_of_mean": float(np.abs(dice - dice.mean()).mean() * len(dice) / (len(dice) - 1)),
                "coverage": float(np.mean([of.lower <= truth <= of.upper for of, truth in pairs])),
            },
            "coverage": {"nominal": COVERAGE, "guaranteed": round(GUARANTEED, 9)},
        }


def check_count(cases: int) -> None:
    """Raises ProXError unless there may be so many cases."""
    if not FEWEST <= cases <= MOST:
        raise ProXError(f"a calibration has {cases} cases; an interval of {COVERAGE:.0%} takes {FEWEST} to {MOST:,}")


def calibration_file(calibration: Calibration, model: Model, others: Sequence[Model]) -> dict[str, Any]:
    """The content of the file of a calibration."""
    asked = {"step_size": calibration.step, "mirror": calibration.mirror, "postprocessing": calibration.postprocess}
    return {
        "format": FORMAT,
        "version": monai_prox.__version__,
        "model": _file_of(model),
        "second_opinions": [_file_of(other) for other in others],
        "options": asked,
        "summary": calibration.summary(),
        "scores": list(calibration.scores),
        "dice": list(calibration.dice),
    }


def read_calibration(path: Path, model: Model, others: Sequence[Model]) -> Calibration:
    """Raises ProXError unless it is a calibration of these files."""
    calibration, digests = parse_calibration(read_json(path), str(path))
    if digests != (found := [model_digest(model.path), *sorted(model_digest(other.path) for other in others)]):
        which = "another model" if digests[0] != found[0] else "other second opinions"
        raise ProXError(f"{path} was calibrated with {which} than given here; run monai-prox calibrate with these files")
    return calibration


def parse_calibration(data: Any, source: str) -> tuple[Calibration, list[str]]:
    """The content of such a file -> the calibration, and the digests of the model and, in their order, of the others.

    Raises ProXError, naming ``source``, for anything else.
    """
    try:
        check_types(data, ENTRIES, source)
        for other in data["second_opinions"]:
            check_types(other, FILE, f"{source}, a second opinion")
        asked = data["options"]
        calibration = Calibration(
            tuple(data["scores"]), tuple(data["dice"]), asked["step_size"], asked["mirror"], asked["postprocessing"]
        )
    except ProXError as error:
        raise ProXError(f"{source} is no file of monai-prox calibrate: {error}") from None
    return calibration, [data["model"]["digest"], *sorted(other["digest"] for other in data["second_opinions"])]


def _file_of(model: Model) -> dict[str, str]:
    return {"member": model.description.member, "digest": model_digest(model.path)}


def line(scores: Values, dice: Values) -> tuple[float, float]:
    """Slope and intercept of the line with the least squares among those that do not fall. If scores are equal it is flat."""
    off = scores - scores.mean()
    spread = off @ off
    slope = max(0.0, float(off @ dice / spread)) if spread > EQUAL else 0.0
    return slope, float(dice.mean() - slope * scores.mean())


def _expected(score: float, scores: Values, dice: Values) -> Expected:
    slopes, intercepts = _lines_without(scores, dice)
    errors = np.abs(dice - (slopes * scores + intercepts).clip(0, 1))
    here = (slopes * score + intercepts).clip(0, 1)
    rank = ceil(round(COVERAGE * (len(scores) + 1), 9))
    lower, upper = 0.0, 1.0
    if rank <= len(scores):
        lower, upper = -float(np.sort(errors - here)[rank - 1]), float(np.sort(here + errors)[rank - 1])
    slope, intercept = line(scores, dice)
    return Expected(*(min(max(end, 0.0), 1.0) for end in (slope * score + intercept, lower, upper)))


def _lines_without(scores: Values, dice: Values) -> tuple[Values, Values]:
    """Slopes and intercepts of ``line`` without each of the cases."""
    count = len(scores)
    off, above = scores - scores.mean(), dice - dice.mean()
    shrink = count / (count - 1)  # of what a case takes away with it, as the mean moves, too
    spread = (off**2).sum() - shrink * off**2
    together = (off * above).sum() - shrink * off * above
    slope = np.divide(together, spread, out=np.zeros(count), where=spread > EQUAL).clip(0)
    middle, level = ((of.sum() - of) / (count - 1) for of in (scores, dice))
    return slope, level - slope * middle


def rank_correlation(scores: Sequence[float], dice: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's, and the ends of its interval by the bootstrap; NaN where scores or Dice are all equal."""
    from scipy.stats import rankdata  # it takes half a second and 50 MB, and predictions import this module

    count = len(scores)
    drawn = np.random.default_rng(SEED).integers(count, size=(RESAMPLED, count))
    every = np.vstack([np.arange(count), drawn])  # the cases themselves come first
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(np.array(of)[every], axis=1) for of in (scores, dice)))
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found = np.divide((a * b).sum(1), size, out=np.full(len(size), np.nan), where=size > 0)
    if np.isnan(found[0]):
        return nan, nan, nan
    beyond = (1 - COVERAGE) / 2
    lower, upper = np.nanquantile(found, [beyond, 1 - beyond])
    return float(found[0]), float(lower), float(upper)
