"""nnU-Net's dataset.json, whose label values nnU-Net converts with ``int()`` wherever it reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError

IGNORED = "ignore"  # the name of voxels that count neither in training nor in a score
MEAN = "mean"  # stands among scores by class, so a class of this name is there "mean (1)", by its value


def normalised(dataset: Mapping[str, Any], source: Path | str) -> dict[str, Any]:
    """``dataset`` with whole numbers as label values: "1" and [1] become 1, a region stays a list.

    Raises ProXError, naming ``source``, for what ``int()`` refuses and for a label without a value.
    """
    labels = {name: _value(value, f"{source}: the label {name!r:.80}") for name, value in dataset["labels"].items()}
    normal = {**dataset, "labels": labels}
    if (order := dataset.get("regions_class_order")) is not None:
        values = _value(order, f"{source}: 'regions_class_order'")
        normal["regions_class_order"] = values if isinstance(values, list) else [values]
    return normal


def _value(value: Any, what: str) -> int | list[int]:
    values = value if isinstance(value, list) else [value]
    try:
        numbers = [int(one) for one in values]
    except (OverflowError, TypeError, ValueError):
        numbers = []
    if not numbers:
        raise ProXError(f"{what} must be a whole number, or a list of some for a region; got {value!r:.80}")
    return numbers[0] if len(numbers) == 1 else numbers


def channels_of(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels in their order; older datasets call them "modality", which nnU-Net prefers."""
    channels = dataset["modality"] if "modality" in dataset else dataset["channel_names"]
    return tuple(str(channels[key]) for key in sorted(channels, key=int))


def licence_of(dataset: Mapping[str, Any]) -> str:
    """Of the images, "" where it is not stated in words. nnU-Net does not read it, so people write anything."""
    stated = dataset.get("licence") or dataset.get("license")
    return stated if isinstance(stated, str) else ""


def labels_of(dataset: Mapping[str, Any]) -> dict[str, int | tuple[int, ...]]:
    """Names and values of the labels of a ``normalised`` dataset, a tuple of values for a region."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in dataset["labels"].items()}


def foreground_of(dataset: Mapping[str, Any]) -> dict[str, int | Sequence[int]]:
    """Names and values of what is segmented, of a ``normalised`` dataset: neither background nor what is ignored."""
    labels = dataset["labels"].items()
    return {name: value for name, value in labels if name != IGNORED and value != 0 and set(_listed(value)) != {0}}


def outputs_of(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the network's output channels, of a ``normalised`` dataset: regions as listed, else labels by their value."""
    labels = {name: value for name, value in dataset["labels"].items() if name != IGNORED}
    if any(isinstance(value, list) for value in labels.values()):
        return tuple(foreground_of(dataset))
    by_value: dict[int, str] = {}
    for name, value in labels.items():
        by_value.setdefault(value, name)  # nnU-Net has one channel for all labels of a value
    return tuple(by_value[value] for value in sorted(by_value))


def label_values_of(dataset: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Of each output but the background, its values in label images, of a ``normalised`` dataset."""
    foreground = foreground_of(dataset)
    return tuple(tuple(_listed(foreground[name])) for name in outputs_of(dataset) if name in foreground)


def named_scores(scores: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by the keys of nnU-Net's summary.json, "1" or "(1, 2)", with the names of the labels instead.

    labels: names and values, of a ``normalised`` dataset or as ``labels_of`` it.
    """
    foreground = foreground_of({"labels": labels})
    names: dict[str, str] = {}
    for name, value in foreground.items():
        shown = name
        while shown == MEAN or (shown != name and shown in foreground):
            shown = f"{shown} ({value if isinstance(value, int) else list(value)})"
        for key in (str(value), str(tuple(_listed(value)))):
            names.setdefault(key, shown)
    return {names.get(key, key): score for key, score in scores.items()}


def _listed(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
