"""What is elastic in a family, as plain data from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from monai_prox.errors import ProXError
from monai_prox.typed import listed, typed

MOST_CHOICES = 16  # per dimension
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
