"""A member of a family that ProXTrainer trained, ready to be written as a MONAI bundle that predicts as nnU-Net does.

Not repeated are nnU-Net's mirroring, the placing and weighting of its windows in images larger than a patch, its slice-wise
resampling of thick slices, and, where a plan normalises within a mask, holes of 0 within it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from monai_prox.errors import ProXError, refusing
from monai_prox.export.bundle_configs import otherwise
from monai_prox.export.prediction import metrics_of
from monai_prox.export.segmentation import TO_RAS, segmentation
from monai_prox.export.segmentation_bundle import SegmentationBundle
from monai_prox.runtime.description import AS_STORED
from monai_prox.trained.family_file import SURFACE
from monai_prox.trained.nnunet_dataset import IGNORED, channels_of, label_values_of, licence_of, outputs_of
from monai_prox.trained.nnunet_folder import UNUSABLE, scored_in
from monai_prox.trained.nnunet_source import TrainedNNUNet

# What of a plan MONAI's transforms repeat below
REPEATED = {
    "preprocessor_name": "DefaultPreprocessor",
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
}


@refusing(UNUSABLE)
def prediction_of(source: TrainedNNUNet, which: str) -> SegmentationBundle:
    """The member ``which``, a name of family.json or a JSON file with a subnet, of the fold that is used.

    Raises ProXError for an unknown or illegal member, and for what MONAI's transforms cannot repeat.
    """
    model, checkpoint = source.model, source.checkpoint
    name, subnet = source.member(which)
    if len(model.configuration["patch_size"]) != 3:
        raise ProXError(f"{model.configuration_name} is two-dimensional; only 3D models become bundles, use --format nnunet")
    ending = model.dataset["file_ending"]
    _check_repeatable(model.plans, model.configuration, ending)
    validated = model.validated(source.fold, subnet, checkpoint["current_epoch"])
    surface, family = (validated and validated.surface_dice) or {}, model.family_of(source.fold)
    tolerance = family.surface_tolerance_mm if surface else None
    bundle = segmentation(
        source,
        subnet,
        source.describe(subnet, name=name),
        orientation=_orientation(source),
        outputs=outputs_of(model.dataset),
        scores=(validated and validated.scores) or {},
        measured_on=scored_in(source.fold, bool(family.mirroring), tolerance),
        licence=licence_of(model.dataset),
        modality="CT" if any(channel.casefold() == "ct" for channel in channels_of(model.dataset)) else "MR",
        images=f"*_0000{ending}",
        datalist=f"${_cases('@dataset_dir', ending)}",
        dataset=_dataset(ending),
        label_values=None if IGNORED in model.dataset["labels"] else label_values_of(model.dataset),
        weighing="nnunet",
    )
    return replace(bundle, metrics={**bundle.metrics, **metrics_of(SURFACE, surface)})


def _cases(folder: str, ending: str) -> str:
    """The expression for the files of the channels of each case in ``folder``."""
    return (
        f"[sorted(glob.glob(glob.escape(first[: -len('0000{ending}')]) + '[0-9]' * 4 + '{ending}')) "
        f"for first in sorted(glob.glob(os.path.join(glob.escape({folder}), '*_0000{ending}')))]"
    )


def _dataset(ending: str) -> dict[str, str]:
    """Entries for the images and labels of a folder such as those in nnUNet_raw."""
    none = f"FileNotFoundError('there is no image imagesTr/*_0000{ending} in ' + str(@dataset_dir))"
    return {
        "images_dir": "$os.path.join(@dataset_dir, 'imagesTr')",
        "images": f"${otherwise(_cases('@images_dir', ending), none)}",
        "labels": f"$[os.path.join(os.path.dirname(image[0]), '..', 'labelsTr', "
        f"os.path.basename(image[0])[: -len('_0000{ending}')] + '{ending}') for image in @images]",
    }


def _check_repeatable(plans: Mapping[str, Any], configuration: Mapping[str, Any], ending: str) -> None:
    found = {key: configuration.get(key) for key in REPEATED} | {"image_reader_writer": plans["image_reader_writer"]}
    allowed: dict[str, tuple[str, ...]] = {key: (value,) for key, value in REPEATED.items()}
    allowed["image_reader_writer"] = (*AS_STORED, TO_RAS)
    for key, value in found.items():
        if value not in allowed[key]:
            raise ProXError(f"the plan's {key} is {value}; bundles repeat {', '.join(allowed[key])}: use --format nnunet")
    if ending not in (".nii.gz", ".nii"):
        raise ProXError(f"the dataset's images are {ending} files; bundles read .nii.gz and .nii: use --format nnunet")


def _orientation(source: TrainedNNUNet) -> str | None:
    """Axis codes of the images as the network knows them; None, with a warning, where the training's are mixed or unknown."""
    if source.model.plans["image_reader_writer"] == TO_RAS:
        return "RAS"
    found = source.orientations
    if len(found) == 1:
        return str(next(iter(found)))
    images = f"are stored in different orientations, {', '.join(found)}"
    if not found:
        images = "are not in nnUNet_raw, so their orientation is not known"
    warnings.warn(
        f"the training's images {images}: the bundle takes images as stored, and is right for those that are stored alike",
        stacklevel=2,
    )
    return None
