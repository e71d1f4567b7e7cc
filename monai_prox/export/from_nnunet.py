"""A member of a family that ProXTrainer trained, ready to be written as a MONAI bundle that predicts as nnU-Net does.

nnU-Net's arrays have the axes of the NIfTI file reversed and, by ``transpose_forward``, perhaps reordered; MONAI's have them as
in the file. So the network's kernels are turned instead of the images. Not repeated are nnU-Net's mirroring, the placing and
weighting of its windows in images larger than a patch, its slice-wise resampling of thick slices, and, where a plan normalises
within a mask, holes of 0 within it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from monai_prox.errors import ProXError, refusing
from monai_prox.export.bundle_entries import cropping, inverting, loading, orienting, regions_to_labels, resampling
from monai_prox.export.segmentation_bundle import SegmentationBundle
from monai_prox.families.architecture import build_network
from monai_prox.runtime.description import ORIENTATIONS
from monai_prox.trained.nnunet_dataset import channels_of, licence_of, outputs_of
from monai_prox.trained.nnunet_folder import UNUSABLE, ModelFolder, scored_in
from monai_prox.trained.nnunet_member import member_plans
from monai_prox.trained.nnunet_orientation import stored_orientations
from monai_prox.trained.nnunet_plans import intensities_of
from monai_prox.trained.nnunet_source import TrainedNNUNet

PER_AXIS = ("kernel_sizes", "strides")
AS_STORED, TO_RAS = ("SimpleITKIO", "NibabelIO"), "NibabelIOWithReorient"  # nnU-Net's readers, by what they do with axes
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
    model, fold, checkpoint = source.model, source.fold, source.checkpoint
    name, subnet = source.member(which)
    plans = member_plans(model, source.supernet, name, subnet)
    configuration = plans["configurations"][model.configuration_name]
    if len(configuration["patch_size"]) != 3:
        raise ProXError(f"{model.configuration_name} is two-dimensional; only 3D models become bundles, use --format nnunet")
    _check_repeatable(plans, configuration, model.dataset["file_ending"])
    order, orientation = _order(plans["transpose_forward"]), _orientation(model, fold)
    labels = PlansManager(plans).get_label_manager(model.dataset)
    channels = channels_of(model.dataset)
    architecture = turned_architecture(configuration["architecture"], order)
    network = build_network(architecture, input_channels=len(channels), num_classes=labels.num_segmentation_heads)
    network.load_state_dict(turned_weights(source.network(subnet), order))
    validated = model.validated(fold, subnet, checkpoint["current_epoch"])
    measured = (validated and validated.scores) or {}
    spacing = [configuration["spacing"][axis] for axis in order]
    ending = model.dataset["file_ending"]
    return SegmentationBundle(
        name=name,
        task=plans["dataset_name"],
        source=f"{checkpoint['trainer_name']} on {plans['dataset_name']}, {model.configuration_name}, {fold}, "
        f"{model.epochs(checkpoint)}",
        subnet=subnet.to_json(),
        network=network,
        architecture=architecture,
        channels=channels,
        modality="CT" if any(channel.casefold() == "ct" for channel in channels) else "MR",
        outputs=outputs_of(model.dataset),
        highest_label=max(map(int, labels.regions_class_order)) if labels.has_regions else labels.num_segmentation_heads - 1,
        patch_size=tuple(int(configuration["patch_size"][axis]) for axis in order),
        spacing=tuple(spacing),
        metrics={f"dice {label}": value for label, value in measured.items() if value is not None},
        measured_on=scored_in(fold, bool(checkpoint["inference_allowed_mirroring_axes"])) if measured else "",
        licence=licence_of(model.dataset),
        preprocessing=tuple(_preprocessing(plans, configuration, spacing, orientation)),
        postprocessing=tuple(_postprocessing(model.dataset, labels.has_regions)),
        images=f"*_0000{ending}",
        orientation=orientation,
        datalist=f"$[sorted(glob.glob(glob.escape(first[: -len('0000{ending}')]) + '[0-9]' * 4 + '{ending}')) "
        f"for first in sorted(glob.glob(os.path.join(glob.escape(@dataset_dir), '*_0000{ending}')))]",
        weighing="nnunet",
    )


def _check_repeatable(plans: Mapping[str, Any], configuration: Mapping[str, Any], ending: str) -> None:
    found = {key: configuration.get(key) for key in REPEATED} | {"image_reader_writer": plans["image_reader_writer"]}
    allowed: dict[str, tuple[str, ...]] = {key: (value,) for key, value in REPEATED.items()}
    allowed["image_reader_writer"] = (*AS_STORED, TO_RAS)
    for key, value in found.items():
        if value not in allowed[key]:
            raise ProXError(f"the plan's {key} is {value}; bundles repeat {', '.join(allowed[key])}: use --format nnunet")
    if ending not in (".nii.gz", ".nii"):
        raise ProXError(f"the dataset's images are {ending} files; bundles read .nii.gz and .nii: use --format nnunet")


def _orientation(model: ModelFolder, fold: str) -> str | None:
    """Axis codes of the images as the network knows them; None, with a warning, where the training's are mixed or unknown.

    They are in the fold's family.json, in its checkpoint, or found in the raw dataset.
    """
    if model.plans["image_reader_writer"] == TO_RAS:
        return "RAS"
    known = model.family_of(fold).orientations
    found = known or stored_orientations(model.plans["dataset_name"])
    if not isinstance(found, Mapping) or not set(found) <= ORIENTATIONS:
        raise ProXError(f"{fold}/family.json: orientations are axis codes such as RAS with numbers, got {found!r:.120}")
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


def _order(transpose_forward: Sequence[int]) -> list[int]:
    """For each axis of the file, (x, y, z), the axis of nnU-Net's arrays that it is."""
    return [list(transpose_forward).index(2 - axis) for axis in range(3)]


def turned_architecture(architecture: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """The network for images whose axis i is axis ``order[i]`` of those that ``architecture`` is for."""
    kwargs = dict(architecture["arch_kwargs"])
    for key in PER_AXIS:
        kwargs[key] = [v if isinstance(v, int) else [v[axis] for axis in order] for v in kwargs[key]]
    return {**architecture, "arch_kwargs": kwargs}


def turned_weights(network: nn.Module, order: Sequence[int]) -> dict[str, Any]:
    """The weights of ``network`` for such images: kernels, (O, I, 3 axes), are turned."""
    return {
        name: tensor.permute(0, 1, *(2 + axis for axis in order)).contiguous() if tensor.ndim == 5 else tensor
        for name, tensor in network.state_dict().items()
    }


def _preprocessing(
    plans: Mapping[str, Any], configuration: Mapping[str, Any], spacing: Sequence[float], orientation: str | None
) -> list[Mapping[str, Any]]:
    """nnU-Net's: crop to what is not 0, normalise, resample by cubic splines with the image's outer faces kept in place."""
    return [
        loading("ChannelsReader", turned=plans["image_reader_writer"] == TO_RAS),
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        *orienting(orientation),
        cropping(),
        *_normalisation(plans, configuration),
        resampling(spacing, mode=3, padding_mode="nearest"),
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]


def _normalisation(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    schemes, masks = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    kinds = set(zip(schemes, masks, strict=True))
    if len(kinds) > 1:
        raise ProXError(f"the plan normalises channels differently, {schemes} with masks {masks}; use --format nnunet")
    ((scheme, masked),) = kinds
    if scheme == "ZScoreNormalization":
        return [{"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": bool(masked), "channel_wise": True}]
    if scheme == "CTNormalization" and len(schemes) == 1:
        ct = intensities_of(plans)["0"]
        lower, upper, mean, std = (ct[key] for key in ("percentile_00_5", "percentile_99_5", "mean", "std"))
        std = max(std, 1e-8)
        return [_range(lower, upper, (lower - mean) / std, (upper - mean) / std)]
    if scheme == "RescaleTo01Normalization":
        return [{"_target_": "ScaleIntensityd", "keys": "image", "minv": 0.0, "maxv": 1.0, "channel_wise": True}]
    if scheme == "RGBTo01Normalization":
        return [_range(0.0, 255.0, 0.0, 1.0)]
    if scheme == "NoNormalization":
        return []
    raise ProXError(f"the plan's normalisation {schemes} has no counterpart among MONAI's transforms; use --format nnunet")


def _range(lower: float, upper: float, start: float, end: float) -> dict[str, Any]:
    bounds = {"a_min": lower, "a_max": upper, "b_min": start, "b_max": end}
    return {"_target_": "ScaleIntensityRanged", "keys": "image", **bounds, "clip": True}


def _postprocessing(dataset: Mapping[str, Any], has_regions: bool) -> list[Mapping[str, Any]]:
    """Logits back at the resolution of what was cropped, as nnU-Net resamples them, with 0 around it, then labels."""
    if has_regions:
        return [inverting(), regions_to_labels(dataset["regions_class_order"])]
    return [inverting(), {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
