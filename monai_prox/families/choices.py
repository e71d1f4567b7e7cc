"""What is elastic in a family, as files say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from monai_prox.errors import ProXError
from monai_prox.typed import listed, typed

MOST_CHOICES = 16  # of a dimension
Choices = TypeVar("Choices")


def read_choices(cls: type[Choices], data: Any, known: Mapping[str, Choices], *, lists: Sequence[str]) -> Choices:
    """data: a name of ``known``, or an object with some of the fields of ``cls``, of which ``lists`` may be written as JSON
    lists. Raises ProXError for others.
    """
    if isinstance(data, str):
        if data not in known:
            raise ProXError(f"the search space {data!r} is not known; known by name: {', '.join(known)}")
        return known[data]
    return typed(cls, listed(data, lists), "a search space")
