"""Prediction of the latency of members from measurements of others on the same device."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.files import read_json
from monai_prox.latency.fit import fit, left_out
from monai_prox.latency.measure import FORMAT
from monai_prox.latency.parts import Parts
from monai_prox.typed import check_types

ENTRIES = {
    "format": Literal[FORMAT],
    "family": str,
    "runtime": str,
    "device": {"processor": str, "threads": int},
    "members": tuple[Mapping[str, Any], ...],
}
FURTHER = {"pipeline": Mapping[str, Any] | None, "process_mb": float | None}  # what earlier versions did not measure
MEMBER = {"subnet": Mapping[str, tuple[float, ...]], "milliseconds": float}
OF_SOME = {"session_mb": float}
SMALLEST_MB, LARGEST_MB = 1e-3, 1e9
FEWEST_SESSIONS = 3  # members whose memory was measured
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


def _sizes(family: Family, subnet: Subnet, size: Sequence[int]) -> NDArray[np.float64]:
    """The numbers that the memory of an open member is predicted from: 1, and megabytes of weights and of feature maps."""
    counted = cost.member_cost(family, subnet, size)
    return np.array([1, counted.file_mb, counted.memory_mb - counted.file_mb])


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
        parts: seconds of a case beside the network, or None if they were not measured.
        process_mb: megabytes of a process that predicts, before it opens a member, or None if they were not measured.
        sessions: megabytes that an open member adds once it has run, by member. It has some members, or none.
    """

    family: Family
    size: tuple[int, ...]
    name: str
    measured: Mapping[Subnet, float]
    machine: Mapping[str, Any]
    parts: Parts | None = None
    process_mb: float | None = None
    sessions: Mapping[Subnet, float] = field(default_factory=dict)

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
            check_types(data, FURTHER, source, missing=True)
            for member in data["members"]:
                check_types(member, MEMBER, f"{source}, a member")
                check_types(member, OF_SOME, f"{source}, a member", missing=True)
            sizes = [data.get("process_mb"), *(member.get("session_mb") for member in data["members"])]
            if not all(size_mb is None or SMALLEST_MB <= size_mb <= LARGEST_MB for size_mb in sizes):
                raise ProXError(f"{source}: 'process_mb' and 'session_mb' are {SMALLEST_MB:g} to {LARGEST_MB:g}")
            found = data.get("pipeline")
            parts = None if found is None else Parts.from_json(found, source)
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
        sessions = {Subnet.from_json(of["subnet"]): float(of["session_mb"]) for of in data["members"] if "session_mb" in of}
        sessions = {subnet: size_mb for subnet, size_mb in sessions.items() if subnet in usable}
        return cls(family, tuple(size), name, usable, data["device"], parts, data.get("process_mb"), sessions)

    def latency_ms(self, subnet: Subnet) -> float:
        """The latency of a member in milliseconds, measured or predicted.

        The prediction is a sum of ``features``, each with a non-negative weight.

        Args:
            subnet: the member.
        """
        if subnet in self.measured:
            return self.measured[subnet]
        return float(features(self.family, subnet, self.size) @ self._weights)

    def session_mb(self, subnet: Subnet) -> float | None:
        """The megabytes that a member adds to a process that opens and runs it, measured or predicted.

        The prediction is a sum of a constant, the weights and the feature maps, each with a non-negative weight.

        Args:
            subnet: the member.

        Returns:
            None if too few members were measured.
        """
        if subnet in self.sessions:
            return self.sessions[subnet]
        if self._session_weights is None:
            return None
        return float(_sizes(self.family, subnet, self.size) @ self._session_weights)

    @cached_property
    def _session_weights(self) -> NDArray[np.float64] | None:
        if self.process_mb is None or len(self.sessions) < min(FEWEST_SESSIONS, self.family.space.size()):
            return None
        rows = np.stack([_sizes(self.family, subnet, self.size) for subnet in self.sessions])
        return fit(rows, np.array(list(self.sessions.values())))

    @cached_property
    def held_out_error(self) -> float:
        """The median relative error of the prediction, each measured member being predicted from the others."""
        predicted = left_out(self._features, self._times, range(len(self._times)))
        return float(np.median(abs(predicted / self._times - 1)))

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return fit(self._features, self._times)

    @cached_property
    def _features(self) -> NDArray[np.float64]:
        return np.stack([features(self.family, subnet, self.size) for subnet in self.measured])

    @cached_property
    def _times(self) -> NDArray[np.float64]:
        return np.array(list(self.measured.values()))
