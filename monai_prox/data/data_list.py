"""A task that is given as a list of files, as applications give it, and not as a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monai_prox.data.decathlon import Case, DecathlonTask, channel_count, named_channels, open_header
from monai_prox.data.image_files import files_of, listed
from monai_prox.errors import ProXError
from monai_prox.files import read_json

DATASET = "dataset.json"
MOST_LABELS = 1000


def described_task(
    data: Sequence[Mapping[str, Any]],
    name: str,
    channels: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    validation: Sequence[Mapping[str, Any]] = (),
) -> DecathlonTask:
    """The task that a list of cases is.

    Names of channels and labels are those that are given, else those of the dataset.json beside the folders of all files, of a
    Decathlon task or of nnU-Net. If there is neither, channels are counted in the first image and labels in all label images.

    Args:
        data: {"image": file, "label": file} for each case.
        name: name of the task. That of a Decathlon task is its folder's.
        channels: names. "CT" means Hounsfield units.
        labels: names, the background first.
        validation: cases that are not of the task, but are checked, too.

    Raises:
        ProXError: a list is empty or no list, an item is something else, a file is missing, or labels are no whole numbers from
            0 on.
    """
    cases = _cases(data, f"the data of {name}")
    if not isinstance(validation, tuple):
        _cases(validation, f"the validation data of {name}")
    found = _described(cases) if channels is None or labels is None else None
    first = cases[0].image
    if channels is not None:
        of_channels, source = _names("channels", channels, 1), "--channels"
    elif found:
        of_channels, source = found.channels, ""
    else:
        of_channels, source = numbered("channel", channel_count(open_header(first), first)), f"the first image, {first.name},"
    if labels is not None:
        of_labels = _names("labels", labels, 2)
    elif found and found.labels:
        of_labels = found.labels
    elif found:
        raise ProXError(f"dataset.json of {found.name} has regions or an ignore label, which bundles do not train; give labels")
    else:
        of_labels = ("background", *numbered("label", 1 + _highest_label(cases))[1:])
    if source and channels is None:
        logging.getLogger(__name__).warning(
            f"{len(of_channels)} channels are counted, and normalised as those of MR; --channels names them, for CT is "
            "normalised otherwise"
        )
    return DecathlonTask(
        first.parent,
        found.name if found else name,
        of_channels,
        of_labels,
        cases,
        found.licence if found else "",
        named=bool(found) or None not in (channels, labels),
        source=source,
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


def _cases(data: Any, what: str) -> tuple[Case, ...]:
    return tuple(Case(*files_of(item, ("image", "label"))) for item in listed(data, what))


class _Found(NamedTuple):
    """What a dataset.json says. No labels mean that they are no plain list."""

    channels: tuple[str, ...]
    labels: tuple[str, ...]
    name: str
    licence: str


def _described(cases: Sequence[Case]) -> _Found | None:
    """What the dataset.json files beside the folders of all cases say, if they all name the same channels and labels."""
    folders = sorted({path.absolute().parent.parent for case in cases for path in (case.image, case.label)})
    found = [_read(folder / DATASET) for folder in folders]
    if found[0] and all(other and other[:2] == found[0][:2] for other in found):
        return found[0]
    if there := [str(folder / DATASET) for folder in folders if (folder / DATASET).is_file()]:
        logging.getLogger(__name__).warning(
            f"{', '.join(there[:2])}: no names of the channels and labels of all cases, so these are counted; --channels and "
            "--labels name them"
        )
    return None


def _read(path: Path) -> _Found | None:
    """The names in a dataset.json of the Decathlon or of nnU-Net, if there is one and it has names."""
    try:
        data = read_json(path)
    except ProXError:
        return None
    if isinstance(data, Mapping) and "channel_names" in data and isinstance(data.get("labels"), Mapping):
        of, values = data["labels"], list(data["labels"].values())
        plain = "ignore" not in of and all(type(value) is int for value in values)
        numbers = {str(value): name for name, value in of.items()} if plain else {"0": "", "1": ""}
        channels, labels = named_channels({"modality": data["channel_names"], "labels": numbers}, path)
        return _Found(channels, labels if plain else (), path.parent.name, str(data.get("licence") or ""))
    if not isinstance(data, Mapping) or not {"modality", "labels"} <= data.keys():
        return None
    licence = str(data.get("licence") or data.get("license") or "")
    return _Found(*named_channels(data, path), path.parent.name, licence)


def _highest_label(cases: Sequence[Case]) -> int:
    found = {0}
    for case in cases:
        values = np.unique(np.asarray(open_header(case.label).dataobj))
        whole = np.isfinite(values).all() and (values == values.round()).all()
        if not whole or values.min() < 0 or values.max() > MOST_LABELS:
            raise ProXError(
                f"{case.label} has values {values.tolist()!s:.80}; labels are whole numbers from 0 to {MOST_LABELS}"
            )
        found |= {int(value) for value in values}
    if gaps := sorted({*range(max(found))} - found):
        logging.getLogger(__name__).warning(
            f"labels are counted up to {max(found)}, and no label image has {', '.join(map(str, gaps[:5]))}"
            f"{', ...' if len(gaps) > 5 else ''}; the network gets an output for each of them"
        )
    return max(found)
