"""Prediction of the latency of members from measurements of others on the same device."""

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
FEWEST = 8  # members: one per feature, and a few to estimate the error


def fingerprint(family: Family, size: Sequence[int]) -> str:
    """A text that is equal for families whose members have equal latencies: with equal space, layers and input size.

    Args:
        family: the family.
        size: voxels per axis of the input at full resolution.
    """
    ends = [
        [list(layer) for layer in family.layers(subnet, size)] for subnet in (family.space.smallest(), family.space.largest())
    ]
    return sha256(json.dumps([family.space.to_json(), list(size), ends]).encode()).hexdigest()[:16]


def features(family: Family, subnet: Subnet, size: Sequence[int]) -> NDArray[np.float64]:
    """The numbers that latency is predicted from.

    They are 1 for the call, layers, multiply-accumulates, elements of feature maps, weights, and values that convolutions move.
    A convolution of c to d channels with kernels of k voxels moves about sqrt(c d k) values per voxel.

    Args:
        family: the family of the member.
        subnet: the member.
        size: voxels per axis of the input at full resolution.

    Returns:
        (6,)
    """
    layers = list(family.layers(subnet, size))
    running = [layer for layer in layers if layer.uses]
    moved = sum(sqrt(layer.weights) * layer.uses for layer in running)
    macs, live = sum(layer.weights * layer.uses for layer in running), sum(layer.live for layer in layers)
    return np.array([1, len(running), macs, live, sum(layer.weights for layer in running), moved], float)


@dataclass(frozen=True)
class Device:
    """The measurements of one family on one device.

    Latency is that of one input at the member's own resolution in a batch of one, in milliseconds.

    Args:
        family: the family.
        size: voxels per axis of the input at full resolution.
        name: processor, threads and runtime in words.
        measured: latency in milliseconds by member.
        machine: the description of the device in the file, see ``measure.device``.
    """

    family: Family
    size: tuple[int, ...]
    name: str
    measured: Mapping[Subnet, float]
    machine: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, family: Family, size: Sequence[int]) -> Device:
        """Reads a file that ``measure.py`` wrote.

        Args:
            path: path of the file.
            family: the family.
            size: voxels per axis of the input at full resolution.

        Raises:
            ProXError: the file is something else, is of another family, or has too few members.
        """
        return cls.from_json(read_json(path), family, size, str(path))

    @classmethod
    def from_json(cls, data: Any, family: Family, size: Sequence[int], source: str) -> Device:
        """The measurements in the content of such a file.

        Args:
            data: content of the file.
            family: the family.
            size: voxels per axis of the input at full resolution.
            source: the file, which the error names.

        Raises:
            ProXError: see ``read``.
        """
        try:
            check_types(data, ENTRIES, source)
            for member in data["members"]:
                check_types(member, MEMBER, f"{source}, a member")
        except ProXError as error:
            raise ProXError(f"{source} is no device's file of monai-prox profile: {error}") from None
        name = f"{data['device']['processor']}, {data['device']['threads']} threads, {data['runtime']}"
        made_for = data["family"]
        measured = {Subnet.from_json(member["subnet"]): float(member["milliseconds"]) for member in data["members"]}
        if made_for != (expected := fingerprint(family, size)):
            raise ProXError(
                f"{source} was measured with another family, {made_for}; this one is {expected}: measure its own members, see "
                "monai-prox profile pack"
            )
        usable = {family.space.check(member): time for member, time in measured.items() if member in family.space and time > 0}
        if len(usable) < min(FEWEST, family.space.size()):
            raise ProXError(f"{source} has {len(usable)} members of this family, at least {FEWEST} are needed")
        return cls(family, tuple(size), name, usable, data["device"])

    def latency_ms(self, subnet: Subnet) -> float:
        """The latency of a member in milliseconds, measured or predicted.

        The prediction is a sum of ``features``, each with a non-negative weight.

        Args:
            subnet: the member.
        """
        if subnet in self.measured:
            return self.measured[subnet]
        return float(features(self.family, subnet, self.size) @ self._weights)

    @cached_property
    def held_out_error(self) -> float:
        """The median relative error of the prediction, each measured member being predicted from the others."""
        errors = []
        for index, time in enumerate(self._times):
            fitted = np.arange(len(self._times)) != index
            errors.append(abs(self._features[index] @ _fit(self._features[fitted], self._times[fitted]) / time - 1))
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
    """Non-negative weights with the least sum of squared relative errors."""
    scale = rows.max(0).clip(1e-12)
    weights, _ = nnls(rows / scale / times[:, None], np.ones(len(times)))
    return np.asarray(weights / scale)
