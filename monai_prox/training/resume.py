"""What a training has in common with the one that continues it, and states that older versions have saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_prox.errors import ProXError

FORMAT = 5  # of an engine's state_dict; version 0.1.0 has 4


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's ``state`` in the present format. Raises ProXError if it is of a format that this version does not read."""
    if state.get("format") == FORMAT:
        return dict(state)
    if state.get("format") != 4:
        raise ProXError(f"cannot continue: the checkpoint is of format {state.get('format')}, and this version reads {FORMAT}")
    stage = None if state["stage"] < 0 else state["stage"]
    return {"monitor": None, **state, "format": FORMAT, "stage": stage, "pretrained": state["keep_weights"]}


def upgraded_origin(origin: Mapping[str, Any]) -> dict[str, Any]:
    """``origin`` as an engine of this version has it, whose stages say ``new_weights`` and not ``birth``."""
    stages = origin.get("stages")
    if not isinstance(stages, list):
        return dict(origin)
    renamed = {"birth": "new_weights"}
    return {**origin, "stages": [{renamed.get(key, key): value for key, value in stage.items()} for stage in stages]}
