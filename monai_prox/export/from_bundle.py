"""A member of a training bundle, ready to be written as a bundle of its own."""

from __future__ import annotations

import warnings

from monai_prox.export.segmentation import segmentation
from monai_prox.export.segmentation_bundle import SegmentationBundle
from monai_prox.trained.bundle_source import TrainedSegmenter

MEASURED_ON = "the training's validation cases, whole and at their own resolution, as a member within the family"


def prediction_of(source: TrainedSegmenter, which: str) -> SegmentationBundle:
    """The member ``which``, a name of family.json or a JSON file with a subnet.

    A member of lower resolution gets a coarser spacing and a smaller patch. Raises ProXError for an unknown or illegal member
    and where nothing has been trained.
    """
    plan = source.bundle.plan
    _, subnet = source.member(which)
    if plan.orientation is None:
        warnings.warn(
            "the family was trained on images as stored: the bundle takes them so, and is right for those stored alike",
            stacklevel=2,
        )
    return segmentation(
        source,
        which,
        orientation=plan.orientation,
        outputs=plan.labels,
        scores=source.bundle.measured(subnet),
        measured_on=MEASURED_ON,
        licence=plan.licence,
        modality="CT" if plan.is_ct else "MR",
        images="*.nii.gz",
        datalist="$sorted(glob.glob(os.path.join(glob.escape(@dataset_dir), '*.nii.gz')))",
        weighing="monai",
    )
