"""How tests say that a call is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from monai_prox.errors import ProXError


def refused(what: str, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
    """The one line that ``call`` refuses with, which holds ``what`` word for word."""
    with pytest.raises(ProXError) as error:
        call(*arguments, **keywords)
    assert what in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)
