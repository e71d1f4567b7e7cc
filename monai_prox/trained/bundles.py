"""The families that bundles have, by the kind of their plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.oct_plan import OctPlan
from monai_prox.data.pipeline_plan import PipelinePlan
from monai_prox.trained.bundle_folder import TrainedBundle
from monai_prox.trained.bundle_source import TrainedClassifier, TrainedSegmenter
from monai_prox.trained.pipeline_source import TrainedPipeline
from monai_prox.trained.source import Trained

SOURCES: Mapping[str, Callable[[TrainedBundle, Path | None], Trained]] = {
    Plan.kind: TrainedSegmenter,
    OctPlan.kind: TrainedClassifier,
    PipelinePlan.kind: TrainedPipeline,
}
