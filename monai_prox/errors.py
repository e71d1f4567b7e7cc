"""The one error that users are meant to read."""

from __future__ import annotations


class ProXError(ValueError):
    """Something the user can mend: the message names what was wrong, its value and what to do, in one line."""
