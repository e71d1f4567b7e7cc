"""Is an expansion worth what it costs? The early warning of overparameterization.

ProX (Lim et al., Neurocomputing 2024, doi 10.1016/j.neucom.2024.127512) sees from the smallest members on whether larger ones
still gain, and need not train layers that do not. Here the gain is a paired comparison over validation cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from monai_prox import cost
from monai_prox.errors import ProXError
from monai_prox.space import SearchSpace, Subnet
from monai_prox.supernet import SuperNet

CONFIDENCE = 1.645  # standard errors: one-sided 95 % of a normal distribution
FEWEST_CASES = 5  # below that no standard error means anything


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the last open choice of a dimension gains.

    epoch: counts from 0. choices: open in the dimension, the last among them.
    gain, error: mean over the cases of the score, Dice or accuracy, with the choice minus that without, and its standard error.
    parameters, macs: what the choice adds, weights and multiply-accumulates per patch.
    doubts: validations in a row in which the gain was below the threshold with confidence, this one included.
    closed: the choice was closed upon this.
    """

    epoch: int
    dimension: str
    choices: int
    gain: float
    error: float
    cases: int
    parameters: int
    macs: int
    doubts: int
    closed: bool = False

    def __str__(self) -> str:
        weights = f", {self.gain / self.parameters * 1e6:+.4f} per million weights" if self.parameters else ""
        macs = f", {self.gain / self.macs * 1e9:+.4f} per GMAC" if self.macs else ""
        return (
            f"{self.dimension}, choice {self.choices}: {self.gain:+.4f} ± {self.error:.4f} in {self.cases} cases{weights}{macs}"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Monitor:
    """Compares the largest open member with what it would be without the last choice of one dimension.

    Whenever members are validated in a stage that is monitored, give it the scores of both by case. A choice is closed if the
    upper end of its gain's confidence interval has been below ``threshold`` in ``patience`` validations in a row. Of several
    such the one with the least gain is closed, and the others are judged anew, for what they add is something else then.
    Nothing is compared while the largest member scores 0 in all cases: it has not begun to learn.

    The engine trains the smaller of the two, too, but less often than the largest. So gains are over- rather than
    underestimated, and less is closed.

    size: voxels per axis for which MACs are counted.
    """

    def __init__(self, supernet: SuperNet, size: Sequence[int], *, threshold: float = 0.005, patience: int = 3) -> None:
        if not isinstance(patience, int) or patience < 1:
            raise ProXError(f"the monitor's patience counts validations and is at least 1, got {patience!r}")
        self.supernet, self.size, self.threshold, self.patience = supernet, tuple(size), threshold, patience
        self.history: list[Comparison] = []
        self._doubts: dict[str, int] = {}

    def observe(self, epoch: int, space: SearchSpace, scores: Mapping[Subnet, Mapping[str, float]]) -> str | None:
        """The dimension whose last choice is to be closed, if there is one.

        space: what is open. scores: by case, of the largest member and those of ``space.reductions()``; a comparison is over
        the cases that both have.
        """
        compared = self._compare(epoch, space, scores)
        self._doubts = {comparison.dimension: comparison.doubts for comparison in compared}
        hopeless = [comparison for comparison in compared if comparison.doubts >= self.patience]
        least = min(hopeless, key=lambda comparison: comparison.gain, default=None)
        self.history += [replace(comparison, closed=comparison is least) for comparison in compared]
        if least is None:
            return None
        self._doubts = {}
        return least.dimension

    def _compare(self, epoch: int, space: SearchSpace, scores: Mapping[Subnet, Mapping[str, float]]) -> list[Comparison]:
        largest = space.largest()
        parameters, macs = cost.parameters(self.supernet.family, largest), cost.macs(self.supernet.family, largest, self.size)
        compared = []
        for dimension, without in space.reductions().items():
            both = sorted(scores[largest].keys() & scores[without].keys())
            pairs = [(scores[largest][case], scores[without][case]) for case in both]
            pairs = [pair for pair in pairs if math.isfinite(sum(pair))]
            if len(pairs) < FEWEST_CASES or not any(larger for larger, _ in pairs):
                continue
            gains = [larger - smaller for larger, smaller in pairs]
            gain, error = fmean(gains), stdev(gains) / math.sqrt(len(gains))
            doubtful = gain + CONFIDENCE * error < self.threshold
            comparison = Comparison(
                epoch=epoch,
                dimension=dimension,
                choices=space.choice_count(dimension),
                gain=gain,
                error=error,
                cases=len(gains),
                parameters=parameters - cost.parameters(self.supernet.family, without),
                macs=macs - cost.macs(self.supernet.family, without, self.size),
                doubts=self._doubts.get(dimension, 0) + 1 if doubtful else 0,
            )
            compared.append(comparison)
        return compared

    @property
    def closings(self) -> list[tuple[int, str]]:
        """Epochs after which the last choice of a dimension was closed, with the dimension's name."""
        return [(comparison.epoch, comparison.dimension) for comparison in self.history if comparison.closed]

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"history": [comparison.to_json() for comparison in self.history], "doubts": dict(self._doubts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history = [Comparison(**comparison) for comparison in state["history"]]
        self._doubts = dict(state["doubts"])
