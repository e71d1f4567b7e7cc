"""What is elastic in a family, as plain data from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from monai_prox.errors import ProXError
from monai_prox.typed import listed, typed

MOST_CHOICES = 16  # per dimension
QUARTERS = (0.25, 0.5, 0.75, 1.0)
FEWEST_FEATURES = 4  # in the first stage: with 2 a class of the hippocampus was never found
Choices = TypeVar("Choices")


def check_numbers(name: str, values: Any) -> None:
    """Refuses what is no tuple or list of numbers with a ProXError.

    Args:
        name: name of the field.
        values: its value.
    """
    if not isinstance(values, (tuple, list)) or any(type(value) not in (int, float) for value in values):
        raise ProXError(f"{name} is {values!r:.80}; it must be a tuple of numbers")
    if len(values) > MOST_CHOICES:
        raise ProXError(f"{name} has {len(values):,} choices, at most {MOST_CHOICES} are allowed")


def check_fractions(name: str, values: Any) -> None:
    """Refuses what is no ascending list of fractions that ends in 1 with a ProXError.

    Args:
        name: name of the field.
        values: its value.
    """
    check_numbers(name, values)
    in_order = list(values) == sorted(set(values)) and all(0 < value <= 1 for value in values)
    if not values or not in_order or values[-1] != 1:
        raise ProXError(f"{name} must be ascending fractions that end in 1, got {list(values)!s:.80}")


def width_fractions(width: tuple[float, ...] | None, features: int) -> tuple[float, ...]:
    """The fractions of a network's features, ascending.

    Args:
        width: those that were asked for. None means quarters, without the first if that leaves too few features.
        features: those of the network's first stage.
    """
    if width is not None:
        return width
    return QUARTERS if features * QUARTERS[0] >= FEWEST_FEATURES else QUARTERS[1:]


def read_choices(cls: type[Choices], data: Any, known: Mapping[str, Choices], *, lists: Sequence[str]) -> Choices:
    """The choices that a configuration asks for.

    Args:
        cls: the class of the choices.
        data: a name of ``known``, or an object with some of the fields of ``cls``.
        known: choices by name.
        lists: fields that may be JSON lists.

    Raises:
        ProXError: the name is unknown, or a field is unknown, has another type or is out of range.
    """
    if isinstance(data, str):
        if data not in known:
            raise ProXError(f"the search space {data!r} is not known; known by name: {', '.join(known)}")
        return known[data]
    return typed(cls, listed(data, lists), "a search space")
