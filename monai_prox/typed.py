"""Plain data from outside. Every value has to be of the type that is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from monai_prox.errors import ProXError

T = TypeVar("T")


def typed(cls: type[T], data: Any, subject: str) -> T:
    """A dataclass from plain data.

    Args:
        cls: the dataclass.
        data: an object with its fields. Fields with a default may be missing. Lists become tuples.
        subject: beginning of error messages.

    Raises:
        ProXError: a field is unknown or missing, or a value has another type.
    """
    kind_names = {field.name: str(field.type) for field in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(data, Mapping) or not set(data) <= set(kind_names):
        raise ProXError(f"{subject} has the fields {', '.join(sorted(kind_names))}, got {data!r:.160}")
    values, kinds = {}, _kinds(cls)  # type: ignore[arg-type]
    for name, value in data.items():
        try:
            values[name] = _convert(value, kinds[name], f"{subject}, {name}")
        except TypeError:
            raise ProXError(f"{subject}: {name} must be of type {kind_names[name]}, got {value!r:.80}") from None
    try:
        return cls(**values)
    except TypeError as error:
        raise ProXError(f"{subject}: {error}") from None


def listed(data: Any, names: Collection[str]) -> Any:
    """An object from a configuration in which single numbers stand for lists of one number.

    Args:
        data: the object. Other data is returned unchanged.
        names: fields that are lists.

    >>> listed({"width": 1, "depth": "full"}, ["width"])
    {'width': [1], 'depth': 'full'}
    """
    if not isinstance(data, Mapping):
        return data
    return {key: [value] if key in names and type(value) in (int, float) else value for key, value in data.items()}


def check_types(data: Any, kinds: Mapping[str, Any], source: Path | str, *, missing: bool = False) -> None:
    """Checks the types of the entries of an object. Other entries are allowed.

    Args:
        data: the object.
        kinds: types as in dataclasses, by the name of the entry. A mapping stands for an object with such entries.
        source: file or description that the error names.
        missing: whether entries may be missing.

    Raises:
        ProXError: ``data`` is not an object, or an entry is missing or has another type.
    """
    if not isinstance(data, Mapping):
        raise ProXError(f"{source} must be an object, got {data!r:.80}")
    for name, kind in kinds.items():
        if name not in data:
            if missing:
                continue
            raise ProXError(f"{source} has no {name!r}")
        if isinstance(kind, Mapping):
            check_types(data[name], kind, f"{source}, {name!r}", missing=missing)
            continue
        try:
            _convert(data[name], kind, f"{source}, {name!r}")
        except TypeError:
            kind_name = (
                kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "").replace("collections.abc.", "")
            )
            raise ProXError(f"{source}: {name!r} must be of type {kind_name}, got {data[name]!r:.80}") from None


@cache
def _kinds(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, which take long to evaluate for an object that is in a file ten thousand times."""
    return get_type_hints(cls)


def _convert(value: Any, kind: Any, subject: str) -> Any:
    """The value as the type ``kind``. Raises TypeError if it has another type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (origin is Literal and value in arguments):
        return value
    if origin in (Union, UnionType):
        return _convert_to_any(value, arguments, subject)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            return tuple(_convert(item, kind, subject) for item, kind in zip(value, kinds, strict=True))
    if kind is Mapping and isinstance(value, Mapping):
        return value
    if origin is Mapping and isinstance(value, Mapping):
        key_kind, value_kind = arguments
        return {_convert(key, key_kind, subject): _convert(item, value_kind, subject) for key, item in value.items()}
    if is_dataclass(kind):
        return typed(kind, value, subject)  # type: ignore[arg-type]
    if kind is float and type(value) in (int, float) and isfinite(value):
        return value
    if kind in (bool, int, str, type(None)) and type(value) is kind:
        return value
    raise TypeError


def _convert_to_any(value: Any, kinds: tuple[Any, ...], subject: str) -> Any:
    for kind in kinds:
        try:
            return _convert(value, kind, subject)
        except TypeError:
            continue
    raise TypeError
