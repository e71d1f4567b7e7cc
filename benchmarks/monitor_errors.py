"""How often the monitor errs: its own rule on simulated series of gains, whose truth is known.

    python -m benchmarks.monitor_errors --results OUT

A validation's gain of a case is the true gain, a deviation of the case that stays, one of the validation that all cases share,
and noise. The deviations of successive validations are correlated, as an autoregressive process of first order. A deviation of
the run stays, too: another training of the same would have another. The sizes are those of the committed trials on Hippocampus
(monitor-kernel): over validations 0.008, over cases 0.022 in one validation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks import records
from benchmarks.about import about
from monai_prox.training.monitor import Monitor, estimate_gain, judge

CASES, OF_CASE, OF_SCORE, OF_VALIDATION = 20, 0.018, 0.013, 0.008
SERIES = {  # true gain relative to the threshold, correlation of successive validations, deviation of the run
    "at the threshold": (1.0, 0.0, 0.0),
    "at the threshold, correlated 0.5": (1.0, 0.5, 0.0),
    "at the threshold, correlated 0.9": (1.0, 0.9, 0.0),
    "at the threshold, runs differ by 0.005": (1.0, 0.5, 0.005),
    "at the threshold, runs differ by 0.01": (1.0, 0.5, 0.01),
    "no gain": (0.0, 0.0, 0.0),
    "no gain, correlated 0.5": (0.0, 0.5, 0.0),
    "a loss of twice the threshold, correlated 0.5": (-2.0, 0.5, 0.0),
    "a gain of three times the threshold, correlated 0.5": (3.0, 0.5, 0.0),
}


def closed_share(
    true_gain: float, correlation: float, of_run: float, *, threshold: float, validations: int, trials: int, seed: int = 0
) -> float:
    """The share of simulated trials in which the monitor's rule closes the choice. of_run: standard deviation of the run."""
    generator, closed = np.random.default_rng(seed), 0
    for _ in range(trials):
        shared, drift = np.empty(validations), generator.normal(0, OF_VALIDATION)
        for validation in range(validations):
            shared[validation] = drift
            drift = correlation * drift + np.sqrt(1 - correlation**2) * generator.normal(0, OF_VALIDATION)
        gains = true_gain + generator.normal(0, of_run) + shared[:, None] + generator.normal(0, OF_CASE, CASES)
        gains = gains + generator.normal(0, OF_SCORE, gains.shape)
        gain, error, _ = estimate_gain([dict(enumerate(row)) for row in gains.tolist()])
        closed += judge(gain, error, threshold) == "closed"
    return closed / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20000)
    options = parser.parse_args()
    defaults = Monitor.__init__.__kwdefaults__
    threshold, patience = defaults["threshold"], defaults["patience"]
    described = about({"trials": options.trials, "threshold": threshold, "patience": patience}, threads=1)
    rows = []
    for name, (relative, *deviations) in SERIES.items():
        drawn = {"threshold": threshold, "validations": patience, "trials": options.trials}
        share = closed_share(relative * threshold, *deviations, **drawn)
        rows.append({"contender": name} | described | {"closed_share": share})
        print(f"{name}: closed in {share:.1%}")
    records.write(rows, options.results)


if __name__ == "__main__":
    main()
