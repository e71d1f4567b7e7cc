"""The configurations of an exported bundle: what is the same whatever its network does, around what a kind of network has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import torch

from monai_prox.export.bundle import MARK, SCHEMA, VERSION
from monai_prox.export.prediction import Prediction

PAPER = "Lim et al., Neurocomputing (2024), doi 10.1016/j.neucom.2024.127512"

COMMON: Mapping[str, Any] = {  # entries of all configurations of a bundle
    "bundle_root": ".",
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
}
SOURCES = "$lambda batch: [item['image'].meta for item in batch]"  # tells handlers the files that a batch comes from
EVALUATION: Mapping[str, Any] = {  # of what the entries before it name
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
        "amp": "$torch.cuda.is_available()",
    },
    "initialize": ["$monai.utils.set_determinism(seed=0)"],
    "run": ["$@evaluator.run()"],
}


def otherwise(value: str, error: str) -> str:
    """The expression for ``value``, or that raises ``error`` if it is empty."""
    return f"{value} or (_ for _ in ()).throw({error})"


def tensor(
    type: str, format: str, channels: Sequence[str], shape: Sequence[int], *, patch: bool, **more: Any
) -> dict[str, Any]:
    """An input or output in metadata.json. shape: pixels or voxels per axis. patch: whether it is a part of an image."""
    return {
        "type": type,
        "format": format,
        **more,
        "num_channels": len(channels),
        "spatial_shape": list(shape),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": patch,
        "channel_def": {str(number): name for number, name in enumerate(channels)},
    }


def metadata(
    prediction: Prediction,
    *,
    does: str,
    network: str,
    packages: Sequence[str],
    data_type: str,
    image_classes: str,
    outputs: Sequence[str],
    reference: str,
    tensors: Mapping[str, Mapping[str, Any]],
    labels: Mapping[int, str] | None = None,
    weights_license: str = "",
    **mark: Any,
) -> dict[str, Any]:
    """metadata.json, as the model zoo's schema asks for it.

    does, network: in words, what the network does and which it is. packages: that the bundle needs beside MONAI's own.
    image_classes: in words. outputs: names of the network's output channels. reference: of the network. tensors: of ``image``
    and ``pred``. labels: names by value in label images, if an output's number is not its value. weights_license: in words, ""
    where nobody says. mark: what an exported member says of itself beside its name and subnet.
    """
    numbered = list(enumerate(outputs))
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"the member {prediction.name} of {prediction.source}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {package: version(package) for package in packages},
        "supported_apps": {},
        "name": f"{prediction.task} {prediction.name}",
        "task": f"{does} of {prediction.task}",
        "description": f"{network} of a once-for-all family, the member {prediction.name}",
        "authors": "whoever trained and exported it",
        "copyright": "of the weights: whoever trained them",
        "data_source": prediction.task,
        "data_type": data_type,
        "image_classes": image_classes,
        "label_classes": "; ".join(f"{value} {name}" for value, name in (labels or dict(numbered)).items()),
        "pred_classes": "; ".join(f"channel {number}: {name}" for number, name in numbered),
        "eval_metrics": dict(prediction.metrics),
        "intended_use": "research; not for diagnosis",
        "references": [reference, PAPER],
        "network_data_format": {"inputs": {"image": tensors["image"]}, "outputs": {"pred": tensors["pred"]}},
        **({"weights_license": weights_license} if weights_license else {}),
        MARK: {"name": prediction.name, "subnet": dict(prediction.subnet), **mark},
    }


def inference(
    *,
    images: str,
    datalist: str,
    network: Mapping[str, Any],
    preprocessing: Sequence[Mapping[str, Any]],
    inferer: Mapping[str, Any],
    postprocessing: Sequence[Mapping[str, Any]],
    handlers: Sequence[Mapping[str, Any]] = (),
    imports: Sequence[str] = (),
    entries: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """inference.json, in the manner of the model zoo.

    images: how files are named, in words for where there is none; datalist: expression for those in ``@dataset_dir``.
    network: ``network_def``, and what it refers to. preprocessing, postprocessing: transforms, from a file ``image`` to the
    network and from its output ``pred`` on. handlers: beside those that load the weights and log. entries: others.
    """
    return {
        "imports": [f"$import {module}" for module in ("glob", "os", *imports)],
        **COMMON,
        **entries,
        "dataset_dir": "images",
        "datalist": datalist,
        **network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": list(preprocessing)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$"
            + otherwise(
                "[{'image': image} for image in @datalist]",
                f"FileNotFoundError('there is no image {images} in ' + str(@dataset_dir))",
            ),
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 0},
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": list(postprocessing)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@ckpt_path",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
            {"_target_": "StatsHandler", "iteration_log": False},
            *handlers,
        ],
        **EVALUATION,
    }
