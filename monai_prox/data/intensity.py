"""How the intensities of a Decathlon task's images are normalised, as nnU-Net plans it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_prox.data.decathlon import Case, DecathlonTask, open_header
from monai_prox.errors import ProXError
from monai_prox.runtime.nifti_images import turned, voxels_of

FOREGROUND_SAMPLES = 10_000  # voxels per case for CT statistics, as in nnU-Net


def plan_intensity(task: DecathlonTask, cases: Sequence[Case], orientation: str | None) -> dict[str, Any]:
    """The normalisation of a plan. CT is measured where the training cases are labelled.

    Args:
        task: the task.
        cases: the training cases.
        orientation: axis codes that images are turned to, or None.

    Raises:
        ProXError: CT stands beside other modalities, nothing is labelled, or values are not finite.
    """
    ct = [name.strip().casefold() == "ct" for name in task.channels]
    if not any(ct):
        return {"kind": "z-score"}
    if not all(ct):
        raise ProXError(f"{task.name} has CT beside other modalities ({', '.join(task.channels)}), which is not supported")
    samples = []
    for number, case in enumerate(cases):
        # in an order that does not depend on how they are stored, if ``orientation`` is given
        image, label = (voxels_of(p, turned(p, open_header(p), orientation)) for p in (case.image, case.label))
        voxels = image[label.reshape(label.shape[:3]) > 0].ravel()
        if voxels.size:
            chosen = np.random.default_rng(number).integers(voxels.size, size=min(FOREGROUND_SAMPLES, voxels.size))
            samples.append(voxels[chosen])
    if not samples:
        raise ProXError(f"no training case of {task.name} has a labelled voxel, so its CT intensities cannot be measured")
    values = np.concatenate(samples).astype(float)
    if not np.isfinite(values).all():
        raise ProXError(f"the images of {task.name} have values that are not finite numbers (NaN or infinite) where labelled")
    lower, upper = np.percentile(values, (0.5, 99.5))
    statistics = {"lower": lower, "upper": upper, "mean": values.mean(), "std": max(values.std(), 1e-4)}
    return {"kind": "ct", **{name: round(float(value), 4) for name, value in statistics.items()}}
