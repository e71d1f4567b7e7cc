"""The one error that users are meant to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 1000  # characters of a message
# What a terminal obeys, and what turns the direction of writing; and halves of characters, which cannot be printed
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` in a line, without what names in somebody's files could do to a terminal."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.splitlines()))


class ProXError(ValueError):
    """Something the user can mend: the message names what was wrong, its value and what to do, in one line.

    That holds whatever a file has put into it: line breaks become spaces, and of a long message the middle is left out.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


@contextmanager
def refusing(subject: str) -> Iterator[None]:
    """Within it, whatever values from outside make code raise becomes a ProXError that begins with ``what``.

    For data that others check, or nobody: torch's layers, nnU-Net's plans. A decorator, too.
    """
    try:
        yield
    except ProXError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ProXError(f"{subject}: {type(error).__name__}: {' '.join(str(error).split()):.160}") from error
