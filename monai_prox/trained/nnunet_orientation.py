"""How the images of a dataset are stored: nnU-Net's readers keep the axes of the file, so its networks know no other order."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from nibabel.orientations import aff2axcodes
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from monai_prox.data.decathlon import open_header
from monai_prox.errors import ProXError


def stored_orientations(dataset: str) -> dict[str, int]:
    """Number of training images of ``dataset`` in nnUNet_raw by their axis codes, e.g. {"RAS": 260}, from their headers.

    {} where the dataset is not there, or its images are no NIfTI files.
    """
    root = os.environ.get("nnUNet_raw")
    if not root:
        return {}
    folder = Path(root, dataset)
    try:
        files = [Path(case["images"][0]) for case in get_filenames_of_train_images_and_targets(str(folder)).values()]
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
    ):  # nothing of it, or not as nnU-Net has it
        return {}
    found = Counter[str]()
    for file in files:
        try:
            found["".join(map(str, aff2axcodes(open_header(file).affine)))] += 1
        except (ProXError, AttributeError):  # no NIfTI
            continue
    return dict(found)
