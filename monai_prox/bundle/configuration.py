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


def quiet(engine: Any) -> None:
    """Makes an engine log warnings only. A validator would log the begin and the end of each member's validation.

    Args:
        engine: an engine of Ignite, for example MONAI's evaluator.
    """
    engine.logger.setLevel(logging.WARNING)
