"""A small network over the whole image, and the large one only where that matters.

The small network lays its tiles side by side, without overlap. Then the large one runs in the box around all that was found, or
on those of its own tiles in which the small one is unsure. Everywhere else the small one's result stays. Both networks are of
one family, or of one plan, and of one resolution, so what is prepared of an image serves both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_prox.errors import ProXError
from monai_prox.runtime.description import Description, ScanDescription
from monai_prox.runtime.model import Network
from monai_prox.runtime.postprocessing import TOUCHING
from monai_prox.runtime.resampling import Array
from monai_prox.runtime.sliding_window import sliding_window

APART = 1.0  # of the patch: the small network's tiles
MARGIN, MOST_MARGIN = 20.0, 10_000  # mm
SURE = 20.0  # a logit whose probability is 1 but for rounding
# In which the two networks may differ
OWN = {"member", "subnet", "source", "patch", "mirroring", "postprocessing", "precision", "stored_orientation"}

Logits = NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class Locator:
    """A small network that says where a large one runs.

    network, description: of the small one. margin: mm on all sides of what it finds. specks: parts of that, connected also
    at corners, which have less than this share of the largest one's voxels are taken for nothing. unsure: None for the box
    around what is found; or how far apart the probabilities of its two best classes, or of each region and its absence, are at
    most where it is unsure.
    """

    network: Network
    description: Description | ScanDescription
    margin: float = MARGIN
    specks: float = 0.0
    unsure: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= MOST_MARGIN:
            raise ProXError(f"--margin is a distance in mm, 0 to {MOST_MARGIN:,}, got {self.margin:g}")
        if not 0 <= self.specks <= 1:
            raise ProXError(f"--specks is a share of the largest part that is found, 0 to 1, got {self.specks:g}")
        if self.unsure is not None and not 0 < self.unsure <= 1:
            raise ProXError(f"--unsure is a difference of probabilities, above 0 and at most 1, got {self.unsure:g}")

    def check(self, large: Description) -> None:
        """Raises ProXError unless the small network sees the same as the large one, and says the same."""
        small = self.description
        if not isinstance(small, Description):
            raise ProXError(f"--locate names {small.member}, which classifies; it must be a network that segments")
        for name in (field.name for field in fields(Description) if field.name not in OWN):
            if (of := getattr(small, name)) != (wanted := getattr(large, name)):
                raise ProXError(
                    f"--locate names a network whose {name} is {of!s:.80}, and the large one's is {wanted!s:.80}; both must be "
                    "of one family or one plan, and of one resolution"
                )

    def logits(
        self,
        prepared: Array,
        spacing: Sequence[float],
        large: Callable[[Array], Array],
        description: Description,
        step: float,
        done: Callable[[int], object] | None = None,
        *,
        name: str = "the image",
    ) -> Logits:
        """prepared: (C, *grid); spacing: of the grid, in mm -> logits (outputs, *grid).

        large: the large network, of this description, with tiles at most ``step`` of its patch apart. done: called with the
        number of its tiles after each. name: of the case, for a warning.
        """
        patch = description.patch
        found = sliding_window(prepared, self.description.patch, description.outputs, self.network, step=APART)
        seen = self._seen(found, exclusive=description.regions is None)
        if not seen.any():
            if self.unsure is not None:
                return found
            warnings.warn(
                f"{name}: nothing is found by the network of --locate, so the large one runs everywhere", stacklevel=2
            )
            return sliding_window(prepared, patch, description.outputs, large, step=step, done=done)
        if self.unsure is not None:
            return sliding_window(prepared, patch, description.outputs, large, step=step, done=done, onto=(found, seen))
        if self.specks:
            self._forget_specks(found, seen, exclusive=description.regions is None)
        box = slice(None), *self._around(seen, spacing, (1, *patch)[-3:])
        found[box] = sliding_window(prepared[box], patch, description.outputs, large, step=step, done=done)
        return found

    def _seen(self, logits: Logits, *, exclusive: bool) -> NDArray[np.bool_]:
        """Where there is something, or where it is unsure. One slice at a time, for logits are the largest thing in memory."""
        seen = np.zeros(logits.shape[1:], bool)
        for z in range(len(seen)):
            values = logits[:, z].astype(np.float32)
            if self.unsure is None:
                seen[z] = values.argmax(0) > 0 if exclusive else (values > 0).any(0)
            elif exclusive and len(values) > 1:
                values -= values.max(0)
                np.exp(values, out=values)
                values /= values.sum(0)
                values.partition(len(values) - 2, axis=0)
                seen[z] = values[-1] - values[-2] <= self.unsure
            elif not exclusive:
                seen[z] = (np.abs(np.tanh(values / 2)) <= self.unsure).any(0)
        return seen

    def _forget_specks(self, found: Logits, seen: NDArray[np.bool_], *, exclusive: bool) -> None:
        """Takes them out of both. One slice at a time, as above: numpy counts and indexes by eight bytes a voxel."""
        parts, count = ndimage.label(seen, TOUCHING)
        sizes = np.zeros(count + 1, np.intp)
        for plane in parts:
            sizes += np.bincount(plane.ravel(), minlength=count + 1)
        small = sizes < self.specks * sizes[1:].max()
        small[0] = False  # that is where nothing is
        nothing = _nothing(len(found), exclusive=exclusive)
        for z, plane in enumerate(parts):
            specks = small.take(plane)
            seen[z] &= ~specks
            found[:, z, specks] = nothing

    def _around(self, seen: NDArray[np.bool_], spacing: Sequence[float], patch: Sequence[int]) -> tuple[slice, ...]:
        """The box around what is seen with its margin, and as large as a patch where the image is."""
        (box,) = ndimage.find_objects(seen.view(np.uint8))
        sides = []
        for part, size, mm, side in zip(box, seen.shape, spacing, patch, strict=True):
            start, stop = max(0, part.start - ceil(self.margin / mm)), min(size, part.stop + ceil(self.margin / mm))
            start = max(0, min(start - (side - (stop - start)) // 2, size - side)) if stop - start < side else start
            sides.append(slice(start, max(stop, min(size, start + side))))
        return tuple(sides)


def _nothing(outputs: int, *, exclusive: bool) -> Logits:
    """Logits (outputs, 1) of a voxel without anything."""
    logits = np.full((outputs, 1), -SURE, np.float16)
    if exclusive:
        logits[0] = SURE
    return logits
