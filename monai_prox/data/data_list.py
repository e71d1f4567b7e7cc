"""A task that is given as a list of files, as applications give it, and not as a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_prox.data.decathlon import Case, DecathlonTask, named_channels, open_header
from monai_prox.errors import ProXError
from monai_prox.files import read_json

KEYS = ("image", "label")
MOST_LABELS = 1000


def described_task(
    data: Sequence[Mapping[str, Any]],
    name: str,
    channels: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> DecathlonTask:
    """The task that a list of cases is.

    Names of channels and labels are those that are given, else those of a Decathlon task's dataset.json beside the folders of
    all files. If there is neither, channels are counted in the first image and labels in all label images.

    Args:
        data: {"image": file, "label": file} for each case.
        name: name of the task. That of a Decathlon task is its folder's.
        channels: names. "CT" means Hounsfield units.
        labels: names, the background first.

    Raises:
        ProXError: the list is empty, an item is something else, a file is missing, or labels are no whole numbers from 0 on.
    """
    cases = tuple(map(_case, data))
    if not cases:
        raise ProXError(f"the data of {name} have no cases; give a list of image and label files")
    found = _dataset(cases)
    named = bool(found) or None not in (channels, labels)
    if found:
        of_channels, of_labels = named_channels(found, cases[0].image.absolute().parents[1] / "dataset.json")
    else:
        of_channels = numbered("channel", _channel_count(cases[0]))
        of_labels = ("background", *numbered("label", 1 + _highest_label(cases))[1:]) if labels is None else ()
    return DecathlonTask(
        cases[0].image.parent,
        cases[0].image.absolute().parents[1].name if found else name,
        of_channels if channels is None else _names("channels", channels, 1),
        of_labels if labels is None else _names("labels", labels, 2),
        cases,
        str(found.get("licence") or found.get("license") or ""),
        named=named,
    )


def numbered(what: str, count: int) -> tuple[str, ...]:
    """Names of what nobody has named.

    Args:
        what: what it is.
        count: how many there are.

    >>> numbered("channel", 2)
    ('channel 0', 'channel 1')
    """
    return tuple(f"{what} {number}" for number in range(count))


def _names(what: str, given: Any, least: int) -> tuple[str, ...]:
    plain = isinstance(given, (list, tuple)) and all(isinstance(name, str) for name in given)
    if not plain or not least <= len(given) == len({*given}):
        raise ProXError(f"{what} are {given!r:.80}; they must be a list of at least {least} names, all different")
    return tuple(given)


def _case(item: Any) -> Case:
    files = [item.get(key) for key in KEYS] if isinstance(item, Mapping) else []
    if len(files) != len(KEYS) or not all(isinstance(file, (str, Path)) for file in files):
        raise ProXError(f"a case of the data is {item!r:.160}; it must have the files {' and '.join(KEYS)}, one each")
    image, label = map(Path, files)  # type: ignore[arg-type]
    if missing := [str(path) for path in (image, label) if not path.is_file()]:
        raise ProXError(f"there is no file {missing[0]}, which the data list")
    return Case(image, label)


def _dataset(cases: Sequence[Case]) -> Mapping[str, Any]:
    """The content of the dataset.json of a Decathlon task that has all cases, or nothing."""
    (folder, *others) = {path.absolute().parent.parent for case in cases for path in (case.image, case.label)}
    path = folder / "dataset.json"
    data = read_json(path) if not others and path.is_file() else None
    return data if isinstance(data, Mapping) and {"modality", "labels"} <= data.keys() else {}


def _channel_count(case: Case) -> int:
    shape = open_header(case.image).shape
    return int(shape[3]) if len(shape) == 4 else 1


def _highest_label(cases: Sequence[Case]) -> int:
    highest = 0
    for case in cases:
        values = np.unique(np.asarray(open_header(case.label).dataobj))
        whole = np.isfinite(values).all() and (values == values.round()).all()
        if not whole or values.min() < 0 or values.max() > MOST_LABELS:
            raise ProXError(
                f"{case.label} has values {values.tolist()!s:.80}; labels are whole numbers from 0 to {MOST_LABELS}"
            )
        highest = max(highest, int(values.max()))
    return highest
