"""Probabilities of scans' classes, by a network that classifies them, as its bundle's transforms prepare them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import erf, sqrt
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.files import make_folder, replacing
from monai_prox.runtime.description import ScanDescription
from monai_prox.runtime.itk_images import read_image
from monai_prox.runtime.model import Network
from monai_prox.runtime.prediction import problem
from monai_prox.runtime.resampling import Array, linear

SUFFIXES = (".jpeg", ".jpg", ".png")
TABLE = "predictions.csv"
REACH = 4  # standard deviations at which MONAI ends its Gaussian


def find_scans(images: Path) -> list[Path]:
    """The scans of a folder, or the one that is a file. Raises ProXError where there is none."""
    if images.is_file():
        return [images]
    if not images.is_dir():
        raise ProXError(f"there is no folder and no scan {images}")
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ProXError(f"{images} has no scans ({', '.join(SUFFIXES)})")
    return found


def read_scan(scan: Path | NDArray[np.uint8]) -> Array:
    """A file, or an array -> (rows, columns), of 0 to 1. Raises ProXError for files that are no 8-bit grey images."""
    array = sitk.GetArrayFromImage(read_image(scan)) if isinstance(scan, Path) else scan
    if array.ndim != 2 or array.dtype != np.uint8:
        raise ProXError(f"{scan} is no 8-bit grey image, but {array.dtype} of {'x'.join(map(str, array.shape))}")
    return np.asarray(array / np.float32(255), np.float32)


def prepare_scan(scan: Array, description: ScanDescription) -> Array:
    """scan: (rows, columns) -> (1, rows, columns) of the network's input."""
    sides = zip(scan.shape, description.image_size, strict=True)
    rows, columns = (_smaller(old, new) for old, new in sides)
    image = rows @ scan @ columns.T
    image = (image - image.mean()) / (image.std() or 1)
    rows, columns = (_antialiased(old, new) for old, new in zip(description.image_size, description.working_size, strict=True))
    return np.ascontiguousarray((rows @ image @ columns.T)[None], np.float32)


@lru_cache(maxsize=8)
def _smaller(old: int, new: int) -> Array:
    """(new, old): MONAI's Resize with anti-aliasing: what shrinks is smoothed first, then sampled linearly."""
    sampled = linear(old, new, old / new, (old / new - 1) / 2)
    if new >= old:
        return sampled
    sigma = (old / new - 1) / 2
    reach = int(max(sigma * REACH, 0.5) + 0.5)
    offsets = range(-reach, reach + 1)
    scale = 1 / (sigma * sqrt(2))
    weights = np.array([0.5 * (erf((x + 0.5) * scale) - erf((x - 0.5) * scale)) for x in offsets]).clip(0)
    weights /= weights.sum()
    smoothed = np.zeros((old, old))
    for offset, weight in zip(offsets, weights, strict=True):
        smoothed += weight * np.eye(old, k=offset)  # beyond the border there is 0
    return np.asarray(sampled @ smoothed, np.float32)


@lru_cache(maxsize=8)
def _antialiased(old: int, new: int) -> Array:
    """(new, old): torch's bilinear interpolation with antialias: a triangle as wide as the new pixels."""
    scale = max(old / new, 1.0)
    at = (np.arange(new)[:, None] + 0.5) * old / new
    weights = (1 - np.abs(np.arange(old) + 0.5 - at) / scale).clip(0)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def probabilities(scan: Array, description: ScanDescription, network: Network) -> Array:
    """scan: (rows, columns) -> (classes,)."""
    logits = network(prepare_scan(scan, description)[None])[0]
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum(), np.float32)


def classify(
    description: ScanDescription,
    network: Network,
    scans: Sequence[Path],
    output: Path,
    *,
    overwrite: bool = True,
) -> Iterator[tuple[Path, str | None]]:
    """Writes ``predictions.csv`` into the folder ``output``: each scan, its class, the probabilities of all classes.

    Yields each scan, and what was wrong with it or None; one that fails stops none of the others. overwrite: whether a table
    that is there is written anew. Raises ProXError where the folder cannot be made.
    """
    make_folder(output)
    if (output / TABLE).exists() and not overwrite:
        return ((path, None) for path in scans)
    return _classified(description, network, scans, output)


def _classified(
    description: ScanDescription, network: Network, scans: Sequence[Path], output: Path
) -> Iterator[tuple[Path, str | None]]:
    with replacing(output / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "class", *description.classes])
        for path in scans:
            try:
                of = probabilities(read_scan(path), description, network)
            except Exception as error:  # the runtimes' own have no common class
                yield path, problem(error)
            else:
                table.writerow([path, description.classes[int(of.argmax())], *(f"{value:.6f}" for value in of)])
                yield path, None
