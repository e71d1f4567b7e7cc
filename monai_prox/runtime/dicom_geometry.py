"""Where the images of a DICOM series lie: one volume of evenly spaced, parallel slices, or a line that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import atan2, degrees
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from monai_prox.errors import ProXError
from monai_prox.runtime.images import Grid

NEEDED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "Rows",
    "Columns",
    "BitsAllocated",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
)
SAME_DIRECTION = 1e-3  # between cosines, which some scanners write with three or four digits
SAME_PLACE = 1e-3  # mm
SAME_SPACING = 1e-4  # mm
DIGITS = 5  # of the distance between slices, for that of images from the same scanner differs in what positions round to
UNEVEN = 0.1  # of the distance between slices: how far one may be from its even place
GAP = 1.5  # times the usual distance, from which a slice is missing
SIDEWAYS = 0.5  # pixels: how far slices may be beside each other over the whole stack
# What the images of a volume have in common: number of values, how far they may differ, in words
SHARED = (
    ("Rows", 1, 0, "numbers of rows"),
    ("Columns", 1, 0, "numbers of columns"),
    ("PixelSpacing", 2, SAME_SPACING, "sizes of pixels"),
    ("ImageOrientationPatient", 6, SAME_DIRECTION, "orientations"),
)


def in_order(headers: Sequence[Dataset]) -> tuple[list[int], Grid]:
    """-> the images' order along the normal of their rows and columns, and the volume's grid.

    Raises ProXError where they are no volume.
    """
    _check_kind(headers)
    rows, columns, spacing, directions = (_shared(headers, *of) for of in SHARED)
    across, down = directions[:3], directions[3:]
    if (
        not (np.allclose([across @ across, down @ down], 1, atol=2 * SAME_DIRECTION) and abs(across @ down) < SAME_DIRECTION)
        or not (spacing > 0).all()
    ):
        raise ProXError("its images' rows and columns are not at right angles, or have no size")
    down = down - (down @ across) / (across @ across) * across  # exactly so, whatever digits were written
    across, down = across / np.linalg.norm(across), down / np.linalg.norm(down)
    normal = np.cross(across, down)
    positions = np.array([_numbers(header, "ImagePositionPatient", 3) for header in headers])
    order = np.argsort(positions @ normal, kind="stable").tolist()
    positions = positions[order]
    thickness = _distance(positions @ normal)
    _check_upright(positions, np.stack([across, down]), normal, float(spacing.min()))
    direction = np.stack([across, down, normal], axis=1)
    size = int(columns), int(rows), len(headers)
    at = float(spacing[1]), float(spacing[0]), thickness  # PixelSpacing is the distance of rows, and of columns
    return order, Grid(size, at, tuple(positions[0].tolist()), tuple(direction.ravel().tolist()))


def _check_kind(headers: Sequence[Dataset]) -> None:
    """Raises ProXError for images that cannot be slices of a volume."""
    count = len(headers)
    if any(_frames(header) != 1 for header in headers):
        raise ProXError("its files have several frames each (enhanced multi-frame); export it with one image a file")
    for keyword in NEEDED:
        if lacking := sum(header.get(keyword) in (None, "") for header in headers):
            raise ProXError(f"{lacking} of its {count} images have no {keyword}, so they are no slices of a volume")
    colours = {str(header.get("PhotometricInterpretation")) for header in headers}
    if colours != {"MONOCHROME2"}:
        raise ProXError(f"its images are {', '.join(sorted(colours))!s:.80}; only grey ones, MONOCHROME2, are read")
    if any("LOCALIZER" in (header.get("ImageType") or ()) for header in headers):
        raise ProXError("its images are localizers, which are no volume")
    if count == 1:
        raise ProXError("it has 1 image; a volume has 2 or more")
    if doubled := count - len({str(header.SOPInstanceUID) for header in headers}):
        raise ProXError(f"{doubled} of its {count} images are there twice; leave one file of each")
    for keyword, what in (("StudyInstanceUID", "studies"), ("FrameOfReferenceUID", "frames of reference")):
        if (different := len({str(header.get(keyword)) for header in headers})) > 1:
            raise ProXError(f"its images are of {different} {what}; a volume has one")


def _frames(header: Dataset) -> int:
    (number,) = _numbers(header, "NumberOfFrames", 1) if header.get("NumberOfFrames") else (1,)
    return int(number)


def _numbers(header: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    """Raises ProXError unless there are as many, and finite."""
    try:
        numbers = np.atleast_1d(np.asarray(header.get(keyword), float))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ProXError(f"{keyword} of one of its images is malformed; it is {count} number{'s' * (count > 1)}")
    return numbers


def _shared(headers: Sequence[Dataset], keyword: str, count: int, tolerance: float, what: str) -> Any:
    """What all images have in common. Raises ProXError where they differ."""
    values = np.array([_numbers(header, keyword, count) for header in headers])
    if (differing := int((np.abs(values - values[0]) > tolerance).any(1).sum())) > 0:
        raise ProXError(
            f"{differing} of its {len(headers)} images have other {what} than the first, {values[0].round(4).tolist()}; "
            "export each stack as a series of its own"
        )
    return values[0] if count > 1 else values[0, 0]


def _distance(along: NDArray[np.float64]) -> float:
    """mm between slices whose places along the normal are these. Raises ProXError unless they are evenly spaced."""
    count, steps = len(along), np.array([b - a for a, b in pairwise(along)])
    if together := int((steps < SAME_PLACE).sum()):
        raise ProXError(
            f"of its {count} images {together} lie where another one does, as several phases or echoes do; "
            "export each as a series of its own"
        )
    usual = float(np.median(steps))
    if gaps := steps[steps > GAP * usual].tolist():
        raise ProXError(
            f"slices are missing: of its {count} images most are {usual:.4g} mm apart, and some "
            f"{', '.join(f'{gap:.4g} mm' for gap in gaps[:3])}"
        )
    distance = round(float(along[-1] - along[0]) / (count - 1), DIGITS)
    off = float(np.abs(along - np.linspace(along[0], along[-1], count)).max())
    if off > UNEVEN * distance:
        raise ProXError(
            f"its slices are not evenly spaced: one is {off:.4g} mm from where it would be at {distance:.4g} mm each; "
            f"allowed is a part of {UNEVEN} of this"
        )
    return distance


def _check_upright(
    positions: NDArray[np.float64], plane: NDArray[np.float64], normal: NDArray[np.float64], pixel: float
) -> None:
    """Raises ProXError where slices do not lie above each other. plane: (2, 3), along rows and columns; pixel: mm."""
    moved = (positions - positions[0]) @ plane.T
    most = float(np.abs(moved).max())
    if most > SIDEWAYS * pixel:
        angle = degrees(atan2(float(np.linalg.norm(moved[-1])), float((positions[-1] - positions[0]) @ normal)))
        raise ProXError(
            f"its slices are not above each other, but up to {most:.4g} mm aside, at an angle of {angle:.1f} degrees (gantry "
            f"tilt?); allowed are {SIDEWAYS} pixels. Resample it to upright slices before"
        )
