"""Equality of what trainings leave: dictionaries and lists of tensors, arrays and numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def difference(a: Any, b: Any, where: str = "state") -> str | None:
    """The first place at which they are not equal bit for bit, through dictionaries and lists; None if there is none."""
    if isinstance(a, torch.Tensor):
        return None if isinstance(b, torch.Tensor) and torch.equal(a, b) else where
    if isinstance(a, Mapping):
        if not isinstance(b, Mapping) or a.keys() != b.keys():
            return where
        return next(filter(None, (difference(a[key], b[key], f"{where}.{key}") for key in a)), None)
    if isinstance(a, list | tuple):
        if not isinstance(b, list | tuple) or len(a) != len(b):
            return where
        pairs = enumerate(zip(a, b, strict=True))
        return next(filter(None, (difference(*pair, f"{where}[{index}]") for index, pair in pairs)), None)
    same = np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray | float) else a == b
    return None if same else where


def equal(a: Any, b: Any) -> bool:
    return difference(a, b) is None


def assert_equal(a: Any, b: Any, where: str = "state") -> None:
    assert difference(a, b, where) is None
