"""States of engines that older versions have saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_prox.errors import ProXError

FORMAT = 5  # of an engine's state_dict; version 0.1.0 has 4


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an engine in the current format.

    Args:
        state: what ``Engine.state_dict`` returned, in this version or in 0.1.0.

    Raises:
        ProXError: the state has another format.
    """
    if state.get("format") == FORMAT:
        return dict(state)
    if state.get("format") != 4:
        found = state.get("format")
        raise ProXError(f"cannot continue: the checkpoint is of format {found}, and this version reads 4 and {FORMAT}")
    stage = None if state["stage"] < 0 else state["stage"]
    return {"monitor": None, **state, "format": FORMAT, "stage": stage, "pretrained": state["keep_weights"]}


def upgraded_origin(origin: Mapping[str, Any]) -> dict[str, Any]:
    """The origin of a training as ``Engine.origin`` returns it now. In 0.1.0 the stages had ``birth`` for ``new_weights``.

    Args:
        origin: what ``Engine.origin`` returned, possibly with further entries.
    """
    stages = origin.get("stages")
    if not isinstance(stages, list):
        return dict(origin)
    renamed = {"birth": "new_weights"}
    return {**origin, "stages": [{renamed.get(key, key): value for key, value in stage.items()} for stage in stages]}
