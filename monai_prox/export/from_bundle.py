"""A member of a training bundle, ready to be written as a bundle of its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from monai_prox.data.decathlon_plan import Plan
from monai_prox.export.bundle_entries import cropping, inverting, loading, orienting, resampling, resampling_by
from monai_prox.export.segmentation_bundle import SegmentationBundle
from monai_prox.trained.bundle_source import TrainedSegmenter


def prediction_of(source: TrainedSegmenter, which: str) -> SegmentationBundle:
    """The member ``which``, a name of family.json or a JSON file with a subnet.

    A member of lower resolution gets a coarser spacing and a smaller patch. Raises ProXError for an unknown or illegal member
    and where nothing has been trained.
    """
    bundle = source.bundle
    plan, family = bundle.plan, bundle.network_family
    name, subnet = source.member(which)
    patch = family.input_size(plan.patch_size, subnet["resolution"][0])
    spacing = tuple(mm * (full / small) for mm, full, small in zip(plan.spacing, plan.patch_size, patch, strict=True))
    measured = bundle.measured(subnet)
    if plan.orientation is None:
        warnings.warn(
            "the family was trained on images as stored: the bundle takes them so, and is right for those stored alike",
            stacklevel=2,
        )
    return SegmentationBundle(
        name=name,
        task=plan.task,
        source=bundle.origin,
        subnet=subnet.to_json(),
        network=source.network(subnet),
        architecture=family.architecture_of(subnet),
        channels=plan.channels,
        modality="CT" if plan.is_ct else "MR",
        outputs=plan.labels,
        highest_label=len(plan.labels) - 1,
        patch_size=patch,
        spacing=spacing,
        metrics={f"dice {label}": value for label, value in measured.items()},
        measured_on="the training's validation cases, whole and at their own resolution, as a member within the family"
        if measured
        else "",
        licence=plan.licence,
        preprocessing=tuple(_preprocessing(plan, spacing)),
        postprocessing=(
            inverting(),
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ),
        images="*.nii.gz",
        orientation=plan.orientation,
        datalist="$sorted(glob.glob(os.path.join(glob.escape(@dataset_dir), '*.nii.gz')))",
    )


def _preprocessing(plan: Plan, spacing: tuple[float, ...]) -> list[Mapping[str, Any]]:
    """What train.json does to an image, for this plan."""
    resample = resampling_by({"_target_": "Spacing", "pixdim": list(spacing), "mode": "bilinear"})
    if spacing != plan.spacing:  # a member of lower resolution, to which the family resizes patches in training
        resample = resampling(spacing, mode="bilinear", padding_mode="border")
    normalise: dict[str, Any] = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}
    if plan.is_ct:
        window = dict(zip(("a_min", "a_max", "b_min", "b_max"), plan.window, strict=True))
        normalise = {"_target_": "ScaleIntensityRanged", "keys": "image", **window, "clip": True}
    return [
        loading("SformReader"),
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        *orienting(plan.orientation),
        *([] if plan.is_ct else [cropping()]),
        resample,
        normalise,
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]
