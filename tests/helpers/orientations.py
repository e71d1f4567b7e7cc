"""One image as it may be stored: every copy has the same voxels in the same place of the patient, but for the turned one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

STORED = ("RAS", "LPS", "SRA", "oblique")
ANGLE = np.deg2rad(20)
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0, 0], [np.sin(ANGLE), np.cos(ANGLE), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def stored(image: nib.Nifti1Image, how: str) -> nib.Nifti1Image:
    """``image`` with its axes in another order, or as it is in a patient who has turned by 20 degrees."""
    image = nib.as_closest_canonical(image)
    if how == "oblique":
        return nib.Nifti1Image(np.asanyarray(image.dataobj), TURN @ image.affine)
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(how)))


def write_stored(image: nib.Nifti1Image, folder: Path, ending: str = ".nii.gz") -> Path:
    """Copies named after how they are stored, in the new folder ``folder``."""
    folder.mkdir(parents=True)
    for how in STORED:
        nib.save(stored(image, how), folder / f"{how}{ending}")
    return folder


def assert_same(masks: Path, images: Path, ending: str = ".nii.gz", of_image: str = ".nii.gz") -> None:
    """The masks of copies lie each on the grid of its image, and are one if turned to RAS; there is something in them."""
    turned = []
    for how in STORED:
        mask, image = nib.load(masks / f"{how}{ending}"), nib.load(images / f"{how}{of_image}")
        assert mask.shape[:3] == image.shape[:3], how
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4, err_msg=how)
        turned.append(np.asanyarray(nib.as_closest_canonical(mask).dataobj).reshape(stored(image, "RAS").shape[:3]))
    assert len(np.unique(turned[0])) > 1
    for how, mask in zip(STORED, turned, strict=True):
        assert np.mean(mask == turned[0]) >= 0.999, how  # floating point alone
