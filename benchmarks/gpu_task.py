"""Stock nnU-Net trainings without a dataset: plans of two Decathlon tasks, synthetic preprocessed cases, nnU-Net's trainers.

Cases are as large as the median case of the task. Voxels are normal noise, and labels are boxes in each other, so that every
label is in most patches.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.data.topology import SMALLEST_FEATURE_MAP, plan_architecture
from monai_prox.families.unet import UNetFamily
from monai_prox.nnunet.loader_process import EndWithTraining
from monai_prox.nnunet.trainer import ProXTrainer

CONFIGURATION = "3d_fullres"
SPACING = (1.0, 1.0, 1.0)  # mm
CASES = 2  # they stay in the memory of the operating system, as most of a dataset does
BATCHES = 2  # different ones, in turns, for a step
LOCATIONS = 10_000  # voxels by label that nnU-Net notes for its choice of patches


class Workload(NamedTuple):
    """What a plan is made of.

    labels: of the foreground. image, patch: voxels per axis. features: channels of the first level.
    """

    channels: int
    labels: int
    image: tuple[int, ...]
    patch: tuple[int, ...]
    batch_size: int
    features: int = 32


SIZES: Mapping[str, Mapping[str, Workload]] = {
    "stock": {
        "hippocampus": Workload(1, 2, (36, 50, 35), (40, 56, 40), 9),
        "brain_tumour": Workload(4, 3, (138, 169, 138), (128, 128, 128), 2),
    },
    "tiny": {
        "hippocampus": Workload(1, 2, (16, 20, 14), (16, 16, 16), 2, features=4),
        "brain_tumour": Workload(4, 3, (20, 20, 20), (16, 16, 16), 2, features=4),
    },
}


class EndingTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's own trainer, but its loader processes end with this process, also if it is killed."""

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> Any:
        composed = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        composed.transforms.insert(0, EndWithTraining())
        return composed

    @staticmethod
    def get_validation_transforms(*args: Any, **kwargs: Any) -> Any:
        composed = nnUNetTrainer.get_validation_transforms(*args, **kwargs)
        composed.transforms.insert(0, EndWithTraining())
        return composed


class SyntheticTask:
    """A task that nnU-Net finds planned and preprocessed.

    root: a folder for all tasks. nnU-Net's variables are set to folders below it.
    processes: of a process group, one a GPU.
    """

    def __init__(self, name: str, workload: Workload, root: Path, device: str, processes: int = 1) -> None:
        self.name, self.workload, self.root, self.device = name, workload, root, torch.device(device)
        self.processes = processes
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[variable] = str(root / variable)
        os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}  # where they are needed, parts say otherwise

    def write_cases(self) -> None:
        folder = self.root / "nnUNet_preprocessed" / self.name / CONFIGURATION
        folder.mkdir(parents=True)
        image, labels = self.workload.image, range(1, self.workload.labels + 1)
        segmentation = np.zeros((1, *image), np.int8)
        for label in labels:
            margins = [size * label // (2 * len(labels) + 2) for size in image]
            inner = (slice(margin, size - margin) for margin, size in zip(margins, image, strict=True))
            segmentation[(0, *inner)] = label
        places = {label: np.argwhere(segmentation == label) for label in labels}
        locations = {label: found[:: len(found) // LOCATIONS + 1] for label, found in places.items()}
        for number in range(CASES):
            data = np.random.default_rng(number).standard_normal((self.workload.channels, *image), dtype=np.float32)
            blocks, chunks = comp_blosc2_params(data.shape, self.workload.patch)
            path = str(folder / f"case_{number}")
            nnUNetDatasetBlosc2.save_case(
                data, segmentation, {"class_locations": locations}, path, chunks=chunks, blocks=blocks
            )

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The plan's configuration, as nnU-Net's planner writes it."""
        _, strides, kernels, _, _ = get_pool_and_conv_props(SPACING, self.workload.patch, SMALLEST_FEATURE_MAP, 999)
        channels = self.workload.channels
        resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
        return {
            "data_identifier": CONFIGURATION,
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": self.workload.batch_size,
            "patch_size": list(self.workload.patch),
            "median_image_size_in_voxels": list(self.workload.image),
            "spacing": list(SPACING),
            "normalization_schemes": ["ZScoreNormalization"] * channels,
            "use_mask_for_norm": [False] * channels,
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": resampling,
            "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
            "architecture": plan_architecture("PlainConvUNet", self.workload.features, strides, kernels),
            "batch_dice": False,
        }

    @cached_property
    def family(self) -> UNetFamily:
        """The default family of the plan."""
        return ProXTrainer.family(self.configuration, self.workload.channels, self.workload.labels + 1)

    def trainer(self, cls: type[nnUNetTrainer] = EndingTrainer, **entries: Any) -> Any:
        """An initialised trainer. entries: put into the configuration, e.g. prox={"recipe": "prox_paper"}."""
        plans = {
            "dataset_name": self.name,
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": list(SPACING),
            "original_median_shape_after_transp": list(self.workload.image),
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {CONFIGURATION: self.configuration | entries},
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {},
            "continue_training": False,
        }
        dataset = {
            "channel_names": {str(channel): "MRI" for channel in range(self.workload.channels)},
            "labels": {"background": 0} | {f"label {label}": label for label in range(1, self.workload.labels + 1)},
            "numTraining": CASES,
            "file_ending": ".nii.gz",
        }
        torch.manual_seed(0)
        trainer: Any = cls(plans, CONFIGURATION, "all", dataset, self.device)
        trainer.initialize()
        return trainer

    def draw(self, trainer: Any) -> list[dict[str, Any]]:
        """Batches of nnU-Net's own loader, of the trainer's batch size."""
        np.random.seed(0)
        loader, _ = trainer.get_dataloaders()
        return [self._pinned(next(loader)) for _ in range(BATCHES)]

    @cached_property
    def batches(self) -> list[dict[str, Any]]:
        """Of the plan's batch size."""
        return self.draw(self.trainer())

    def _pinned(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As nnU-Net's loader processes hand batches to a GPU."""
        if self.device.type != "cuda":
            return batch
        return batch | {"data": batch["data"].pin_memory(), "target": [level.pin_memory() for level in batch["target"]]}
