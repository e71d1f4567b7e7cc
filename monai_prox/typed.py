"""Dataclasses of plain data, read from files of others: every value has to be of the type that its field is annotated with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from monai_prox.errors import ProXError

T = TypeVar("T")


def typed(cls: type[T], data: Any, what: str) -> T:
    """The dataclass ``cls`` of ``data``, an object with its fields; fields with a default may be missing. Lists become tuples.

    Raises ProXError, which begins with ``what``, for other fields and for values of other types.
    """
    known = {field.name: str(field.type) for field in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(data, Mapping) or not set(data) <= set(known):
        raise ProXError(f"{what} has the fields {', '.join(sorted(known))}, got {data!r:.160}")
    values, kinds = {}, get_type_hints(cls)
    for name, value in data.items():
        try:
            values[name] = _convert(value, kinds[name], f"{what}, {name}")
        except TypeError:
            raise ProXError(f"{what}: {name} must be of type {known[name]}, got {value!r:.80}") from None
    try:
        return cls(**values)
    except TypeError as error:
        raise ProXError(f"{what}: {error}") from None


def _convert(value: Any, kind: Any, what: str) -> Any:
    """``value`` as one of ``kind``. Raises TypeError where it is none."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (origin is Literal and value in arguments):
        return value
    if origin in (Union, UnionType):
        return None if value is None else _convert(value, arguments[0], what)
    if origin is tuple and isinstance(value, (list, tuple)):
        of = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(of) == len(value):
            return tuple(_convert(one, kind, what) for one, kind in zip(value, of, strict=True))
    if origin is Mapping and isinstance(value, Mapping):
        return value
    if is_dataclass(kind):
        return typed(kind, value, what)  # type: ignore[arg-type]
    if kind is float and type(value) in (int, float) and isfinite(value):
        return value
    if kind in (bool, int, str) and type(value) is kind:
        return value
    raise TypeError
