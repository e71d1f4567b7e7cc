"""Where in plain data something can be changed."""

from collections.abc import Iterator
from typing import Any


def places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys and numbers that lead to ``data`` itself, to every object and list in it, and to every leaf."""
    yield place
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield from places(data[key], (*place, key))
