"""Scans that are given as lists of files, as applications give them, and not as a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_prox.data.image_files import files_of, listed
from monai_prox.data.oct import CLASSES, PATIENT, OctScans, Scan, check_scans
from monai_prox.errors import ProXError


def described_scans(
    training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]], classes: Sequence[str] = CLASSES
) -> OctScans:
    """The scans that are given as lists, as applications give them.

    Args:
        training: {"image": file or array, "label": number of the class} for each scan.
        validation: such a list.
        classes: names of the classes, by their numbers.

    Returns:
        The scans, with none for a test. If patients are in both lists, a warning is logged.

    Raises:
        ProXError: a list is empty or no list, an item is something else, or ``check_scans`` refuses the files.

    >>> items = [{"image": np.zeros((32, 32), np.uint8), "label": label} for label in (0, 1)]
    >>> described_scans(items, items[:1], ("healthy", "ill")).balanced_weights()
    [1.0, 1.0]
    """
    if isinstance(classes, str) or not 2 <= len(classes) == len({*classes}):
        raise ProXError(f"classes are {classes!r:.80}; give a list of at least two names, all different")
    lists = (listed(validation, "the data for validation"), listed(training, "the data for training"))
    val, train = (tuple(_scan(item, classes) for item in items) for items in lists)
    check_scans((*train, *val))
    if both := ({scan.patient for scan in train} & {scan.patient for scan in val}) - {None}:
        said = f"{len(both)} patients are trained on and validated on, such as {min(map(str, both))}; the scores are too high"
        logging.getLogger(__name__).warning(said)
    return OctScans(tuple(classes), train, val, ())


def _scan(item: Any, classes: Sequence[str]) -> Scan:
    image, label = (item.get("image"), item.get("label")) if isinstance(item, Mapping) else (None, None)
    if not isinstance(image, (str, Path, np.ndarray)) or type(label) is not int or not 0 <= label < len(classes):
        raise ProXError(
            f"a case of the data is {item!r:.160}; it must have an image, a file, and a label, one of "
            f"{', '.join(f'{number} ({name})' for number, name in enumerate(classes))}"
        )
    if isinstance(image, np.ndarray):
        return Scan(image, label)
    if not Path(image).is_file():
        raise ProXError(f"there is no file {image}, which the data list")
    match = PATIENT.match(Path(image).stem)
    return Scan(Path(image), label, match and match[1])


def check_scan_list(data: Any) -> None:
    """Checks scans that are given as a list.

    Args:
        data: {"image": file or array} for each scan.

    Raises:
        ProXError: it is no such list, a file is missing, or ``check_scans`` refuses one.

    >>> check_scan_list([{"image": np.zeros((32, 32), np.uint8)}])
    """
    arrays = (isinstance(item, Mapping) and isinstance(item.get("image"), np.ndarray) for item in listed(data, "the data"))
    items = [item for item, is_array in zip(data, arrays, strict=True) if not is_array]
    check_scans(Scan(files_of(item, ("image",))[0], 0) for item in items)
