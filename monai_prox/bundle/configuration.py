"""Functions of configurations, which would need expressions otherwise."""

from __future__ import annotations

import logging
from typing import Any

from monai_prox.errors import ProXError


def listed(handler: Any, **others: Any) -> Any:
    """Returns a handler that has an id, so that a list of handlers can contain it as a component.

    MONAI's ``check_properties`` accepts components in a list of handlers, but no reference such as "@train#validation". A
    reference to a disabled handler would also put None in the list, whereas MONAI leaves out a component that returns None.

    Args:
        handler: the handler, or None if it is disabled.
        others: nothing. A handler's arguments belong to its own id.

    Raises:
        ProXError: there are other arguments.

    >>> listed("handler")
    'handler'
    """
    if others:
        raise ProXError(f"{', '.join(others)}: a handler's arguments belong to its id, such as train#saver#n_saved")
    return handler


def switch(value: Any, name: str = "amp") -> bool:
    """A switch as users write it on a command line, where true and false are words.

    Args:
        value: true, false, or such a word.
        name: name of the switch.

    Raises:
        ProXError: it is something else.

    >>> switch("true"), switch(False)
    (True, False)
    """
    words = {"true": True, "false": False}
    found = words.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ProXError(f"{name} is {value!r:.80}; write True or False")
    return found


def quiet(engine: Any) -> None:
    """Makes an engine log warnings only. A validator would log the begin and the end of each member's validation.

    Args:
        engine: an engine of Ignite, for example MONAI's evaluator.
    """
    engine.logger.setLevel(logging.WARNING)
