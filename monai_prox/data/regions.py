"""Regions of labels: what is evaluated, and what a network may have as outputs in the place of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_prox.errors import ProXError


def regions_of(regions: Any, labels: Sequence[str], task: str) -> dict[str, tuple[int, ...]]:
    """The values of the labels of each region.

    Args:
        regions: names of labels by the name of the region. None means one region per label.
        labels: the names of all labels, the background first.
        task: name of the task.

    Raises:
        ProXError: a name is not a label of the foreground.
    """
    if regions is None:
        return {name: (value,) for value, name in enumerate(labels) if value}
    if not isinstance(regions, Mapping) or any(isinstance(names, str) for names in regions.values()):
        raise ProXError(f"regions are {{name: [labels]}}, got {regions!r:.160}")
    unknown = {name for names in regions.values() for name in names} - set(labels[1:])
    if unknown:
        raise ProXError(
            f"regions name {sorted(unknown)}; the labels of {task} are {', '.join(labels[1:])}: --labels names "
            "them, and --regions '$None' evaluates each"
        )
    return {region: tuple(labels.index(name) for name in names) for region, names in regions.items()}


def written_values(regions: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """The label that each region is written as, a later region on top of an earlier one, as nnU-Net's regions_class_order.

    It is the label that no later region has. So labels that are made regions, and written again, are the same labels.

    Args:
        regions: values of labels by the name of the region, in the order of the outputs.

    Raises:
        ProXError: a region has no such label, or several.

    >>> written_values({"whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing tumour": [3]})
    (1, 2, 3)
    """
    values: list[int] = []
    names = list(regions)
    for number, name in enumerate(names):
        own = set(regions[name]).difference(*(regions[later] for later in names[number + 1 :]))
        if len(own) != 1:
            raise ProXError(
                f"the region {name!r:.80} has {len(own)} labels that no later region has; to be an output it has one, as "
                "which it is written, so list larger regions first"
            )
        values.extend(own)
    if not values:
        raise ProXError("there are no regions to be outputs; give --regions, names of labels by the name of the region")
    return tuple(values)
