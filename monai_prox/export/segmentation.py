"""A member that segments as a bundle: what its description says, in the axes of MONAI's images and as MONAI's transforms.

A description's arrays have the axes of the NIfTI file reversed and, by ``transpose``, perhaps reordered; MONAI's have them as
in the file. So the network's kernels are turned instead of the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.data.topology import largest_rotation
from monai_prox.errors import ProXError
from monai_prox.export.bundle_entries import (
    cropping,
    loading,
    normalising,
    preprocessing,
    regions_to_labels,
    resampling,
    resampling_by,
    scaling,
)
from monai_prox.export.fine_tuning import FineTuning
from monai_prox.export.prediction import metrics_of
from monai_prox.export.segmentation_bundle import SegmentationBundle
from monai_prox.families.architecture import build_network
from monai_prox.runtime.description import ALL_CHANNELS, Description, Normalisation
from monai_prox.trained.source import Trained

PER_AXIS = ("kernel_sizes", "strides")
TO_RAS = "NibabelIOWithReorient"  # nnU-Net's reader that turns images


def segmentation(
    source: Trained,
    subnet: Subnet,
    description: Description,
    *,
    orientation: str | None,
    outputs: tuple[str, ...],
    scores: Mapping[str, float | None],
    measured_on: str,
    licence: str,
    modality: str,
    images: str,
    datalist: str,
    dataset: Mapping[str, Any],
    label_values: tuple[tuple[int, ...], ...] | None,
    weighing: Literal["monai", "nnunet"],
) -> SegmentationBundle:
    """The member ``subnet`` of ``source``, as described. The other arguments: what ``description`` does not say.

    They are as of ``SegmentationBundle`` and ``FineTuning``. scores: by class, None where no case has it. label_values: None if
    some voxels are to be ignored, for which MONAI has no loss. Raises ProXError for what MONAI's transforms cannot repeat.
    """
    # For the file's axes, (x, y, z), which of the arrays each is
    order = [description.transpose.index(2 - axis) for axis in range(len(description.patch))]
    architecture = turned_architecture(source.supernet.family.architecture_of(subnet), order)
    network = build_network(architecture, input_channels=len(description.channels), num_classes=description.outputs)
    network.load_state_dict(turned_weights(source.network(subnet), order))
    spacing = tuple(description.spacing[axis] for axis in order)
    return SegmentationBundle(
        name=description.member,
        task=description.task,
        source=description.source,
        subnet=description.subnet,
        network=network,
        architecture=architecture,
        channels=description.channels,
        modality=modality,
        outputs=outputs,
        written=description.regions,
        highest_label=description.outputs - 1 if description.regions is None else max(description.regions),
        patch_size=tuple(description.patch[axis] for axis in order),
        spacing=spacing,
        metrics=metrics_of(source.measure, scores),
        measured_on=measured_on if scores else "",
        licence=licence,
        weights_license=description.license,
        preprocessing=_preprocessing(description, spacing, orientation),
        labelling=_labelling(description.regions),
        images=images,
        orientation=orientation,
        datalist=datalist,
        fine_tuning=None
        if label_values is None
        else FineTuning(
            dataset=dataset,
            label_values=label_values,
            exclusive=description.regions is None,
            flips=tuple(axis for axis, theirs in enumerate(order) if theirs in (description.mirroring or ())),
            rotation=largest_rotation(spacing),
        ),
        weighing=weighing,
    )


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
    description: Description, spacing: Sequence[float], orientation: str | None
) -> tuple[Mapping[str, Any], ...]:
    """What training does to an image, from its file to the network."""
    of_monai = description.reader == ALL_CHANNELS
    resample = _resampling(description, spacing, of_monai=of_monai)
    normalise = _normalising(description.normalisation)
    return preprocessing(
        loading("SformReader") if of_monai else loading("ChannelsReader", turned=description.reader == TO_RAS),
        description.channels,
        orientation,
        *([cropping()] if description.cropped else []),
        *([*normalise, resample] if description.normalised_first else [resample, *normalise]),
    )


def _resampling(description: Description, spacing: Sequence[float], *, of_monai: bool) -> Mapping[str, Any]:
    if not of_monai:
        return resampling(spacing, mode=description.images.order, padding_mode="nearest")
    if description.images.keeps == "centre":
        return resampling_by({"_target_": "Spacing", "pixdim": list(spacing), "mode": "bilinear"})
    return resampling(spacing, mode="bilinear", padding_mode="border")


def _normalising(rules: Sequence[Normalisation]) -> list[Mapping[str, Any]]:
    schemes, masks = [rule.scheme for rule in rules], [rule.masked for rule in rules]
    if len(set(zip(schemes, masks, strict=True))) > 1:
        raise ProXError(f"the plan normalises channels differently, {schemes} with masks {masks}; use --format nnunet")
    rule = rules[0]
    if rule.scheme in ("ZScoreNormalization", "NormalizeIntensity"):
        return [normalising(nonzero=rule.masked)]
    if rule.scheme == "CTNormalization" and len(set(rules)) == 1:
        std = max(rule.std, 1e-8)
        return [scaling(rule.lower, rule.upper, (rule.lower - rule.mean) / std, (rule.upper - rule.mean) / std)]
    if rule.scheme == "RescaleTo01Normalization":
        return [{"_target_": "ScaleIntensityd", "keys": "image", "minv": 0.0, "maxv": 1.0, "channel_wise": True}]
    if rule.scheme == "RGBTo01Normalization":
        return [scaling(0.0, 255.0, 0.0, 1.0)]
    if rule.scheme == "NoNormalization":
        return []
    raise ProXError(f"the plan's normalisation {schemes} has no counterpart among MONAI's transforms; use --format nnunet")


def _labelling(regions: Sequence[int] | None) -> Mapping[str, Any]:
    """Labels of logits that are back at the resolution of what was cropped, with 0 around it."""
    if regions is not None:
        return regions_to_labels(regions)
    return {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
