"""A member of a classifier's training bundle as a MONAI bundle that predicts: MONAI and torchvision are all it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from textwrap import fill
from typing import Any

import torch
from torch import nn

from monai_prox.data.oct import SUFFIXES
from monai_prox.export.bundle import MARK, SCHEMA, VERSION
from monai_prox.export.bundle_docs import EXPORTED, LICENCE_NOTE, WIDTH
from monai_prox.export.prediction import check_plain
from monai_prox.trained.bundle_source import TrainedClassifier

PACKAGES = ("pillow", "pytorch-ignite", "torchvision")
CONFIG = ("input_channels", "kernel", "expanded_channels", "out_channels", "use_se", "activation", "stride")


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A member with what surrounds it in prediction.

    name, task, source: of the member, of the data, and in words where it was trained.
    network, architecture: the stock network with its weights and norm statistics, and its plain data.
    classes: names of the outputs. image_size: pixels, rows and columns, that images are brought to; working_size: at which the
    network works on them. scores: as measured, {} where nothing was.
    """

    name: str
    task: str
    source: str
    subnet: Mapping[str, Any]
    network: nn.Module
    architecture: Mapping[str, Any]
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    working_size: tuple[int, int]
    scores: Mapping[str, float]

    def __post_init__(self) -> None:
        check_plain([self.name, self.task, self.source, self.classes, self.architecture, self.scores, self.subnet])

    def metadata(self) -> dict[str, Any]:
        """metadata.json, as the model zoo's schema asks for it."""
        numbered = {str(number): name for number, name in enumerate(self.classes)}
        tensor = {"dtype": "float32", "value_range": []}
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
            "task": f"Classification of {self.task}",
            "description": f"MobileNetV3 of a once-for-all family, the member {self.name}",
            "authors": "whoever trained and exported it",
            "copyright": "of the weights: whoever trained them",
            "data_source": self.task,
            "data_type": "jpeg",
            "image_classes": "1 channel, a retinal OCT B-scan; each image is normalised to mean 0 and standard deviation 1",
            "label_classes": "; ".join(f"{number} {name}" for number, name in numbered.items()),
            "pred_classes": "; ".join(f"channel {number}: {name}" for number, name in numbered.items()),
            "eval_metrics": {f"accuracy {name}": value for name, value in self.scores.items()},
            "intended_use": "research; not for diagnosis",
            "references": [
                "Howard et al., Searching for MobileNetV3, ICCV (2019)",
                "Lim et al., Neurocomputing (2024), doi 10.1016/j.neucom.2024.127512",
            ],
            "network_data_format": {
                "inputs": {
                    "image": {
                        "type": "image",
                        "format": "magnitude",
                        "modality": "OCT",
                        "num_channels": 1,
                        "spatial_shape": list(self.working_size),
                        "is_patch_data": False,
                        "channel_def": {"0": "OCT"},
                        **tensor,
                    }
                },
                "outputs": {
                    "pred": {
                        "type": "probabilities",
                        "format": "classes",
                        "num_channels": len(self.classes),
                        "spatial_shape": [],
                        "is_patch_data": False,
                        "channel_def": numbered,
                        **tensor,
                    }
                },
            },
            MARK: {"name": self.name, "subnet": dict(self.subnet)},
        }

    def inference(self) -> dict[str, Any]:
        """inference.json, in the manner of the model zoo."""
        stem = self.architecture["blocks"][0][0]
        place = "torchvision.models.mobilenetv3."
        blocks = [
            {
                "_target_": place + "InvertedResidualConfig",
                **dict(zip(CONFIG, block, strict=True)),
                "dilation": 1,
                "width_mult": 1.0,
            }
            for block in self.architecture["blocks"]
        ]
        resize = (
            f"torch.nn.functional.interpolate(d['image'][None], {list(self.working_size)}, mode='bilinear', antialias=True)"
        )
        smaller = [] if self.working_size == self.image_size else [f"$lambda d: {{**d, 'image': {resize}[0]}}"]
        return {
            "imports": ["$import glob", "$import os"],
            "bundle_root": ".",
            "ckpt_path": "$@bundle_root + '/models/model.pt'",
            "output_dir": "$@bundle_root + '/eval'",
            "dataset_dir": "images",
            "datalist": "$sorted(i for i in glob.glob(os.path.join(glob.escape(@dataset_dir), '*')) "
            f"if i.lower().endswith({SUFFIXES}))",
            "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
            "stem": {
                "_target_": "torch.nn.Conv2d",
                "in_channels": 1,
                "out_channels": stem,
                "kernel_size": 3,
                "stride": 2,
                "padding": 1,
                "bias": False,
            },
            "stock": {
                "_target_": place + "MobileNetV3",
                "inverted_residual_setting": blocks,
                "last_channel": self.architecture["last_channel"],
                "num_classes": self.architecture["num_classes"],
            },
            # torchvision's stem is for colour images; to put another one into its place gives None
            "network_def": "$@stock.features[0].__setitem__(0, @stem) or @stock",
            "network": "$@network_def.to(@device)",
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {
                        "_target_": "LoadImaged",
                        "keys": "image",
                        "reader": "$monai.data.PILReader(converter=lambda image: image.convert('L'), reverse_indexing=False)",
                    },
                    {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
                    {
                        "_target_": "Resized",
                        "keys": "image",
                        "spatial_size": list(self.image_size),
                        "mode": "bilinear",
                        "anti_aliasing": True,
                    },
                    {"_target_": "NormalizeIntensityd", "keys": "image"},
                    {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
                    *smaller,
                ],
            },
            "dataset": {
                "_target_": "Dataset",
                "data": "$[{'image': image} for image in @datalist] or (_ for _ in ()).throw(FileNotFoundError("
                f"'there is no image {' or '.join(SUFFIXES)} in ' + str(@dataset_dir)))",
                "transform": "@preprocessing",
            },
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@dataset",
                "batch_size": 1,
                "shuffle": False,
                "num_workers": 0,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
            },
            "handlers": [
                {
                    "_target_": "CheckpointLoader",
                    "load_path": "@ckpt_path",
                    "load_dict": {"model": "@network"},
                    "map_location": "@device",
                },
                {"_target_": "StatsHandler", "iteration_log": False},
                {
                    "_target_": "ClassificationSaver",
                    "output_dir": "@output_dir",
                    "batch_transform": "$lambda batch: [item['image'].meta for item in batch]",
                    "output_transform": "$monai.handlers.from_engine('pred')",
                },
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
        overview = fill(
            f"Classifies retinal OCT B-scans as {', '.join(self.classes)}. This is {self.name}, one member of a once-for-all "
            f"family of networks, cut out without retraining: {self.source}. The network is torchvision's MobileNetV3 with "
            "other blocks; it runs wherever MONAI and torchvision are installed.",
            WIDTH,
        )
        rows, columns = self.image_size
        working = " x ".join(map(str, self.working_size))
        scores = "\n".join(f"| accuracy {name} | {value:.4f} |" for name, value in self.scores.items())
        table = f"Measured on the training's validation scans:\n\n| metric | value |\n|---|---|\n{scores}"
        return f"""# Model Overview

{overview}

## Data

{self.task}. For the licence of the data ask whoever provides it.

## Training configuration

Cut out of {self.source}. This bundle predicts only.

## Input

Grey-scale images in a folder ({", ".join(SUFFIXES)}), brought to {rows} x {columns} pixels; the network works on {working}.

## Output

eval/predictions.csv: a line per image with its file and the probabilities of {", ".join(self.classes)}, in this order.

## Performance

{table if self.scores else "Not measured."}

## MONAI Bundle Commands

Predict, from inside the bundle's folder:

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir OUTPUT
```

Export to TorchScript and ONNX:

```
python -m monai.bundle ckpt_export network_def --filepath models/model.ts {EXPORTED}
python -m monai.bundle onnx_export network_def --filepath models/model.onnx {EXPORTED}
```

# References

[1] Lim et al. Neurocomputing (2024). https://doi.org/10.1016/j.neucom.2024.127512

[2] Howard, A. et al. "Searching for MobileNetV3." ICCV (2019).

# License

{LICENCE_NOTE}
"""

    def data_license(self) -> str:
        return f"The data are not part of this bundle.\n\n{self.task}: ask whoever provides it for its licence.\n"


def classification_of(source: TrainedClassifier, which: str) -> Classification:
    """The member ``which``, a name of family.json or a JSON file with a subnet.

    Raises ProXError for an unknown or illegal member, and where nothing has been trained or the norms' statistics are missing.
    """
    name, subnet = source.member(which)
    description = source.describe(subnet, name=name)
    return Classification(
        name=name,
        task=description.task,
        source=description.source,
        subnet=description.subnet,
        network=source.network(subnet),
        architecture=source.supernet.family.architecture_of(subnet),
        classes=description.classes,
        image_size=description.image_size,
        working_size=description.working_size,
        scores=source.bundle.measured(subnet),
    )
