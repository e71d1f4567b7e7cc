"""The part of a stock network that is open: what it computes, saves and loads once choices have been closed.

Weights that only closed choices have are stale: they train no more while all around them do. But nnU-Net predicts and
validates with the whole network that its trainer builds from the plan, so this network itself has to do without them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.files import parse_json

ENTRY = "open_choices"  # of a state_dict, only if something is closed: JSON as bytes, of the choices by dimension


class OpenPart:
    """Makes the largest network of a family compute what the largest open member does.

    If nothing is closed, the network and its state_dict are stock. If something is, its state_dict has one more entry,
    ENTRY, which it takes back: loading one without it opens everything.

    supernet: of the whole family; its network is the one.
    """

    def __init__(self, supernet: SuperNet) -> None:
        self.supernet = supernet
        self._largest = supernet.family.space.largest()
        self.closed: dict[str, int] = {}
        hooks: Any = supernet.network  # public in torch 2.5, without underscores; these names are older and still there
        hooks._register_state_dict_hook(self._save)
        hooks._register_load_state_dict_pre_hook(self._load)

    def close(self, closed: Mapping[str, int]) -> None:
        """Sets what is closed: by dimension the choices that remain, none for all. Raises ProXError as ``narrow`` does."""
        self._largest = self.supernet.family.space.narrow(closed).largest()
        self.closed = dict(closed)
        network: Any = self.supernet.network
        if self.closed:
            network.forward = self._forward
        else:
            vars(network).pop("forward", None)  # its class has one

    def _forward(self, x: Tensor) -> Any:
        mode, self.supernet.training = self.supernet.training, self.supernet.network.training
        try:
            return self.supernet(x, self._largest)
        finally:
            self.supernet.training = mode

    def _save(self, network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if self.closed:
            state[prefix + ENTRY] = torch.tensor(list(json.dumps(self.closed).encode()), dtype=torch.uint8)

    def _load(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        self.close(_read(state.pop(prefix + ENTRY, None)))


def _read(entry: Tensor | None) -> dict[str, int]:
    if entry is None:
        return {}
    try:
        closed = parse_json(bytes(entry.tolist()), ENTRY)
    except (AttributeError, TypeError, ValueError):
        closed = None
    if not isinstance(closed, dict):
        raise ProXError(f"these weights' entry {ENTRY!r} does not say what is closed")
    return closed
