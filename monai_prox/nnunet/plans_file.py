"""An entry in a plans file, without a change to anything else in the file: no order, space or digit of other entries."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monai_prox.files import parse_json, replacing

SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()


def write_entry(path: Path, keys: Sequence[str], value: Any) -> None:
    """Puts an entry into a JSON file. The file is complete at any time, and keeps its permissions.

    Args:
        path: path of the file. If it is a link, the file that it leads to is changed.
        keys: the keys that lead to the entry. There is an object at each of them but the last.
        value: plain data.

    Raises:
        ProXError: the file is not JSON.
        OSError: the file cannot be written.
    """
    path = path.resolve()
    content = path.read_bytes()
    parse_json(content, path)
    encoding = json.detect_encoding(content)
    changed = with_entry(content.decode(encoding), keys, value)
    with replacing(path) as temporary:
        temporary.write_bytes(changed.encode(encoding))
        shutil.copymode(path, temporary)


def with_entry(text: str, keys: Sequence[str], value: Any) -> str:
    """A JSON text with an entry, which takes the place of the one that is there, or else follows the last one of its object.

    Args:
        text: valid JSON.
        keys: the keys that lead to the entry. There is an object at each of them but the last.
        value: plain data.

    >>> with_entry('{"a": {"b": 1.50}}', ["a", "c"], [2])
    '{"a": {"b": 1.50, "c": [2]}}'
    """
    start = _after_space(text, 0)
    for key in keys[:-1]:
        start = [begin for name, _, begin, _ in _members(text, start) if name == key][-1]  # of equal keys the last one counts
    members, written = list(_members(text, start)), json.dumps(value)
    for name, _, begin, end in reversed(members):
        if name == keys[-1]:
            return text[:begin] + written + text[end:]
    entry = f"{json.dumps(keys[-1])}: {written}"
    if not members:
        return text[: start + 1] + entry + text[start + 1 :]
    _, before, _, end = members[-1]
    separator = "," + (before if len(members) > 1 or before else " ")
    return text[:end] + separator + entry + text[end:]


def _members(text: str, start: int) -> Iterator[tuple[str, str, int, int]]:
    """The entries of the object that begins at ``start``: key, the white space before it, and where the value is."""
    position = start + 1
    while text[_after_space(text, position)] != "}":
        begin = _after_space(text, position)
        before = text[position:begin]
        key, position = DECODER.raw_decode(text, begin)
        begin = _after_space(text, _after_space(text, position) + 1)  # after the colon
        _, end = DECODER.raw_decode(text, begin)
        yield key, before, begin, end
        position = _after_space(text, end)
        if text[position] == ",":
            position += 1


def _after_space(text: str, position: int) -> int:
    found = SPACE.match(text, position)
    assert found is not None
    return found.end()
