"""A member of a training bundle, ready to be written as a bundle of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_prox.core.space import Subnet
from monai_prox.data.decathlon_plan import Plan
from monai_prox.export.bundle_entries import (
    cropping,
    inverting,
    loading,
    normalising,
    preprocessing,
    resampling,
    resampling_by,
    scaling,
)
from monai_prox.export.classification_bundle import ClassificationBundle
from monai_prox.export.segmentation_bundle import SegmentationBundle
from monai_prox.trained.bundle_folder import TrainedBundle
from monai_prox.trained.bundle_source import TrainedClassifier, TrainedSegmenter


def member_of(bundle: TrainedBundle, which: str, dataset: Path | None = None) -> SegmentationBundle | ClassificationBundle:
    """The member ``which``, of a family of any kind. Arguments and errors as of the functions below."""
    return MAKERS[bundle.kind.name](bundle, which, dataset)


def prediction_of(bundle: TrainedBundle, which: str) -> SegmentationBundle:
    """The member ``which`` of a family that segments, a name of family.json or a JSON file with a subnet.

    A member of lower resolution gets a coarser spacing and a smaller patch. Raises ProXError for an unknown or illegal member
    and where nothing has been trained.
    """
    plan, source = bundle.plan, TrainedSegmenter(bundle, None)
    name, subnet = source.member(which)
    described, metrics = source.describe(name, subnet), _metrics(bundle, subnet)
    if plan.orientation is None:
        warnings.warn(
            "the family was trained on images as stored: the bundle takes them so, and is right for those stored alike",
            stacklevel=2,
        )
    return SegmentationBundle(
        name=name,
        task=described.task,
        source=described.source,
        subnet=described.subnet,
        network=source.network(subnet),
        architecture=bundle.network_family.architecture_of(subnet),
        channels=plan.channels,
        modality="CT" if plan.is_ct else "MR",
        outputs=plan.labels,
        highest_label=len(plan.labels) - 1,
        patch_size=described.patch,
        spacing=described.spacing,
        metrics=metrics,
        measured_on="the training's validation cases, whole and at their own resolution, as a member within the family"
        if metrics
        else "",
        licence=plan.licence,
        preprocessing=_preprocessing(plan, described.spacing),
        postprocessing=(
            inverting(),
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ),
        images="*.nii.gz",
        orientation=plan.orientation,
        datalist="$sorted(glob.glob(os.path.join(glob.escape(@dataset_dir), '*.nii.gz')))",
    )


def classification_of(bundle: TrainedBundle, which: str, dataset: Path | None = None) -> ClassificationBundle:
    """The member ``which`` of a family that classifies, as above.

    dataset: of the training, for members whose norms it has kept no statistics of.

    Raises ProXError for an unknown or illegal member, and where nothing has been trained or the norms' statistics are missing.
    """
    source = TrainedClassifier(bundle, dataset)
    name, subnet = source.member(which)
    described = source.describe(name, subnet)
    return ClassificationBundle(
        name=name,
        task=described.task,
        source=described.source,
        subnet=described.subnet,
        network=source.network(subnet),
        architecture=bundle.network_family.architecture_of(subnet),
        classes=described.classes,
        image_size=described.image_size,
        working_size=described.working_size,
        metrics=_metrics(bundle, subnet),
        measured_on="the training's validation scans",
    )


MAKERS: Mapping[str, Callable[[TrainedBundle, str, Path | None], SegmentationBundle | ClassificationBundle]] = {
    "segmentation": lambda bundle, which, _: prediction_of(bundle, which),
    "classification": classification_of,
}


def _metrics(bundle: TrainedBundle, subnet: Subnet) -> dict[str, float]:
    """As the training measured them, by the names of the measure and of what is measured."""
    return {f"{bundle.measure} {label}": value for label, value in bundle.measured(subnet).items() if value is not None}


def _preprocessing(plan: Plan, spacing: tuple[float, ...]) -> tuple[Mapping[str, Any], ...]:
    """What train.json does to an image, for this plan."""
    resample = resampling_by({"_target_": "Spacing", "pixdim": list(spacing), "mode": "bilinear"})
    if spacing != plan.spacing:  # a member of lower resolution, to which the family resizes patches in training
        resample = resampling(spacing, mode="bilinear", padding_mode="border")
    window: tuple[Any, ...] = plan.window
    steps = [resample, scaling(*window)] if plan.is_ct else [cropping(), resample, normalising(nonzero=True)]
    return preprocessing(loading("SformReader"), plan.orientation, *steps)
