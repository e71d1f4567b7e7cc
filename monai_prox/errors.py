"""The error for users, and what makes errors of others into it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 1000  # characters of a message
# Control characters, characters that change the direction of writing, and surrogates, which cannot be printed
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text in one line, without characters that a terminal obeys.

    Args:
        text: any text, for example the name of a user's file.

    >>> printable("line 1\\nline 2")
    'line 1 line 2'
    """
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.splitlines()))


class ProXError(ValueError):
    """An error that the user can correct. Its message says in one line what was wrong, its value and what to do.

    This holds for any text from a file: line breaks become spaces, and the middle of a long message is left out.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


@contextmanager
def refusing(subject: str) -> Iterator[None]:
    """Turns errors that wrong values from outside cause within the context into a ProXError. It is a decorator, too.

    It is for values that only other code checks, such as torch's layers or nnU-Net.

    Args:
        subject: beginning of the message.

    Raises:
        ProXError: the code within the context raised an error.

    >>> with refusing("the patch"):
    ...     int("large")
    Traceback (most recent call last):
    monai_prox.errors.ProXError: the patch: ValueError: invalid literal for int() with base 10: 'large'
    >>> with refusing("the plans cannot be used"):
    ...     {}["transpose_forward"]
    Traceback (most recent call last):
    monai_prox.errors.ProXError: the plans cannot be used: there is no 'transpose_forward'
    """
    try:
        yield
    except ProXError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        kind = "there is no" if isinstance(error, KeyError) else f"{type(error).__name__}:"  # its text is the entry's name
        raise ProXError(f"{subject}: {kind} {' '.join(str(error).split()):.160}") from error
