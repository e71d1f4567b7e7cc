"""The JSON files of a model folder: plans.json and dataset.json, whose entries are checked before anything reads them.

Earlier versions of nnU-Net v2 wrote plans without a label manager, with networks in other words and intensities by modality,
and took "modality" for the channels' names; nnU-Net still reads them, and so does this.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.errors import ProXError, refusing
from monai_prox.families.architecture import MOST
from monai_prox.files import read_json
from monai_prox.trained.nnunet_dataset import normalised
from monai_prox.typed import check_types

NAME = re.compile(r"(?!\.+$)[\w. +-]+")
SMALLEST, LARGEST = 1e-9, 1e9  # mm; nnU-Net gives pictures a third axis of 999
Numbers = Mapping[str, float | None]
PLANS = {"configurations": Mapping[str, Mapping[str, Any]], "dataset_name": str, "plans_name": str}
FURTHER_PLANS = {
    "image_reader_writer": str,
    "label_manager": Literal["LabelManager"],  # nnU-Net would take anything that its module has
    "transpose_forward": tuple[int, ...],
    "transpose_backward": tuple[int, ...],
    "original_median_shape_after_transp": tuple[float, ...],
    "original_median_spacing_after_transp": tuple[float, ...],
    "foreground_intensity_properties_per_channel": Mapping[str, Numbers],
    "foreground_intensity_properties_by_modality": Mapping[str, Numbers],
}
LISTED = {"images": tuple[str, ...], "label": str}
Wholes = tuple[int, ...]
PerAxis = tuple[Wholes | int, ...]
CONFIGURATION = {
    "patch_size": Wholes,
    "spacing": tuple[float, ...],
    "median_image_size_in_voxels": tuple[float, ...],
    "normalization_schemes": tuple[str, ...],
    "use_mask_for_norm": tuple[bool, ...],
    "resampling_fn_data": str,
    "resampling_fn_seg": str,
    "resampling_fn_probabilities": str,
    "resampling_fn_data_kwargs": Mapping[str, bool | int | float | str | None],
    "resampling_fn_seg_kwargs": Mapping[str, bool | int | float | str | None],
    "resampling_fn_probabilities_kwargs": Mapping[str, bool | int | float | str | None],
    "preprocessor_name": str,
    "data_identifier": str,
    "inherits_from": str,
    "previous_stage": str | None,
    "next_stage": str | tuple[str, ...] | None,
    "batch_size": int,
    "batch_dice": bool,
    "architecture": {"network_class_name": str, "arch_kwargs": Mapping[str, Any], "_kw_requires_import": tuple[str, ...]},
    # of plans from before there was an architecture, which nnU-Net makes one of
    "UNet_class_name": str,
    "UNet_base_num_features": int,
    "unet_max_num_features": int,
    "n_conv_per_stage_encoder": Wholes,
    "n_conv_per_stage_decoder": Wholes,
    "num_pool_per_axis": Wholes,
    "pool_op_kernel_sizes": PerAxis,
    "conv_kernel_sizes": PerAxis,
}
DATASET = {"labels": Mapping[str, Any], "file_ending": str}
FURTHER_DATASET = {
    "channel_names": Mapping[str, str],
    "modality": Mapping[str, str],
}


def read_plans(path: Path) -> dict[str, Any]:
    """plans.json. Raises ProXError, naming the file and the entry, if it is none that nnU-Net writes."""
    return check_plans(read_json(path), path)


def check_plans(plans: Any, path: Path | str) -> dict[str, Any]:
    """Returns what a plans.json holds. Raises ProXError as ``read_plans`` does."""
    check_types(plans, PLANS, path)
    check_types(plans, FURTHER_PLANS, path, missing=True)
    plans.setdefault("label_manager", "LabelManager")  # as nnU-Net does, which says so on standard output
    _check_names(path, plans, ("dataset_name", "plans_name"))
    for name, configuration in plans["configurations"].items():
        source = f"{path}, {name!r:.40}"
        check_types(configuration, CONFIGURATION, source, missing=True)
        if "data_identifier" in configuration:  # nnU-Net removes the folder of this name before it preprocesses
            _check_names(source, configuration, ("data_identifier",))
        if any(not SMALLEST <= mm <= LARGEST for mm in configuration.get("spacing", ())):
            raise ProXError(f"{source}: 'spacing' is {configuration['spacing']!s:.80}; allowed are positive numbers, in mm")
        if len(configuration.get("n_conv_per_stage_encoder", ())) > MOST["n_stages"]:
            raise ProXError(f"{source}: 'n_conv_per_stage_encoder' has more than {MOST['n_stages']} entries")
    return plans  # type: ignore[no-any-return]


def check_trainable(plans: dict[str, Any], configuration: str, trainer: str) -> None:
    """Raises ProXError unless ``trainer`` can train a family by this configuration of ``plans``."""
    with refusing("the plans cannot be used"):
        check_plans(plans, "the plans")
        previous = PlansManager(plans).get_configuration(configuration).previous_stage_name
    if previous is not None:
        raise ProXError(
            f"{configuration} is the second step of a cascade, which {trainer} does not train; train 3d_fullres, or 3d_lowres "
            "by itself"
        )


def check_configuration(configuration: Mapping[str, Any], source: Path | str) -> None:
    """Raises ProXError unless a plan's configuration, without what it inherits, is one of nnU-Net's."""
    needed = {key: CONFIGURATION[key] for key in ("patch_size", "spacing", "architecture")}
    check_types(configuration, needed, source)
    axes = len(configuration["patch_size"])
    for key in ("spacing", "median_image_size_in_voxels"):
        if len(configuration.get(key, configuration["spacing"])) != axes or axes not in (2, 3):
            raise ProXError(
                f"{source}: {key!r} is {configuration[key]!s:.80}, 'patch_size' {configuration['patch_size']!s:.80}"
            )


def read_dataset(path: Path) -> dict[str, Any]:
    """dataset.json, with whole numbers as label values.

    Raises ProXError, naming the file and the entry, if it is none that nnU-Net takes.
    """
    dataset: dict[str, Any] = read_json(path)
    check_types(dataset, DATASET, path)
    check_types(dataset, FURTHER_DATASET, path, missing=True)
    _check_names(path, dataset, ("file_ending",))
    if not any(key in dataset for key in FURTHER_DATASET):
        raise ProXError(f"{path} has no 'channel_names', the channels by their numbers '0', '1' and so on")
    for key in FURTHER_DATASET:
        if not all(name.isdecimal() for name in dataset.get(key, {})):
            raise ProXError(f"{path}: {key!r} must be numbered '0', '1' and so on, got {dataset[key]!r:.80}")
    return normalised(dataset, path)


def listed_files(folder: Path) -> dict[str, tuple[tuple[Path, ...], Path]] | None:
    """By case the images, a file per channel, and the labels of a raw dataset that lists them; None for one that does not.

    As nnU-Net has it, they may be anywhere, and their paths have environment variables in them. Raises ProXError, naming the
    file and the entry, for a list that is none.
    """
    path = folder / "dataset.json"
    data = read_json(path) if path.is_file() else {}
    if not isinstance(data, Mapping) or "dataset" not in data:
        return None
    check_types(data, {"dataset": Mapping}, path)
    listed = {}
    for name, files in data["dataset"].items():
        check_types(files, LISTED, f"{path}, {name!r:.40}")
        images, label = ([Path(folder, os.path.expandvars(file)) for file in of] for of in (files["images"], [files["label"]]))
        listed[name] = tuple(images), label[0]
    return listed


def _check_names(path: Path | str, data: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raises ProXError where an entry, which becomes part of paths, leads elsewhere."""
    for key in keys:
        if not NAME.fullmatch(data[key]):
            raise ProXError(f"{path}: {key!r} is part of paths, so letters, digits, dots, - and _; got {data[key]!r:.80}")
