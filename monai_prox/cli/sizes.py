"""Counts and sizes as people write them: 2000000, 2e6, 500k, 2M, 1.5G."""

from __future__ import annotations

import re
from math import isfinite

from monai_prox.errors import ProXError

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
SIZE = re.compile(r"\s*(?P<number>[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?)\s*(?P<unit>[kmgt]?)(?P<bytes>b?)\s*", re.IGNORECASE)


def read_count(text: str | None, option: str) -> float | None:
    """A number of things, such as weights.

    Args:
        text: the number, with or without a unit: k, M, G or T, of 1000 each. None stays None.
        option: the option that the error names.

    Raises:
        ProXError: the text is no such number.

    >>> read_count("1.5G", "--max-macs"), read_count("2e6", "--max-params")
    (1500000000.0, 2000000.0)
    """
    if text is None:
        return None
    number, unit, of_bytes = _parts(text)
    if number is None or of_bytes:
        raise ProXError(f"{option} is {text!r:.80}; it must be a number such as 2000000, 2e6, 500k, 2M or 1.5G")
    return number * UNITS[unit]


def read_megabytes(text: str | None, option: str) -> float | None:
    """A size in megabytes of 10 ** 6 bytes.

    Args:
        text: the number of megabytes, or a number of bytes with a unit: k, M, G or T, also kB and so on. None stays None.
        option: the option that the error names.

    Raises:
        ProXError: the text is no such size.

    >>> read_megabytes("900", "--max-memory-mb"), read_megabytes("1.5GB", "--max-memory-mb")
    (900.0, 1500.0)
    """
    if text is None:
        return None
    number, unit, of_bytes = _parts(text)
    if number is None or (of_bytes and not unit):
        raise ProXError(f"{option} is {text!r:.80}; it must be megabytes, such as 900, or a size such as 500k, 900M or 1.5G")
    return number * UNITS[unit] / 1e6 if unit else number


def _parts(text: str) -> tuple[float | None, str, bool]:
    """The number, the unit as in UNITS, and whether it is one of bytes. The number is None if the text is something else."""
    found = SIZE.fullmatch(text)
    if found is None or not isfinite(float(found["number"])):
        return None, "", False
    return float(found["number"]), found["unit"].lower(), bool(found["bytes"])
