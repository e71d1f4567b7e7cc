"""What a device's measurements say of members that were not measured there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.files import read_json
from monai_prox.latency.measure import FORMAT
from monai_prox.typed import check_types

ENTRIES = {
    "format": Literal[FORMAT],
    "family": str,
    "runtime": str,
    "device": {"processor": str, "threads": int},
    "members": tuple[Mapping[str, Any], ...],
}
MEMBER = {"subnet": Mapping[str, tuple[float, ...]], "milliseconds": float}
FEWEST = 8  # members: as many as there are features, and some to say how far they carry


def fingerprint(family: Family, size: Sequence[int]) -> str:
    """The same for families whose members take as long: of the same space, layers and input ``size``."""
    ends = [
        [list(layer) for layer in family.layers(subnet, size)] for subnet in (family.space.smallest(), family.space.largest())
    ]
    return sha256(json.dumps([family.space.to_json(), list(size), ends]).encode()).hexdigest()[:16]


def features(family: Family, subnet: Subnet, size: Sequence[int]) -> NDArray[np.float64]:
    """What time is spent on: the call, layers, multiply-accumulates, feature maps, weights, and what convolutions move.

    A convolution of c to d channels with kernels of k voxels reads and writes about sqrt(c d k) values at each of its voxels.
    """
    layers = list(family.layers(subnet, size))
    running = [layer for layer in layers if layer.uses]
    moved = sum(sqrt(layer.weights) * layer.uses for layer in running)
    macs, live = sum(layer.weights * layer.uses for layer in running), sum(layer.live for layer in layers)
    return np.array([1, len(running), macs, live, sum(layer.weights for layer in running), moved], float)


@dataclass(frozen=True)
class Device:
    """A device's file, of ``measure.py``, for one family. name: processor, threads and runtime in words.

    machine: what the file says of it, see ``measure.device``.
    Latency is that of one input at the member's own resolution, a batch of one, in milliseconds.
    """

    family: Family
    size: tuple[int, ...]
    name: str
    measured: Mapping[Subnet, float]
    machine: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, family: Family, size: Sequence[int]) -> Device:
        """Raises ProXError where ``path`` is no such file, or of another family."""
        return cls.from_json(read_json(path), family, size, str(path))

    @classmethod
    def from_json(cls, data: Any, family: Family, size: Sequence[int], source: str) -> Device:
        """source: for the errors."""
        try:
            check_types(data, ENTRIES, source)
            for one in data["members"]:
                check_types(one, MEMBER, f"{source}, a member")
        except ProXError as error:
            raise ProXError(f"{source} is no device's file of monai-prox profile: {error}") from None
        name = f"{data['device']['processor']}, {data['device']['threads']} threads, {data['runtime']}"
        made_for = data["family"]
        measured = {Subnet.from_json(one["subnet"]): float(one["milliseconds"]) for one in data["members"]}
        if made_for != (own := fingerprint(family, size)):
            raise ProXError(
                f"{source} was measured with another family, {made_for}; this one is {own}: measure its own members, see "
                "monai-prox profile pack"
            )
        usable = {family.space.check(one): time for one, time in measured.items() if one in family.space and time > 0}
        if len(usable) < min(FEWEST, family.space.size()):
            raise ProXError(f"{source} has {len(usable)} members of this family, at least {FEWEST} are needed")
        return cls(family, tuple(size), name, usable, data["device"])

    def latency_ms(self, subnet: Subnet) -> float:
        """As measured, or predicted by ``features`` with a non-negative weight for each."""
        if subnet in self.measured:
            return self.measured[subnet]
        return float(features(self.family, subnet, self.size) @ self._weights)

    @cached_property
    def held_out_error(self) -> float:
        """Median of the relative errors of the prediction for each measured member from all others."""
        errors = []
        for index, time in enumerate(self._times):
            others = np.arange(len(self._times)) != index
            errors.append(abs(self._features[index] @ _fit(self._features[others], self._times[others]) / time - 1))
        return float(np.median(errors))

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return _fit(self._features, self._times)

    @cached_property
    def _features(self) -> NDArray[np.float64]:
        return np.stack([features(self.family, subnet, self.size) for subnet in self.measured])

    @cached_property
    def _times(self) -> NDArray[np.float64]:
        return np.array(list(self.measured.values()))


def _fit(rows: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights whose relative errors are least in squares."""
    scale = rows.max(0).clip(1e-12)
    weights, _ = nnls(rows / scale / times[:, None], np.ones(len(times)))
    return np.asarray(weights / scale)
