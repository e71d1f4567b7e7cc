"""The configurations by which MONAI trains an exported member that segments further: train, evaluate, multi_gpu_train.

They are in the manner of the model zoo. Images reach the network as in inference.json. A validation scores the label images
that inference.json would write, on the voxels of the stored labels. Deep supervision is off, as in the exported network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_prox.export.bundle_configs import SOURCES, otherwise
from monai_prox.export.bundle_entries import inverting, own, with_label, with_moved_label

PAIR = ("image", "label")
FINE_TUNED = "fine_tuned.pt"  # beside model.pt, which stays as it was exported; MONAI Label offers both
# Not by a handler, for MONAI Label puts its own before all others; not in ``initialize``, for monai.bundle.load runs that
WITH_WEIGHTS = "$@network_def.load_state_dict(@weights) and @network_def.to(@device)"
INITIALIZE = ["$monai.utils.set_determinism(seed=0)"]
DICE_OF = {"output_transform": "$monai.handlers.from_engine(['pred', 'label'])"}


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What the training of a member needs beside inference.json.

    dataset: entries ``images`` and ``labels``, lists of files in ``@dataset_dir``.
    label_values: of each output but the background, its values in label images. exclusive: whether outputs exclude each other.
    flips: axes of the network's images along which training may mirror them. rotation: largest angles about its axes, radians.
    """

    dataset: Mapping[str, Any]
    label_values: tuple[tuple[int, ...], ...]
    exclusive: bool
    flips: tuple[int, ...]
    rotation: tuple[float, ...]

    def configurations(
        self,
        *,
        entries: Mapping[str, Any],
        patch_size: Sequence[int],
        preprocessing: Sequence[Mapping[str, Any]],
        inferer: Mapping[str, Any],
        labelling: Mapping[str, Any],
    ) -> dict[str, dict[str, Any]]:
        """By the names of their files.

        entries: those of inference.json that a training has, too. patch_size: voxels. preprocessing, inferer: as there.
        labelling: the transform from logits ``pred`` to labels.
        """
        train = {
            "imports": [f"$import {module}" for module in ("glob", "os", "sys")],
            **entries,
            "ckpt_dir": "$@bundle_root + '/models'",
            "weights": {"_target_": "torch.load", "f": "@ckpt_path", "map_location": "@device", "weights_only": True},
            "network": WITH_WEIGHTS,
            "dataset_dir": "dataset",
            **self.dataset,
            "validation_cases": "$(len(@images) + 4) // 5",
            "amp": "$torch.cuda.is_available()",
            "epochs": 100,
            "val_interval": "$min(5, @train#trainer#max_epochs)",
            "learning_rate": 0.0001,
            "batch_size": 2,
            "cache_rate": 1.0,
            "num_workers": 4,
            "patch_size": list(patch_size),
            "flips": list(self.flips),
            "loss": self._loss(),
            "optimizer": {"_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": "@learning_rate"},
            "lr_scheduler": {
                "_target_": "torch.optim.lr_scheduler.PolynomialLR",
                "optimizer": "@optimizer",
                "total_iters": "@train#trainer#max_epochs",
                "power": 0.9,
            },
            "train": self._training(preprocessing, labelling),
            "validate": self._validation(preprocessing, inferer, labelling),
            "initialize": INITIALIZE,
            "run": ["$@train#trainer.run()"],
        }
        return {"train": train, "evaluate": _evaluation(), "multi_gpu_train": _several_processes()}

    def _loss(self) -> dict[str, Any]:
        if self.exclusive:
            return {
                "_target_": "DiceCELoss",
                "include_background": False,
                "to_onehot_y": True,
                "softmax": True,
                "batch": True,
            }
        return {"_target_": "DiceFocalLoss", "sigmoid": True, "batch": True, "gamma": 0.0}  # that focal loss is cross-entropy

    def _training(self, preprocessing: Sequence[Mapping[str, Any]], labelling: Mapping[str, Any]) -> dict[str, Any]:
        if self.exclusive:  # the loss takes labels, a score classes
            to_regions, postprocessing = [], [labelling, self._regions("pred", "label")]
        else:
            to_regions = [self._regions("label")]
            postprocessing = [{"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.0}]
        return {
            "deterministic_transforms": with_moved_label(preprocessing, self._declared()),
            "random_transforms": [*self._augmentation(), *to_regions],
            "preprocessing": {
                "_target_": "Compose",
                "transforms": "$@train#deterministic_transforms + @train#random_transforms",
            },
            "dataset": self._dataset("train", "@images[:-@validation_cases]", "@labels[:-@validation_cases]"),
            "dataloader": _loader("train", "@batch_size", shuffle=True),
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {"_target_": "Compose", "transforms": postprocessing},
            "key_metric": {"train_mean_dice": {"_target_": "MeanDice", **DICE_OF}},
            "handlers": [
                {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False},
                {
                    "_target_": "ValidationHandler",
                    "validator": "@validate#evaluator",
                    "epoch_level": True,
                    "interval": "@train#trainer#max_epochs",  # not last, where MONAI looks for val_interval
                    "_disabled_": "$@train#trainer#max_epochs % @val_interval == 0",
                },
                {
                    "_target_": "ValidationHandler",
                    "validator": "@validate#evaluator",
                    "epoch_level": True,
                    "interval": "@val_interval",
                    "exec_at_start": True,  # so that what is kept is no worse than what was exported
                },
                {
                    "_target_": "StatsHandler",
                    "tag_name": "train_loss",
                    "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
                },
            ],
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
                "amp": "@amp",
            },
        }

    def _augmentation(self) -> list[dict[str, Any]]:
        return [
            {"_target_": "SpatialPadd", "keys": list(PAIR), "spatial_size": "@patch_size"},
            {
                "_target_": "RandCropByPosNegLabeld",
                "keys": list(PAIR),
                "label_key": "label",
                "spatial_size": "@patch_size",
                "pos": 1,
                "neg": 1,
                "num_samples": 1,
            },
            {
                "_target_": "RandAffined",
                "keys": list(PAIR),
                "prob": 0.2,
                "rotate_range": list(self.rotation),
                "scale_range": [0.2] * len(self.rotation),
                "mode": ["bilinear", "nearest"],
                "padding_mode": "border",
            },
            *(
                {
                    "_target_": "RandFlipd",
                    "keys": list(PAIR),
                    "prob": 0.5,
                    "spatial_axis": axis,
                    "_disabled_": f"${axis} not in @flips",
                }
                for axis in range(len(self.rotation))
            ),
            {"_target_": "RandGaussianNoised", "keys": "image", "prob": 0.1, "std": 0.1},
            {"_target_": "RandScaleIntensityd", "keys": "image", "prob": 0.15, "factors": 0.25},
        ]

    def _validation(
        self, preprocessing: Sequence[Mapping[str, Any]], inferer: Mapping[str, Any], labelling: Mapping[str, Any]
    ) -> dict[str, Any]:
        to_regions = self._regions("pred", "label")
        return {
            "preprocessing": {"_target_": "Compose", "transforms": with_label(preprocessing, self._declared())},
            "dataset": self._dataset("validate", "@images[-@validation_cases:]", "@labels[-@validation_cases:]"),
            "dataloader": _loader("validate", 1, shuffle=False),
            "inferer": dict(inferer),
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [inverting("@validate#preprocessing"), labelling, to_regions],
            },
            "key_metric": {"val_mean_dice": {"_target_": "MeanDice", **DICE_OF}},
            "handlers": [
                {"_target_": "StatsHandler", "iteration_log": False},
                own("BestWeightsSaver", path=f"$os.path.join(@ckpt_dir, '{FINE_TUNED}')", network="@network"),
            ],
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@validate#dataloader",
                "network": "@network",
                "inferer": "@validate#inferer",
                "postprocessing": "@validate#postprocessing",
                "key_val_metric": "@validate#key_metric",
                "val_handlers": "@validate#handlers",
                "amp": "@amp",
            },
        }

    def _declared(self) -> list[int]:
        return sorted({0}.union(*self.label_values))

    def _regions(self, *keys: str) -> dict[str, Any]:
        return own("LabelsToRegionsd", keys=list(keys), regions=[list(values) for values in self.label_values])

    @staticmethod
    def _dataset(part: str, images: str, labels: str) -> dict[str, Any]:
        cases = f"[{{'image': image, 'label': label}} for image, label in zip({images}, {labels}, strict=True)]"
        some = f"({cases} if @validation_cases > 0 else None)"  # a slice takes 0 and -1 for other numbers
        none = (
            "'validation_cases is ' + str(@validation_cases) + '; of ' + str(len(@images)) + ' cases at least one is held out, "
            "and at least one left for the training'"
        )
        return {
            "_target_": "CacheDataset",
            "data": f"${otherwise(some, f'ValueError({none})')}",
            "transform": f"@{part}#preprocessing",
            "cache_rate": "@cache_rate",
            "num_workers": "@num_workers",
        }


def _loader(part: str, batch_size: Any, *, shuffle: bool) -> dict[str, Any]:
    return {
        "_target_": "DataLoader",
        "dataset": f"@{part}#dataset",
        "batch_size": batch_size,
        "shuffle": shuffle,
        "num_workers": "@num_workers",
    }


def _evaluation() -> dict[str, Any]:
    """What differs from train.json if the weights at ``@ckpt_path`` are scored."""
    return {
        "validate#dataset#cache_rate": 0,
        "validate#handlers": [
            {"_target_": "StatsHandler", "iteration_log": False},
            {
                "_target_": "MetricsSaver",
                "save_dir": "@output_dir",
                "metrics": ["val_mean_dice"],
                "metric_details": ["val_mean_dice"],
                "batch_transform": SOURCES,
                "summary_ops": "*",
            },
        ],
        "dataset": "@validate#dataset",
        "inferer": "@validate#inferer",
        "evaluator": "@validate#evaluator",
        "run": ["$@validate#evaluator.run()"],
    }


def _several_processes() -> dict[str, Any]:
    """What differs from train.json under torchrun. The last of the trainer's handlers logs, and one process does so."""
    gpu = "torch.cuda.is_available()"
    return {
        "device": f"$torch.device('cuda', int(os.environ['LOCAL_RANK'])) if {gpu} else torch.device('cpu')",
        "network": {
            "_target_": "torch.nn.parallel.DistributedDataParallel",
            "module": WITH_WEIGHTS,
            "device_ids": f"$[@device] if {gpu} else None",
        },
        **_shared("train", even=True),
        "train#dataloader#shuffle": False,
        "train#trainer#train_handlers": "$@train#handlers[: -1 if dist.get_rank() > 0 else None]",
        **_shared("validate", even=False),
        "validate#evaluator#val_handlers": "$None if dist.get_rank() > 0 else @validate#handlers",
        "initialize": [
            "$import torch.distributed as dist",
            f"$dist.is_initialized() or dist.init_process_group('nccl' if {gpu} else 'gloo')",
            f"${gpu} and torch.cuda.set_device(@device)",
            *INITIALIZE,
        ],
        "finalize": ["$dist.is_initialized() and dist.destroy_process_group()"],
    }


def _shared(part: str, *, even: bool) -> dict[str, Any]:
    sampler = {
        "_target_": "DistributedSampler",
        "dataset": f"@{part}#dataset",
        "even_divisible": even,
        "shuffle": even,
    }
    return {f"{part}#sampler": sampler, f"{part}#dataloader#sampler": f"@{part}#sampler"}
