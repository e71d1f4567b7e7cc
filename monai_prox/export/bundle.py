"""A member as a MONAI bundle that predicts: MONAI and dynamic-network-architectures are all it needs.

What the network needs around it, a ``Prediction``, comes from a training bundle (``from_bundle``) or from a model folder of
nnU-Net (``from_nnunet``); here it becomes files. The axes of everything are MONAI's, (x, y, z) as in the NIfTI file.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution, version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Protocol
from zipfile import ZipFile

import torch
from monai.bundle import ckpt_export
from torch import fx, nn

from monai_prox.errors import ProXError
from monai_prox.export import bundle_transforms
from monai_prox.export.bundle_docs import data_license, readme
from monai_prox.export.folder import new_folder
from monai_prox.families.architecture import kind_of
from monai_prox.files import write_json
from monai_prox.tensor_file import write_tensors

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
VERSION = "0.1.0"  # of an exported bundle; its authors count on from here
PACKAGES = ("nibabel", "pytorch-ignite", "dynamic-network-architectures", "scipy")
SCRIPTS, OWN_TRANSFORMS = "scripts", "transforms"  # as the model zoo's bundles have it; MONAI Label looks there
SCRIPTS_PATH = "scripts_path"  # in a configuration: what makes Python find them
MARK = "prox_member"  # in metadata.json: this folder is an exported member
LOGGING = """[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=fullFormatter

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stdout,)

[formatter_fullFormatter]
format=%(asctime)s - %(name)s - %(levelname)s - %(message)s
"""


HIGHEST = 65535  # label
# Voxels that are no finite numbers are 0, as ITK reads them for nnU-Net: one alone would leave nothing of an image
FINITE = {
    "_target_": "Lambdad",
    "keys": "image",
    "func": {"_target_": "torch.nan_to_num", "_mode_": "callable", "nan": 0.0, "posinf": 0.0, "neginf": 0.0},
}
MARKS = ("$", "@", "%")  # with which MONAI's configurations begin expressions, references and macros


def check_plain(data: Any) -> None:
    """Raises ProXError where a text in ``data``, from a plan or a dataset.json, would be code in a bundle's configuration."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            check_plain(key)
            check_plain(value)
    elif isinstance(data, list | tuple):
        for value in data:
            check_plain(value)
    elif isinstance(data, str) and data.lstrip().startswith(MARKS):
        raise ProXError(
            f"{data!r:.80} would be read as an expression in a bundle; names must not begin with {', '.join(MARKS)}"
        )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A member with what surrounds it in prediction. Axes are (x, y, z).

    name, task, source: of the member, of what it segments, and in words where it was trained.
    network, architecture: the stock network with its weights, and its entry as in nnU-Net's plans.
    channels: names; modality: "CT" or "MR" and so on; outputs: names of the network's output channels.
    highest_label: in the label images that it makes of them, up to 65535.
    patch_size: voxels; spacing: mm. subnet: as JSON.
    metrics: as measured, {} where nothing was; measured_on: on what, in words.
    orientation: axis codes that images are turned to for the network, None where it sees them as stored.
    licence: of the data, as its dataset.json says, or "".
    preprocessing, postprocessing: configurations of MONAI's transforms, from files to the network and back to a label image
    ``pred`` (1, x, y, z), which is then saved. datalist: expression for the images in ``@dataset_dir``, named like ``images``.
    weighing: of a tile's voxels, MONAI's or nnU-Net's.
    """

    name: str
    task: str
    source: str
    subnet: Mapping[str, Any]
    network: nn.Module
    architecture: Mapping[str, Any]
    channels: tuple[str, ...]
    modality: str
    outputs: tuple[str, ...]
    highest_label: int
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    metrics: Mapping[str, float]
    measured_on: str
    licence: str
    preprocessing: tuple[Mapping[str, Any], ...]
    postprocessing: tuple[Mapping[str, Any], ...]
    images: str
    orientation: str | None
    datalist: str
    weighing: Literal["monai", "nnunet"] = "monai"

    def __post_init__(self) -> None:
        names = self.name, self.task, self.source, self.channels, self.modality, self.outputs, self.licence
        check_plain([*names, self.architecture, self.metrics, self.subnet])
        if not 0 <= self.highest_label <= HIGHEST:
            raise ProXError(f"there is a label {self.highest_label}; bundles write labels from 0 to {HIGHEST}")

    def metadata(self) -> dict[str, Any]:
        return metadata(self)

    def inference(self) -> dict[str, Any]:
        return inference(self)

    def readme(self) -> str:
        return readme(self)

    def data_license(self) -> str:
        return data_license(self)


class Exportable(Protocol):
    """What a bundle is written from: a network with its weights, and the contents of the bundle's files."""

    @property
    def network(self) -> nn.Module: ...

    def metadata(self) -> dict[str, Any]: ...

    def inference(self) -> dict[str, Any]: ...

    def readme(self) -> str: ...

    def data_license(self) -> str: ...


def write_bundle(prediction: Exportable, output: Path, *, overwrite: bool = False) -> Path:
    """Writes ``prediction`` as a bundle in the folder ``output`` and returns it.

    Raises ProXError where the folder exists without ``overwrite``, or nothing can be written; then nothing is left behind.
    """
    with new_folder(output, overwrite=overwrite) as folder:
        for part in ("configs", "models", "docs"):
            (folder / part).mkdir()
        write_json(prediction.metadata(), folder / "configs" / "metadata.json")
        inference = prediction.inference()
        write_json(inference, folder / "configs" / "inference.json")
        (folder / "configs" / "logging.conf").write_text(LOGGING)
        (folder / "docs" / "README.md").write_text(prediction.readme())
        (folder / "docs" / "data_license.txt").write_text(prediction.data_license())
        (folder / "LICENSE").write_text(_license())
        if SCRIPTS_PATH in inference:
            (folder / SCRIPTS).mkdir()
            (folder / SCRIPTS / "__init__.py").touch()
            shutil.copyfile(bundle_transforms.__file__, folder / SCRIPTS / f"{OWN_TRANSFORMS}.py")
        write_tensors(fx.symbolic_trace(prediction.network.eval()).state_dict(), folder / "models" / "model.pt")
        _write_torchscript(folder)
    return output


def _license() -> str:
    text = distribution("monai-prox").read_text("licenses/LICENSE")
    if text is None:
        raise ProXError("the installed package monai-prox lacks its LICENSE file, which the bundle needs; install it again")
    return text


def _write_torchscript(folder: Path) -> None:
    """models/model.ts by MONAI's own command, as the bundle's users would make it."""
    buffer = BytesIO()  # on a full disk torch's own writer ends the process
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.INFO))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch says about its own TorchScript
            ckpt_export(
                net_id="network_def",
                filepath=buffer,
                ckpt_file=str(folder / "models" / "model.pt"),
                meta_file=str(folder / "configs" / "metadata.json"),
                config_file=str(folder / "configs" / "inference.json"),
            )
    finally:
        logging.disable(disabled)
    (folder / "models" / "model.ts").write_bytes(_archive_named("model", buffer))


def _archive_named(name: str, archive: BytesIO) -> bytes:
    """A zip archive of one folder, which becomes ``name``: MONAI Deploy looks for configurations in one named as the file is.

    torch names it otherwise where it does not write the file itself.
    """
    renamed = BytesIO()
    with ZipFile(archive) as old, ZipFile(renamed, "w") as new:
        for entry in old.infolist():
            new.writestr(f"{name}/{entry.filename.partition('/')[2]}", old.read(entry))
    return renamed.getvalue()


def metadata(prediction: Prediction) -> dict[str, Any]:
    """metadata.json, as the model zoo's schema asks for it."""
    channels = {str(number): name for number, name in enumerate(prediction.channels)}
    outputs = {str(number): name for number, name in enumerate(prediction.outputs)}
    tensor = {"type": "image", "spatial_shape": list(prediction.patch_size), "dtype": "float32", "value_range": []}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"the member {prediction.name} of {prediction.source}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {package: version(package) for package in PACKAGES},
        "supported_apps": {},
        "name": f"{prediction.task} {prediction.name}",
        "task": f"Segmentation of {prediction.task}",
        "description": f"{kind_of(prediction.architecture)} of a once-for-all family, the member {prediction.name}",
        "authors": "whoever trained and exported it",
        "copyright": "of the weights: whoever trained them",
        "data_source": prediction.task,
        "data_type": "nibabel",
        "image_classes": f"{len(prediction.channels)} channels: {', '.join(prediction.channels)}",
        "label_classes": "; ".join(f"{number} {name}" for number, name in outputs.items()),
        "pred_classes": "; ".join(f"channel {number}: {name}" for number, name in outputs.items()),
        "eval_metrics": dict(prediction.metrics),
        "intended_use": "research; not for diagnosis",
        "references": [
            "Isensee et al., nnU-Net, Nature Methods 18, 203-211 (2021)",
            "Lim et al., Neurocomputing (2024), doi 10.1016/j.neucom.2024.127512",
        ],
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "format": "hounsfield" if prediction.modality == "CT" else "magnitude",
                    "modality": prediction.modality,
                    "num_channels": len(prediction.channels),
                    "is_patch_data": True,
                    "channel_def": channels,
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "format": "logits",
                    "num_channels": len(prediction.outputs),
                    "is_patch_data": True,
                    "channel_def": outputs,
                }
            },
        },
        MARK: {"name": prediction.name, "subnet": dict(prediction.subnet), "spacing": list(prediction.spacing)},
    }


def network_definition(prediction: Prediction) -> dict[str, Any]:
    """The stock network as a configuration.

    Its graph rather than itself, because torch.jit.script compiles only that; the weights keep their stock names.
    """
    entry = prediction.architecture
    classes = {key: value and f"${value}" for key, value in entry["arch_kwargs"].items() if key in entry["_kw_requires_import"]}
    root = {
        "_target_": entry["network_class_name"],
        "input_channels": len(prediction.channels),
        "num_classes": len(prediction.outputs),
        **entry["arch_kwargs"],
        **classes,
        "deep_supervision": False,
    }
    return {"_target_": "torch.fx.symbolic_trace", "root": root}


def orienting(orientation: str | None) -> list[Mapping[str, Any]]:
    """Transforms that turn ``image`` to these axis codes, which Invertd undoes; none where it stays as stored."""
    if orientation is None:
        return []
    return [{"_target_": "Orientationd", "keys": "image", "axcodes": orientation, "labels": None}]


def resampling(spacing: Sequence[float], *, mode: int | str, padding_mode: str) -> Mapping[str, Any]:
    """The transform that brings ``image`` to ``spacing``, its outer faces kept in place, as nnU-Net and the families resize."""
    return resampling_by(_own("ResampleToSpacing", spacing=list(spacing), mode=mode, padding_mode=padding_mode))


def resampling_by(resampler: Mapping[str, Any]) -> Mapping[str, Any]:
    """The transform that resamples ``image`` by one of MONAI's transforms of arrays, or of ours."""
    return _own("Resampled", keys="image", resampler=resampler)


def loading(reader: str, **arguments: Any) -> Mapping[str, Any]:
    """The transform that loads ``image`` by one of our readers."""
    return {"_target_": "LoadImaged", "keys": "image", "reader": _own(reader, **arguments)}


def cropping() -> Mapping[str, Any]:
    """The transform that crops ``image`` to what is not 0."""
    crop = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "allow_smaller": True}
    return crop | {"select_fn": _own("nonzero", _mode_="callable")}


def regions_to_labels(values: Sequence[int]) -> Mapping[str, Any]:
    """The transform that makes labels of the logits ``pred`` of regions, ``values`` by region; later ones on top."""
    return _own("RegionsToLabelsd", keys="pred", values=list(values))


def inverting() -> Mapping[str, Any]:
    """The transform that brings logits ``pred`` back to where ``image`` came from."""
    return {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
    }


def _own(name: str, **arguments: Any) -> dict[str, Any]:
    """One of bundle_transforms, which is in the bundle's folder of scripts."""
    return {"_target_": f"{SCRIPTS}.{OWN_TRANSFORMS}.{name}", "_requires_": f"@{SCRIPTS_PATH}", **arguments}


def output_name(images: str) -> Mapping[str, Any]:
    """The function for the name of a mask: that of its image, of nnU-Net's ``images`` without the first channel's number."""
    return _own("mask_name", _mode_="callable", channel="_0000" if images.startswith("*_0000") else "")


def inference(prediction: Prediction) -> dict[str, Any]:
    """inference.json, in the manner of the model zoo."""
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "@output_postfix",
        "output_dtype": "$np.uint8" if prediction.highest_label <= 255 else "$np.uint16",
        "output_name_formatter": "@output_name",
        "separate_folder": False,
        "resample": True,  # to the grid that it is on: without, MONAI takes some affines for those of two axes, and stops
        "mode": "nearest",
    }
    load, *others = prediction.preprocessing
    return {
        "imports": ["$import glob", "$import os", "$import sys", "$import numpy as np"],
        "bundle_root": ".",
        SCRIPTS_PATH: "$sys.path.insert(0, os.path.abspath(@bundle_root))",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "output_dir": "$@bundle_root + '/eval'",
        "output_postfix": "",
        "output_name": output_name(prediction.images),
        "dataset_dir": "images",
        "datalist": prediction.datalist,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network_definition(prediction),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [load, FINITE, *others]},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': image} for image in @datalist] or (_ for _ in ()).throw(FileNotFoundError("
            f"'there is no image {prediction.images} in ' + str(@dataset_dir)))",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 0},
        "inferer": {
            **({"_target_": "SlidingWindowInferer"} if prediction.weighing == "monai" else _own("NNUNetInferer")),
            "roi_size": list(prediction.patch_size),
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [*prediction.postprocessing, save],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@ckpt_path",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
            {"_target_": "StatsHandler", "iteration_log": False},
        ],
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
