"""The early warning of overparameterization: is an expansion worth its cost?

ProX (Lim et al., Neurocomputing 2024, doi 10.1016/j.neucom.2024.127512) observes from the smallest members on whether larger
ones still gain, and does not have to train layers that do not. Here the gain is a paired comparison over validation cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.errors import ProXError

CONFIDENCE = 1.645  # standard errors; how often it errs is simulated by benchmarks/monitor_errors.py
FEWEST_CASES = 5  # below that no standard error means anything


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The gain of the last open choice of a dimension.

    Args:
        epoch: counts from 0.
        dimension: the dimension.
        choices: number of open choices in the dimension, with the last choice.
        gain: mean over the cases of the score, Dice or accuracy, with the choice minus the score without it.
        error: standard error of the gain over cases and validations.
        cases: number of cases.
        parameters: number of weights that the choice adds.
        macs: multiply-accumulates per patch that the choice adds.
        judged: number of validations that were compared. It is 0 for the first validation of a trial, which is not judged.
        verdict: the verdict if the trial has ended.
    """

    epoch: int
    dimension: str
    choices: int
    gain: float
    error: float
    cases: int
    parameters: int
    macs: int
    judged: int
    verdict: Literal["closed", "kept"] | None = None

    def __str__(self) -> str:
        weights = f", {self.gain / self.parameters * 1e6:+.4f} per million weights" if self.parameters else ""
        macs = f", {self.gain / self.macs * 1e9:+.4f} per GMAC" if self.macs else ""
        verdict = f": {self.verdict}" if self.verdict else ""
        return (
            f"{self.dimension}, choice {self.choices}: {self.gain:+.4f} ± {self.error:.4f} in {self.cases} cases"
            f"{weights}{macs}{verdict}"
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return asdict(self)


class Monitor:
    """Puts the last choice of one dimension after the other on trial, the choice with the most MACs first.

    During a trial half of the steps train members without the choice, because a member that is hardly trained loses every
    comparison. Whenever the largest members with and without the choice are validated in a monitored stage, ``observe`` gets
    their scores by case. The first validation of a trial is not judged. The gain is averaged over the next ``patience``
    validations. If the upper end of its confidence interval is below ``threshold``, the choice is closed, else it is kept. Both
    are final. After a choice was closed, the choice before it may be on trial next.

    A trial needs validations with enough cases, and a largest member that does not score 0 in all of them. It also needs the
    same choices throughout, so a trial has to be abandoned when a stage opens.

    Args:
        family: the family.
        size: voxels per axis for which MACs are counted.
        threshold: smallest gain in score that is worth a choice.
        patience: number of validations that are judged, at least 1.

    Raises:
        ProXError: ``threshold`` or ``patience`` is not a number of its range.

    >>> from monai_prox import MobileNetFamily
    >>> family = MobileNetFamily(input_channels=1, num_classes=2)
    >>> monitor = Monitor(family, (224, 224))
    >>> scores = {subnet: {f"case {i}": 0.9 for i in range(5)} for subnet in monitor.members(family.space)}
    >>> monitor.observe(0, family.space, scores)  # begins the first trial
    >>> monitor.trial(family.space).size() < family.space.size()
    True
    """

    def __init__(self, family: Family, size: Sequence[int], *, threshold: float = 0.005, patience: int = 3) -> None:
        if type(threshold) not in (int, float) or (isinstance(threshold, float) and not math.isfinite(threshold)):
            raise ProXError(f"the monitor's threshold is a difference of scores such as 0.005, got {threshold!r:.120}")
        if type(patience) is not int or patience < 1:
            raise ProXError(f"the monitor's patience counts validations and is at least 1, got {patience!r:.120}")
        self.family, self.size, self.threshold, self.patience = family, tuple(size), threshold, patience
        self.history: list[Comparison] = []
        self._trial: str | None = None  # the dimension whose last choice is on trial
        self._gains: list[dict[str, float]] = []  # by case, of each validation in the trial
        self._kept: dict[str, int] = {}  # choices by dimension

    def trial(self, space: SearchSpace) -> SearchSpace | None:
        """The part of the search space without the choice that is on trial.

        Args:
            space: the part that is open.

        Returns:
            The part, or None if no choice is on trial.
        """
        return None if self._trial is None else space.without_last(self._trial)

    def abandon(self) -> None:
        """Ends the trial without a verdict."""
        self._trial, self._gains = None, []

    def members(self, space: SearchSpace) -> list[Subnet]:
        """The members whose scores the next observation needs.

        Args:
            space: the part of the search space that is open.

        Returns:
            The members. There are none after every choice had its trial.
        """
        trial = self.trial(space)
        if trial is not None:
            return [space.largest(), trial.largest()]
        return [space.largest()] if self._untried(space) else []

    def observe(self, epoch: int, space: SearchSpace, scores: Mapping[Subnet, Mapping[str, float]]) -> Comparison | None:
        """Compares the members with and without the choice on trial, and begins and ends trials.

        Args:
            epoch: counts from 0.
            space: the part of the search space that is open.
            scores: scores by case of ``members(space)``. The comparison uses the cases that all of them have.

        Returns:
            The comparison. If its verdict is "closed", the choice has to be closed. None if there are too few cases, or if a
            trial has only begun.

        Raises:
            ProXError: there are no scores of a member.
        """
        members, trial = self.members(space), self.trial(space)
        if not members:
            return None
        if missing := [str(member) for member in members if member not in scores]:
            raise ProXError(f"the monitor needs scores by case of the members that it compares; there are none of {missing[0]}")
        finite = [{case: score for case, score in scores[member].items() if math.isfinite(score)} for member in members]
        cases = sorted(set.intersection(*map(set, finite)))
        if len(cases) < FEWEST_CASES or not any(finite[0][case] for case in cases):
            self.abandon()
            return None
        if trial is None:
            self._begin(space)
            return None
        self._gains.append({case: finite[0][case] - finite[1][case] for case in cases})
        comparison = self._compare(epoch, space, trial)
        self.history.append(comparison)
        if comparison.verdict == "kept":
            self._kept[comparison.dimension] = comparison.choices
            self._begin(space)
        elif comparison.verdict == "closed":
            self._begin(trial)
        return comparison

    def _compare(self, epoch: int, space: SearchSpace, trial: SearchSpace) -> Comparison:
        assert self._trial is not None
        judged = self._gains[1:]
        gain, error, cases = estimate_gain(judged or self._gains)
        verdict: Literal["closed", "kept"] | None = None
        if len(judged) == self.patience:
            verdict = judge(gain, error, self.threshold)
        family, largest, without = self.family, space.largest(), trial.largest()
        return Comparison(
            epoch=epoch,
            dimension=self._trial,
            choices=space.choice_count(self._trial),
            gain=gain,
            error=error,
            cases=cases,
            parameters=cost.parameters(family, largest) - cost.parameters(family, without),
            macs=cost.macs(family, largest, self.size) - cost.macs(family, without, self.size),
            judged=len(judged),
            verdict=verdict,
        )

    def _untried(self, space: SearchSpace) -> dict[str, Subnet]:
        """By dimension, the largest member without its last choice."""
        parts = space.reductions()
        return {d: part.largest() for d, part in parts.items() if self._kept.get(d) != space.choice_count(d)}

    def _begin(self, space: SearchSpace) -> None:
        """Begins the next trial, of the choice that saves the most MACs if it is closed."""
        untried = self._untried(space)
        macs = {dimension: cost.macs(self.family, subnet, self.size) for dimension, subnet in untried.items()}
        self._trial, self._gains = min(macs, key=macs.__getitem__, default=None), []

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """The state as plain data."""
        return {
            "history": [comparison.to_json() for comparison in self.history],
            "trial": self._trial,
            "gains": [dict(gains) for gains in self._gains],
            "kept": dict(self._kept),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: what ``state_dict`` returned.
        """
        self.history = [Comparison(**comparison) for comparison in state["history"]]
        self._trial, self._gains = state["trial"], [dict(gains) for gains in state["gains"]]
        self._kept = dict(state["kept"])


def verdicts_of(comparisons: Sequence[Comparison]) -> list[tuple[int, str, Literal["closed", "kept"]]]:
    """(epoch, dimension, verdict) of each trial that ended.

    Args:
        comparisons: the comparisons of a training.
    """
    return [(c.epoch, c.dimension, c.verdict) for c in comparisons if c.verdict is not None]


def estimate_gain(validations: Sequence[Mapping[str, float]]) -> tuple[float, float, int]:
    """The gain of a choice, and how well it is known.

    Cases vary, and weights vary from validation to validation, alike for all cases. The noise of single scores is counted in
    both variances, so the error is an upper estimate if validations are independent. It is too small if successive validations
    resemble each other, see ``benchmarks/monitor_errors.py``.

    Args:
        validations: the gain by case of each validation.

    Returns:
        The mean over cases of the mean gain of each, its standard error, and the number of cases.

    >>> gain, error, cases = estimate_gain([{"a": 0.01, "b": 0.03}, {"a": 0.03, "b": 0.05}])
    >>> round(gain, 4), round(error, 4), cases
    (0.03, 0.0141, 2)
    """
    cases = sorted(set().union(*validations))
    by_case = [fmean(gains[case] for gains in validations if case in gains) for case in cases]
    variance = stdev(by_case) ** 2 / len(by_case)
    if len(validations) > 1:
        variance += stdev(fmean(gains.values()) for gains in validations) ** 2 / len(validations)
    return fmean(by_case), math.sqrt(variance), len(by_case)


def judge(gain: float, error: float, threshold: float) -> Literal["closed", "kept"]:
    """The verdict on a choice: "closed" if the upper end of the gain's confidence interval is below the threshold.

    Args:
        gain: the gain in score.
        error: its standard error.
        threshold: the smallest gain that is worth the choice.

    >>> judge(-0.0081, 0.0021, threshold=0.005), judge(0.0, 0.004, threshold=0.005)
    ('closed', 'kept')
    """
    return "closed" if gain + CONFIDENCE * error < threshold else "kept"
