"""Bundles of other people: pipelines in the manner of the model zoo, which know nothing of families."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from helpers.bundle_commands import ROOT, monai, write_ellipsoids
from helpers.in_process import prox
from helpers.made_once import made_once

BOTH = ["image", "label"]
UNET = {
    **{"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8, 16], "strides": [2, 2]},
    **{"num_res_units": 1, "norm": "batch"},
}
SEGRESNET = {
    **{"_target_": "monai.networks.nets.SegResNet", "spatial_dims": 3, "in_channels": "@channels", "out_channels": "@regions"},
    **{"init_filters": 16, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
}
STATS = {"_target_": "StatsHandler", "tag_name": "train_loss"}
STATS["output_transform"] = "$monai.handlers.from_engine(['loss'], first=True)"
FROM = "$monai.handlers.from_engine(['pred', 'label'])"
LOAD = [{"_target_": "LoadImaged", "keys": BOTH}, {"_target_": "EnsureChannelFirstd", "keys": BOTH}]
PREPARED = [
    *LOAD,
    {"_target_": "Orientationd", "keys": BOTH, "axcodes": "RAS", "labels": None},
    {"_target_": "ScaleIntensityd", "keys": "image"},
    {"_target_": "EnsureTyped", "keys": BOTH},
]
CROP = {"_target_": "RandCropByPosNegLabeld", "keys": BOTH, "label_key": "label", "spatial_size": [16, 16, 16]}
LABELS = [
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False], "to_onehot": 2},
]
ORGAN: dict[str, Any] = {  # JSON, with parts below train and validate
    "imports": ["$import glob", "$import os"],
    "bundle_root": ".",
    "ckpt_dir": "$@bundle_root + '/models'",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "nowhere",
    "images": "$sorted(glob.glob(@dataset_dir + '/imagesTr/*.nii.gz'))",
    "labels": "$sorted(glob.glob(@dataset_dir + '/labelsTr/*.nii.gz'))",
    "val_interval": 2,
    "epochs": 5,
    "device": "$torch.device('cpu')",
    "network_def": UNET,
    "network": "$@network_def.to(@device)",
    "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
    "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.01},
    "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer", "step_size": 3},
    "train": {
        "transforms": {"_target_": "Compose", "transforms": [*PREPARED, {**CROP, "num_samples": 2}]},
        "dataset": {
            "_target_": "CacheDataset",
            "data": "$[{'image': i, 'label': l} for i, l in zip(@images[:-2], @labels[:-2])]",
            "transform": "@train#transforms",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 1, "shuffle": True},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": LABELS},
        "handlers": [
            {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False},
            {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "interval": "@val_interval"},
            STATS,
        ],
        "key_metric": {"train_accuracy": {"_target_": "ignite.metrics.Accuracy", "output_transform": FROM}},
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@epochs",
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "inferer": "@train#inferer",
            "postprocessing": "@train#postprocessing",
            "key_train_metric": "@train#key_metric",
            "train_handlers": "@train#handlers",
            "amp": False,
        },
    },
    "validate": {
        "transforms": {"_target_": "Compose", "transforms": PREPARED},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i, 'label': l} for i, l in zip(@images[-2:], @labels[-2:])]",
            "transform": "@validate#transforms",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset", "batch_size": 1},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5},
        "postprocessing": "%train#postprocessing",
        "handlers": [
            {"_target_": "StatsHandler", "iteration_log": False},
            {
                **{"_target_": "CheckpointSaver", "save_dir": "@ckpt_dir", "save_dict": {"model": "@network"}},
                **{"save_key_metric": True, "key_metric_filename": "model.pt"},
            },
        ],
        "key_metric": {"val_mean_dice": {"_target_": "MeanDice", "include_background": False, "output_transform": FROM}},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing",
            "key_val_metric": "@validate#key_metric",
            "val_handlers": "@validate#handlers",
        },
    },
    "initialize": ["$monai.utils.set_determinism(seed=7)"],
    "run": ["$@train#trainer.run()"],
}
EVALUATE = {
    "validate#handlers": [
        {"_target_": "CheckpointLoader", "load_path": "$@ckpt_dir + '/model.pt'", "load_dict": {"model": "@network"}},
        {"_target_": "MetricsSaver", "save_dir": "@output_dir", "metric_details": ["val_mean_dice"], "summary_ops": "*"},
    ],
    "run": ["$@validate#evaluator.run()"],
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "nowhere",
    "device": "$torch.device('cpu')",
    "network_def": UNET,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
            {"_target_": "ScaleIntensityd", "keys": "image"},
        ],
    },
    "dataset": {
        "_target_": "Dataset",
        "data": "$[{'image': i} for i in sorted(glob.glob(@dataset_dir + '/*.nii.gz'))]",
        "transform": "@preprocessing",
    },
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "separate_folder": False},
        ],
    },
    "handlers": [
        {
            **{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'"},
            **{"load_dict": {"model": "@network"}},
        }
    ],
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
    },
    "run": ["$@evaluator.run()"],
}
CHANNELS = {"0": "background", "1": "organ"}
METADATA = {
    "version": "0.3.0",
    "changelog": {"0.3.0": "first"},
    "name": "Organ segmentation",
    "description": "a pipeline of somebody",
    "eval_metrics": {"mean_dice": 0.9},
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": [16, 16, 16]}},
        "outputs": {"pred": {"num_channels": 2, "spatial_shape": [16, 16, 16], "channel_def": CHANNELS}},
    },
}
TUMOUR: dict[str, Any] = {  # YAML, with its parts side by side, of two channels and two overlapping regions
    "imports": ["$import glob"],
    "channels": 2,
    "regions": 2,
    "dataset_dir": "nowhere",
    "images": "$sorted(glob.glob(@dataset_dir + '/imagesTr/*.nii.gz'))",
    "data": "$[{'image': i, 'label': i.replace('imagesTr', 'labelsTr')} for i in @images]",
    "net": SEGRESNET,
    "lossfn": {"_target_": "DiceLoss", "sigmoid": True},
    "optim": {"_target_": "torch.optim.Adam", "params": "$@net.parameters()", "lr": 0.01},
    "transforms": {
        "_target_": "Compose",
        "transforms": [
            *LOAD,
            {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True},
            {"_target_": "ConvertToMultiChannelBasedOnBratsClassesd", "keys": "label", "_disabled_": True},
            {"_target_": "Lambdad", "keys": "label", "func": "$lambda x: torch.cat([x > 0, x > 1]).float()"},
            {"_target_": "CenterSpatialCropd", "keys": BOTH, "roi_size": [16, 16, 16]},
        ],
    },
    "loader": {
        "_target_": "ThreadDataLoader",
        "dataset": {"_target_": "Dataset", "data": "$@data[:2]", "transform": "@transforms"},
        "batch_size": 2,
    },
    "evaluator": {
        "_target_": "monai.engines.SupervisedEvaluator",
        "device": "cpu",
        "val_data_loader": {
            "_target_": "DataLoader",
            "dataset": {"_target_": "Dataset", "data": "$@data[2:]", "transform": "@transforms"},
        },
        "network": "@net",
        "postprocessing": {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.0},
        "key_val_metric": {"val_dice": {"_target_": "MeanDice", "output_transform": FROM}},
    },
    "trainer": {
        "_target_": "monai.engines.SupervisedTrainer",
        "max_epochs": 1,
        "device": "cpu",
        "train_data_loader": "@loader",
        "network": "@net",
        "loss_function": "@lossfn",
        "optimizer": "@optim",
        "train_handlers": [
            {"_target_": "ValidationHandler", "validator": "@evaluator", "interval": 1},
            {"_target_": "CheckpointSaver", "save_dir": "models", "save_dict": {"model": "@net"}, "save_final": True},
        ],
    },
    "run": ["$@trainer.run()"],
}


def write_organ(folder: Path, **changes: Any) -> Path:
    """The bundle of an organ. changes: entries of its train.json."""
    configs = {"train": ORGAN | changes, "evaluate": EVALUATE, "inference": INFERENCE, "metadata": METADATA}
    for name, content in configs.items():
        write_config(content, folder / "configs" / f"{name}.json")
    shutil.copyfile(ROOT / "bundles" / "sources" / "logging.conf", folder / "configs" / "logging.conf")
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("# Model Overview\n")
    (folder / "LICENSE").write_text("of somebody\n")
    (folder / "large_files.yml").write_text("large_files: []\n")
    return folder


def write_config(content: Mapping[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4) if path.suffix == ".json" else yaml.safe_dump(dict(content), sort_keys=False))
    return path


def organ_task(folder: Path) -> Path:
    return write_ellipsoids(folder, ("CT",), ("background", "organ"), (20, 18, 17), (1.0, 1.0, 2.0), cases=4)


def run(bundle: Path, *configs: str, check: bool = True, **options: Any) -> str:
    """MONAI's command in a bundle, with several configurations. Returns what it said."""
    files = "[" + ",".join(f"'configs/{name}'" for name in configs) + "]"
    given = [word for key, value in options.items() for word in (f"--{key.replace('__', '#')}", str(value))]
    done = monai(["run", "--config_file", files, *given], cwd=bundle, check=check)
    return done.stdout + done.stderr


def trained_organ() -> Path:
    """A folder with ``task`` and ``bundle``, which has trained a family by the overlay."""

    def fill(folder: Path) -> None:
        task, bundle = organ_task(folder / "task"), write_organ(folder / "bundle")
        assert prox("overlay", bundle).code == 0
        (folder / "said").write_text(run(bundle, "train.json", "prox.json", dataset_dir=task))

    return made_once("a pipeline of somebody", fill)
