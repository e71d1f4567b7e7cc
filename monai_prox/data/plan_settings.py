"""What plans share: the settings that a user may give, also for a network that is trained already, and their JSON."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, TypeVar

from monai_prox.errors import ProXError
from monai_prox.typed import typed

P = TypeVar("P")
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
        as_stored = "None for images as stored, on a command line '$None'"
        raise ProXError(f"orientation is {orientation!r}; allowed: {ORIENTATION}, or {as_stored}")


def plan_of_kind(cls: type[P], kind: str, format: int, data: Any) -> P:
    """A plan from its JSON, which names its kind.

    Args:
        cls: the class of the plan.
        kind: the kind, such as "classification".
        format: the format that is read.
        data: what the plan's ``to_json`` returned.

    Raises:
        ProXError: ``data`` is something else.
    """
    problem = f"not a plan for {kind} of format {format}"
    if not isinstance(data, dict) or data.get("format") != format or data.get("kind") != kind:
        raise ProXError(f"{problem}: {data!r:.160}")
    return typed(cls, {key: value for key, value in data.items() if key not in ("format", "kind")}, problem)
