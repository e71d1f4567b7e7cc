"""Small steps of a configuration that would be expressions otherwise."""

from __future__ import annotations

import logging
from typing import Any


def listed(handler: Any) -> Any:
    """A handler that has an id of its own, as an entry of a list of handlers.

    MONAI's ``check_properties`` takes components there only, so "@train#validation" alone does not do, and a handler that is
    disabled would be None in the list, where a component that gives None is left out, as a disabled one is.
    """
    return handler


def quiet(engine: Any) -> None:
    """Lets an engine log warnings only: of every member's validation it would tell that it begins and ends."""
    engine.logger.setLevel(logging.WARNING)
