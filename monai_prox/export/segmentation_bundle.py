"""The files of a bundle whose network segments. The axes of everything are MONAI's, (x, y, z) as in the NIfTI file."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from monai_prox.export.bundle import MARK, SCHEMA, VERSION
from monai_prox.export.bundle_docs import data_license, readme
from monai_prox.export.bundle_entries import SCRIPTS_PATH, checking, output_name, own
from monai_prox.export.prediction import Prediction
from monai_prox.families.architecture import kind_of

PACKAGES = ("nibabel", "pytorch-ignite", "dynamic-network-architectures", "scipy")


class SegmentationBundle(Prediction):
    """A member as a bundle's files. See ``monai_prox.export.bundle.Exportable``."""

    def metadata(self) -> dict[str, Any]:
        """metadata.json, as the model zoo's schema asks for it."""
        channels = {str(number): name for number, name in enumerate(self.channels)}
        outputs = {str(number): name for number, name in enumerate(self.outputs)}
        tensor = {"type": "image", "spatial_shape": list(self.patch_size), "dtype": "float32", "value_range": []}
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "changelog": {VERSION: f"the member {self.name} of {self.source}"},
            "monai_version": version("monai"),
            "pytorch_version": torch.__version__.partition("+")[0],
            "numpy_version": version("numpy"),
            "required_packages_version": {package: version(package) for package in PACKAGES},
            "supported_apps": {},
            "name": f"{self.task} {self.name}",
            "task": f"Segmentation of {self.task}",
            "description": f"{kind_of(self.architecture)} of a once-for-all family, the member {self.name}",
            "authors": "whoever trained and exported it",
            "copyright": "of the weights: whoever trained them",
            "data_source": self.task,
            "data_type": "nibabel",
            "image_classes": f"{len(self.channels)} channels: {', '.join(self.channels)}",
            "label_classes": "; ".join(f"{number} {name}" for number, name in outputs.items()),
            "pred_classes": "; ".join(f"channel {number}: {name}" for number, name in outputs.items()),
            "eval_metrics": dict(self.metrics),
            "intended_use": "research; not for diagnosis",
            "references": [
                "Isensee et al., nnU-Net, Nature Methods 18, 203-211 (2021)",
                "Lim et al., Neurocomputing (2024), doi 10.1016/j.neucom.2024.127512",
            ],
            "network_data_format": {
                "inputs": {
                    "image": {
                        **tensor,
                        "format": "hounsfield" if self.modality == "CT" else "magnitude",
                        "modality": self.modality,
                        "num_channels": len(self.channels),
                        "is_patch_data": True,
                        "channel_def": channels,
                    }
                },
                "outputs": {
                    "pred": {
                        **tensor,
                        "format": "logits",
                        "num_channels": len(self.outputs),
                        "is_patch_data": True,
                        "channel_def": outputs,
                    }
                },
            },
            MARK: {"name": self.name, "subnet": dict(self.subnet), "spacing": list(self.spacing)},
        }

    def inference(self) -> dict[str, Any]:
        """inference.json, in the manner of the model zoo."""
        save = {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "@output_postfix",
            "output_dtype": "$np.uint8" if self.highest_label <= 255 else "$np.uint16",
            "output_name_formatter": "@output_name",
            "separate_folder": False,
            "resample": True,  # to the grid that it is on: without, MONAI takes some affines for those of two axes, and stops
            "mode": "nearest",
        }
        load, *others = self.preprocessing
        return {
            "imports": ["$import glob", "$import os", "$import sys", "$import numpy as np"],
            "bundle_root": ".",
            SCRIPTS_PATH: "$sys.path.insert(0, os.path.abspath(@bundle_root))",
            "ckpt_path": "$@bundle_root + '/models/model.pt'",
            "output_dir": "$@bundle_root + '/eval'",
            "output_postfix": "",
            "output_name": output_name(self.images),
            "dataset_dir": "images",
            "datalist": self.datalist,
            "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
            "network_def": network_definition(self),
            "network": "$@network_def.to(@device)",
            "preprocessing": {"_target_": "Compose", "transforms": [load, checking(), *others]},
            "dataset": {
                "_target_": "Dataset",
                "data": "$[{'image': image} for image in @datalist] or (_ for _ in ()).throw(FileNotFoundError("
                f"'there is no image {self.images} in ' + str(@dataset_dir)))",
                "transform": "@preprocessing",
            },
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@dataset",
                "batch_size": 1,
                "shuffle": False,
                "num_workers": 0,
            },
            "inferer": {
                **({"_target_": "SlidingWindowInferer"} if self.weighing == "monai" else own("NNUNetInferer")),
                "roi_size": list(self.patch_size),
                "sw_batch_size": 1,
                "overlap": 0.5,
                "mode": "gaussian",
            },
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [*self.postprocessing, save],
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

    def readme(self) -> str:
        return readme(self)

    def data_license(self) -> str:
        return data_license(self)


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
