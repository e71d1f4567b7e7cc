"""The fit of times and sizes: sums of features with non-negative weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from monai_prox.errors import ProXError

Numbers = NDArray[np.float64]


def fit(rows: Numbers, values: Numbers) -> Numbers:
    """Non-negative weights with the least sum of squared relative errors.

    Args:
        rows: (N, features)
        values: (N,), all above 0.

    Returns:
        (features,)

    Raises:
        ProXError: there are no such weights.

    >>> fit(np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([5.0, 8.0, 11.0])).round(6).tolist()
    [2.0, 3.0]
    """
    scale = rows.max(0).clip(1e-12)
    try:
        weights, _ = nnls(rows / scale / values[:, None], np.ones(len(values)))
    except (RuntimeError, ValueError) as error:  # it gave up, or a ratio is beyond all numbers
        raise ProXError(f"the measurements cannot be fitted: {error}") from None
    return np.asarray(weights / scale)


def left_out(rows: Numbers, values: Numbers, groups: Sequence[int]) -> Numbers:
    """What each row is predicted to be by the rows of the other groups.

    Args:
        rows: (N, features)
        values: (N,), all above 0.
        groups: number of the group of each row. There are at least two groups.

    Returns:
        (N,)
    """
    of_rows, predicted = np.asarray(groups), np.empty(len(values))
    for group in set(groups):
        predicted[of_rows == group] = rows[of_rows == group] @ fit(rows[of_rows != group], values[of_rows != group])
    return predicted
