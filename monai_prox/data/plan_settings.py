"""Settings of a plan that a user may give, also for a network that is trained already."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from monai_prox.errors import ProXError

ORIENTATION = "RAS"
PREDICTION = ("spacing", "patch_size", "orientation")  # settings that a trained network still takes


def check_settings(*, spacing: Any = None, patch_size: Any = None, orientation: Any = None) -> None:
    """Checks settings that a user gives.

    Args:
        spacing: mm per axis (x, y, z), or None.
        patch_size: voxels per axis (x, y, z), or None.
        orientation: axis codes, or None.

    Raises:
        ProXError: one of them is out of range.
    """
    for name, numbers in (("spacing", spacing), ("patch_size", patch_size)):
        if numbers is None:
            continue
        plain = isinstance(numbers, Sequence) and all(type(size) in (int, float) for size in numbers)
        if not plain or len(numbers) != 3 or not all(isfinite(size) and size > 0 for size in numbers):
            given = list(numbers) if plain else numbers
            raise ProXError(f"{name} is {given!r:.80}; it must be three positive numbers, for the axes x, y, z")
    if patch_size is not None and any(size != int(size) for size in patch_size):
        raise ProXError(f"patch_size is {list(patch_size)}; it must be three positive whole numbers, for the axes x, y, z")
    if orientation not in (None, ORIENTATION):
        raise ProXError(f"orientation is {orientation!r}; allowed: {ORIENTATION}, or None for images as stored")


def numbered(what: str, count: int) -> tuple[str, ...]:
    """Names of what nobody has named.

    Args:
        what: what it is.
        count: how many there are.

    >>> numbered("channel", 2)
    ('channel 0', 'channel 1')
    """
    return tuple(f"{what} {number}" for number in range(count))
