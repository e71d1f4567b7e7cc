"""Probabilities on the image's grid, and what nnU-Net's ensembling needs beside them, as --save_probabilities writes it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_prox.files import replacing, write_json
from monai_prox.runtime.description import Description
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.labels import slabs
from monai_prox.runtime.resampling import Array, matrices

ENDINGS = (".npz", ".pkl")  # of a case's files; the second says where the image lies


def probabilities(logits: NDArray[np.floating], grid: Grid, description: Description) -> Array:
    """logits: (outputs, *grid) -> (outputs, z, y, x) of the image. In what was cropped away the first class is certain, and no
    region is there.
    """
    steps = matrices(description.logits, grid.shape, grid.cropped, grid.spacing, grid.image_spacing)
    result = np.zeros((description.outputs, *grid.whole), np.float32)
    exclusive = description.regions is None
    if exclusive:
        result[0] = 1
    inner = slice(None), *grid.box
    cropped = result[inner]
    for part, slab in slabs(logits, steps):
        if exclusive:
            slab -= slab.max(0)
            np.exp(slab, out=slab)
            slab /= slab.sum(0)
        else:
            np.negative(slab, out=slab)
            with np.errstate(over="ignore"):  # 1 / infinity is 0
                np.exp(slab, out=slab)
            slab += 1
            np.reciprocal(slab, out=slab)
        cropped[:, part] = slab
    turned: Array = result.transpose(0, *(1 + np.argsort(description.transpose)))
    return turned


def save_probabilities(values: Array, properties: Mapping[str, Any], stem: Path, written: ExitStack) -> None:
    """properties: of the image, as nnU-Net's reader has them. ``stem``.npz and .pkl are there once ``written`` ends."""
    arrays, place = (written.enter_context(replacing(stem.parent / f"{stem.name}{ending}")) for ending in ENDINGS)
    with arrays.open("wb") as file:
        np.savez_compressed(file, probabilities=values)
    place.write_bytes(pickle.dumps(dict(properties)))


def save_for_ensembling(description: Description, folder: Path) -> None:
    """What of dataset.json and plans.json nnUNetv2_ensemble reads in the first of its folders, unless it is there."""
    dataset: dict[str, Any] = {
        "channel_names": {str(index): name for index, name in enumerate(description.channels)},
        "labels": description.labels,
        "file_ending": description.file_ending,
    }
    if description.regions is not None:
        dataset["regions_class_order"] = description.regions
    plans = {
        "dataset_name": description.task,
        "plans_name": description.source,
        "image_reader_writer": description.reader,
        "label_manager": "LabelManager",
        "configurations": {},
    }
    for name, data in (("dataset.json", dataset), ("plans.json", plans)):
        if not (folder / name).exists():
            write_json(data, folder / name)
