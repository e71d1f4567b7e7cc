"""What tests of whole cases share: measurements of a device whose seconds are exactly sums of the features."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_prox.core import cost
from monai_prox.core.space import Subnet
from monai_prox.latency.parts import PARTS, Parts, Work, features
from monai_prox.runtime.description import Description
from monai_prox.runtime.grid import ImageSize
from monai_prox.trained.source import Members

WEIGHTS = {
    "read": [5e-3, 2e-8],
    "prepare": [1e-3, 1e-8, 3e-8, 1e-10, 1e-5],
    "tiles": [1e-4, 2e-5, 1e-9, 3e-9],
    "labels": [2e-3, 1e-8, 1e-8, 5e-9, 1e-5],
    "write": [1e-2, 1e-8],
}
PROCESS_MB = 150.0
SIZES = [ImageSize((side, 2 * side, side + 5), (1.0, 1.1, 0.9)) for side in (10, 14, 20, 28)]


def made_up_parts(descriptions: Sequence[Description], sizes: Sequence[ImageSize] = SIZES, noise: float = 0.0) -> Parts:
    """The parts of images of these sizes, with relative ``noise``, by the smallest member and the largest."""
    generator = random.Random(1)
    works = [Work.of(size, description) for size in sizes for description in descriptions]
    seconds = {
        part: tuple(float(np.dot(features(part, w), WEIGHTS[part])) * (1 + generator.gauss(0, noise)) for w in works)
        for part in PARTS
    }
    return Parts(tuple(works), seconds, tuple(number for number in range(len(sizes)) for _ in descriptions))


def session_mb(source: Members, subnet: Subnet) -> float:
    """The memory of a member that is open."""
    counted = cost.member_cost(source.supernet.family, subnet, source.size)
    return 3 + 1.5 * counted.file_mb + 2 * (counted.memory_mb - counted.file_mb)


def with_cases(data: dict[str, Any], source: Members) -> dict[str, Any]:
    """A device's file of ``searches.made_up_device`` with the parts of a case and the memory."""
    space = source.supernet.family.space
    descriptions: Any = [source.describe(space.smallest()), source.describe(space.largest())]
    parts = made_up_parts(descriptions)
    members = [
        {**member, **({"session_mb": session_mb(source, Subnet.from_json(member["subnet"]))} if index % 4 == 0 else {})}
        for index, member in enumerate(data["members"])
    ]
    return data | {"pipeline": parts.to_json(), "process_mb": PROCESS_MB, "members": members}
