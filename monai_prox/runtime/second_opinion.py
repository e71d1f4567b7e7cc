"""Another network that segments the same cases: where it agrees with the first one, the first one is more often right.

Both see the same images, and each prepares them by its own plan. Their segmentations are compared on the image's grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.runtime.description import Description
from monai_prox.runtime.dice import foreground, mean_dice
from monai_prox.runtime.model import Model, Network

SAME = ("labels", "regions", "channels", "reader", "file_ending", "orientation")  # or segmentations cannot be compared
PREPARED = ("spacing", "transpose", "normalisation", "images", "cropped", "normalised_first")  # what an image is prepared by


@dataclass(frozen=True, kw_only=True)
class SecondOpinion:
    """network, description: of the other network."""

    network: Network
    description: Description

    @classmethod
    def of(cls, model: Model) -> SecondOpinion:
        """Raises ProXError for a file that classifies."""
        if not isinstance(model.description, Description):
            raise ProXError(f"--second-opinion names {model.path}, which classifies; it must be a network that segments")
        return cls(network=model, description=model.description)

    def check(self, first: Description) -> None:
        """Raises ProXError unless both networks segment the same labels in the same images."""
        second = self.description
        stored = ("stored_orientation",) if first.stored_orientation and second.stored_orientation else ()
        for name in (*SAME, *stored):
            if (of := getattr(second, name)) != (wanted := getattr(first, name)):
                raise ProXError(
                    f"--second-opinion names a network whose {name} is {of!s:.80}, and the first one's is {wanted!s:.80}; both "
                    "must segment the same labels in the same images"
                )

    def shares_images(self, first: Description) -> bool:
        """Whether what is prepared of an image for the first network serves this one, too."""
        return all(getattr(self.description, name) == getattr(first, name) for name in PREPARED)


def agreement(first: NDArray[np.integer], second: NDArray[np.integer], labels: Mapping[str, Any]) -> float:
    """Dice between two segmentations (z, y, x) of a case, the mean over the labels or regions that one of them has.

    NaN if both have none: that networks agree to see nothing does not tell whether there is something. One slice at a time,
    because images are large. labels: see ``foreground``.
    """
    classes = foreground(labels).values()
    counts = np.zeros((3, len(classes)))
    for slices in zip(first, second, strict=True):
        for number, values in enumerate(classes):
            a, b = (np.isin(of, values) for of in slices)
            counts[:, number] += np.sum(a & b), np.sum(a & ~b), np.sum(~a & b)
    return mean_dice(counts)
