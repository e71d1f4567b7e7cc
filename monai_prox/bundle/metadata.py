"""A bundle's metadata.json, which has to fit the task that the bundle was trained on, and what its members reach."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from monai_prox.data.plans import TrainingPlan
from monai_prox.errors import ProXError
from monai_prox.files import read_json, write_json

DECIMALS = 4
METRICS, LICENCE = "eval_metrics", "weights_license"  # entries that are true of the weights in models alone
OWN = ("patches of ", "images of ")  # beginnings of a plan's words for its images


def fit_metadata(path: Path, plan: TrainingPlan, metrics: Mapping[str, float]) -> None:
    """Writes what the network takes and gives into metadata.json, as MONAI's ``verify_net_in_out`` reads it, and its metrics.

    Other entries stay. A file that is right already is not written.

    Args:
        path: the file. If it is missing, nothing is written.
        plan: the plan of the training.
        metrics: by name, of the validation.

    Raises:
        ProXError: the file is not a bundle's metadata.
    """
    if not path.is_file():
        return
    metadata, before = read_json(path), read_json(path)
    try:
        formats = metadata["network_data_format"]
        image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
        size, outputs = list(plan.patch_size), list(getattr(plan, "outputs", plan.values))
        image |= {"spatial_shape": size, **_channels(plan.inputs)}
        if (is_ct := getattr(plan, "is_ct", None)) is not None and is_ct != (image["modality"] == "CT"):
            image |= {"modality": "CT", "format": "hounsfield"} if is_ct else {"modality": "MR", "format": "magnitude"}
        pred |= {**({"spatial_shape": size} if pred["spatial_shape"] else {}), **_channels(outputs)}
    except (KeyError, TypeError):
        raise ProXError(f"{path} has no network_data_format with inputs image and outputs pred") from None
    if metadata != before or str(before.get("image_classes")).startswith(OWN):  # written here before
        metadata["label_classes"] = "; ".join(f"{value} {name}" for name, value in plan.values.items())
        metadata["pred_classes"] = "; ".join(f"channel {number}: {name}" for number, name in enumerate(outputs))
        metadata["image_classes"] = plan.images
    metadata = without_weights(metadata)
    metadata[METRICS] = {name: round(value, DECIMALS) for name, value in metrics.items() if isfinite(value)}
    if metadata != before:
        write_json(metadata, path)


def without_weights(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's metadata without what is said of its weights: others replace them, or they are left behind."""
    return {name: {} if name == METRICS else entry for name, entry in metadata.items() if name != LICENCE}


def _channels(names: Any) -> dict[str, Any]:
    return {"num_channels": len(names), "channel_def": {str(number): name for number, name in enumerate(names)}}
