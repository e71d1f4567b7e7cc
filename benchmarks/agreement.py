"""How many voxels get the same label by two ways to predict the same cases."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def agreement_of(theirs: Path, ours: Path) -> dict[str, float]:
    """Of all files in the folder ``theirs``, which ``ours`` has by the same names: over all voxels, and of the worst case."""
    same, voxels, worst = 0, 0, 1.0
    for path in sorted(theirs.glob("*.nii.gz")):
        wanted, found = (np.asarray(nib.load(folder / path.name).dataobj) for folder in (theirs, ours))
        equal = wanted == found
        same, voxels, worst = same + int(equal.sum()), voxels + equal.size, min(worst, float(equal.mean()))
    return {"voxels": voxels, "agreement": same / voxels, "worst_case": worst}
