"""Seconds and memory of a whole case: what was measured beside the network, and as many tiles as the member lays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.latency.device import Device
from monai_prox.latency.parts import Parts, Work, whole_grid
from monai_prox.runtime.description import Description
from monai_prox.runtime.grid import ImageSize
from monai_prox.runtime.memory import FLOAT, needed_for
from monai_prox.trained.source import Members

AS_STORED = 8  # bytes of a voxel in a file, at most
COMMAND_MB = 15  # of the command beside what `profile` measures: what it imports as it runs, and what Python does not give back
MEASURE = "measure it again: monai-prox profile measure, or the script of a new monai-prox profile pack"


def size_of_case(source: Members, size: ImageSize | None) -> ImageSize:
    """The size of the case whose costs are predicted.

    Args:
        source: the family.
        size: as it was given, or None for the median of the training's images.

    Raises:
        ProXError: the family does not segment, or nothing tells the median.
    """
    if not source.kind.any_patch:
        raise ProXError("seconds and memory a case are known of networks that segment; this family classifies scans")
    size = size or source.median_image
    if size is None:
        raise ProXError(
            "nothing tells the median size of this family's images; give one, such as --case-shape 512 512 160 "
            "--case-spacing 0.8 0.8 1"
        )
    return size


@dataclass(frozen=True)
class CaseCosts:
    """What a case takes on a device, by each member, alone and without mirroring.

    Starting the command and opening the member's file are not counted, for many cases share them.

    Args:
        source: the family.
        device: its measurements on the device.
        size: of the image, which is taken to be nowhere 0, so that nothing of it is cropped away.
        parts: the measurements beside the network.

    Raises:
        ProXError: the image has no voxel on a member's grid, or more than prediction allows.
    """

    source: Members
    device: Device
    size: ImageSize
    parts: Parts

    @classmethod
    def of(cls, source: Members, device: Device, size: ImageSize | None = None) -> CaseCosts:
        """The costs of the median case, or of another size.

        Args:
            source: the family.
            device: its measurements on the device.
            size: of the image, or None for the median of the training's images.

        Raises:
            ProXError: see ``size_of_case``, or the device's file has no measurements beside the network.
        """
        size = size_of_case(source, size)
        if device.parts is None:
            raise ProXError(f"the device's file says nothing of a case beside the network; {MEASURE}")
        return cls(source, device, size, device.parts)

    @staticmethod
    def known(source: Members, device: Device) -> bool:
        """Whether ``of`` gives the costs of the median case.

        Args:
            source: the family.
            device: its measurements on the device.
        """
        return source.kind.any_patch and device.parts is not None and source.median_image is not None

    def seconds(self, subnet: Subnet) -> float:
        """The seconds of a case.

        Args:
            subnet: the member.
        """
        _, work, beside = self._beside(subnet)
        return beside + work.tiles * self.device.latency_ms(subnet) / 1e3

    def tiles(self, subnet: Subnet) -> int:
        """The number of times that the network runs.

        Args:
            subnet: the member.
        """
        return self._beside(subnet)[1].tiles

    def ram_gb(self, subnet: Subnet) -> float | None:
        """The most memory that the process takes at a time, in gigabytes of 10 ** 9 bytes.

        It is that of the process, of the command, of the open member, and what ``monai_prox.runtime.memory`` says of the case.

        Args:
            subnet: the member.

        Returns:
            None if the device's file does not have the memory of processes.
        """
        session = self.device.session_mb(subnet)
        if self.device.process_mb is None or session is None:
            return None
        description, _, _ = self._beside(subnet)
        grid = whole_grid(self.size, description)
        image = FLOAT * len(description.channels) * prod(grid.whole)
        reading = image + AS_STORED * prod(grid.whole)
        return (self.device.process_mb + COMMAND_MB + session) / 1e3 + max(reading, image + needed_for(grid, description)) / 1e9

    def check_known(self, names: Collection[str]) -> None:
        """Checks that costs are known.

        Args:
            names: "seconds", "ram_gb", or names of other costs.

        Raises:
            ProXError: the memory is asked for, and the device's file does not have it.
        """
        if "ram_gb" in names and self.ram_gb(self.device.family.space.largest()) is None:
            raise ProXError(
                "the device's file does not have the memory of its processes, which is measured on Linux alone; leave out "
                "--max-ram-gb and ram_gb"
            )

    def _beside(self, subnet: Subnet) -> tuple[Description, Work, float]:
        """What members of one resolution have in common: description, work, and seconds beside the network."""
        key = tuple(subnet.get("resolution", ()))
        if key not in self._known:
            description = self.source.describe(subnet)
            assert isinstance(description, Description)  # see of
            work = Work.of(self.size, description)
            self._known[key] = description, work, sum(self.parts.predicted(work).values())
        return self._known[key]

    @cached_property
    def _known(self) -> dict[Sequence[float], tuple[Description, Work, float]]:
        return {}

    def identity(self) -> list[Any]:
        """What the costs depend on beside the latencies, as text that is equal for equal costs."""
        sessions = sorted((str(subnet), size_mb) for subnet, size_mb in self.device.sessions.items())
        return [str(self.size), self.parts.to_json()["cases"], self.device.process_mb, sessions]
