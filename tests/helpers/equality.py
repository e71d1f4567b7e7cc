"""Equality of what trainings leave: dictionaries and lists of tensors, arrays and numbers."""

from typing import Any

import numpy as np
import torch


def equal(a: Any, b: Any) -> bool:
    """Equal bit for bit, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray | float):
        return bool(np.array_equal(a, b, equal_nan=True))
    return bool(a == b)
