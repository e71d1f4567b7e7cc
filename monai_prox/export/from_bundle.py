"""A member of a training bundle, ready to be written as a bundle of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from monai_prox.data.decathlon_plan import Plan
from monai_prox.export.classification_bundle import ClassificationBundle
from monai_prox.export.prediction import metrics_of
from monai_prox.export.segmentation import segmentation
from monai_prox.export.segmentation_bundle import SegmentationBundle
from monai_prox.runtime.kinds import CLASSIFICATION, SEGMENTATION
from monai_prox.trained.bundle_source import TrainedClassifier, TrainedSegmenter
from monai_prox.trained.source import Trained

MEASURED_ON = "the training's validation cases, whole and at their own resolution, as a member within the family"

DECATHLON = {  # in the order of the training, whose last fifth was held out
    "cases": "$sorted(monai.data.load_decathlon_datalist(os.path.join(@dataset_dir, 'dataset.json')), "
    "key=lambda case: os.path.basename(case['image']))",
    "images": "$[case['image'] for case in @cases]",
    "labels": "$[case['label'] for case in @cases]",
}


def member_of(source: Trained, which: str) -> SegmentationBundle | ClassificationBundle:
    """The member ``which`` of a bundle's family of any kind. Errors as of the functions below."""
    return MAKERS[source.kind.name](source, which)


def prediction_of(source: TrainedSegmenter, which: str) -> SegmentationBundle:
    """The member ``which`` of a family that segments, a name of family.json or a JSON file with a subnet.

    A member of lower resolution gets a coarser spacing and a smaller patch. Raises ProXError for an unknown or illegal member
    and where nothing has been trained.
    """
    plan = source.bundle.plan
    name, subnet = source.member(which)
    if plan.orientation is None:
        warnings.warn(
            "the family was trained on images as stored: the bundle takes them so, and is right for those stored alike",
            stacklevel=2,
        )
    return segmentation(
        source,
        subnet,
        source.describe(subnet, name=name),
        orientation=plan.orientation,
        outputs=plan.outputs,
        scores=source.bundle.measured(subnet),
        measured_on=MEASURED_ON,
        licence=plan.licence,
        modality="CT" if plan.is_ct else "MR",
        images="*.nii.gz",
        datalist="$sorted(glob.glob(os.path.join(glob.escape(@dataset_dir), '*.nii.gz')))",
        dataset=DECATHLON,
        label_values=_label_values(plan),
        weighing="monai",
    )


def _label_values(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Of each output but the background."""
    if plan.trained_regions is None:
        return tuple((value,) for value in range(1, len(plan.labels)))
    return tuple(tuple(values) for values in plan.trained_regions.values())


def classification_of(source: TrainedClassifier, which: str) -> ClassificationBundle:
    """The member ``which`` of a family that classifies, as above.

    Raises ProXError for an unknown or illegal member, and where nothing has been trained or the norms' statistics are missing.
    """
    name, subnet = source.member(which)
    description = source.describe(subnet, name=name)
    return ClassificationBundle(
        name=name,
        task=description.task,
        source=description.source,
        subnet=description.subnet,
        network=source.network(subnet),
        architecture=source.supernet.family.architecture_of(subnet),
        classes=description.classes,
        image_size=description.image_size,
        working_size=description.working_size,
        weights_license=description.license,
        metrics=metrics_of(source.measure, source.bundle.measured(subnet)),
        measured_on="the training's validation scans",
    )


MAKERS: Mapping[str, Callable[[Any, str], SegmentationBundle | ClassificationBundle]] = {
    SEGMENTATION.name: prediction_of,
    CLASSIFICATION.name: classification_of,
}
