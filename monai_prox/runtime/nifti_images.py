"""NIfTI files by nibabel, as nnU-Net's NibabelIO and NibabelIOWithReorient and MONAI's LoadImage read and write them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.runtime.images import Grid, Image, check_file, check_one_grid, check_size, stacked


def read(files: Sequence[Path], orientation: str | None) -> Image:
    """A file per channel, of three axes. orientation: axis codes that they are turned to, None for the files' own axes."""
    images, arrays, grids = [], [], []
    for file in files:
        image = _load(file, orientation)
        if image.ndim != 3:
            raise ProXError(f"{file} is an image of {image.ndim} axes; expected 3, and a file per channel")
        _check_place(file, image.affine)
        images.append(image)
        arrays.append(voxels_of(file, image).T)  # (z, y, x)
        grids.append(_grid(image.affine, image.shape, image.header.get_zooms()))
    check_one_grid(files, grids)
    original = images[0] if orientation is None else opened(files[0])
    save = partial(_save, images[0].affine, original.affine, orientation)
    spacing, stuff = grids[0].spacing[::-1], {"original_affine": original.affine}
    if orientation is not None:
        stuff["reoriented_affine"] = images[0].affine
    return Image(stacked(arrays), spacing, save, {"nibabel_stuff": stuff, "spacing": list(spacing)})


def read_whole(file: Path, orientation: str | None) -> Image:
    """One file, whose channels are its fourth axis if it has one. Spacing is that of the affine, which MONAI may mend."""
    image = _load(file, orientation, mended=True)
    if image.ndim not in (3, 4):
        raise ProXError(f"{file} has {image.ndim} axes; expected 3, or 4 of which the last is for channels")
    _check_place(file, image.affine)
    voxels = voxels_of(file, image)
    channels = [voxels.T] if image.ndim == 3 else list(voxels.T)
    sizes = voxel_sizes(image.affine)
    spacing = tuple(float(mm) for mm in np.where(sizes == 0, 1, sizes)[::-1])
    save = partial(_save, image.affine, _mended(opened(file)).affine, orientation)
    return Image(stacked(channels), spacing, save)


def grid_of(path: Path, orientation: str | None, *, mended: bool = False) -> Grid:
    """Of the first three axes of a file, of which only the header is read."""
    image = _mended(opened(path)) if mended else opened(path)
    affine, size = image.affine, image.shape[:3]
    if orientation is not None:
        turning = ornt_transform(io_orientation(affine), axcodes2ornt(orientation))
        affine = affine @ inv_ornt_aff(turning, size)
        size = tuple(size[axis] for axis in np.argsort(turning[:, 0]))
    return _grid(affine, size, voxel_sizes(affine))


def _grid(affine: NDArray[np.float64], size: Sequence[int], spacing: Sequence[float]) -> Grid:
    return Grid(
        tuple(size), tuple(map(float, spacing)), tuple(affine[:3, 3].tolist()), tuple(directions(affine).ravel().tolist())
    )


def read_labels(path: Path, orientation: str | None, *, mended: bool = False) -> NDArray[Any]:
    """(z, y, x); a fourth axis of one channel is left out. mended: as MONAI reads them."""
    labels = voxels_of(path, _load(path, orientation, mended=mended)).T
    whole: NDArray[Any] = labels[0] if labels.ndim == 4 and len(labels) == 1 else labels
    return whole


def opened(file: Path) -> Any:
    """The image, of which only the header is read. Raises ProXError where it cannot be, or says more than is in the file."""
    check_file(file)
    try:
        image = nib.load(file)
    except Exception as error:  # nibabel, gzip and zlib have each their own
        raise ProXError(f"{file} cannot be read: {' '.join(str(error).split()):.160}") from None
    check_size(file, image.shape, image.get_data_dtype().itemsize)
    return image


def _load(file: Path, orientation: str | None, *, mended: bool = False) -> Any:
    image = opened(file)
    return turned(file, _mended(image) if mended else image, orientation)


def turned(file: Path, image: Any, orientation: str | None) -> Any:
    """``image`` with the axes of these codes, None for its own. Raises ProXError, naming ``file``, where it has none such."""
    if orientation is None:
        return image
    try:
        return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation)))
    except Exception as error:  # an axis that points nowhere, or voxels that cannot be read
        raise ProXError(f"{file} cannot be turned to {orientation}: {' '.join(str(error).split()):.160}") from None


def voxels_of(file: Path, image: Any) -> NDArray[Any]:
    """(x, y, z, ...). Raises ProXError, naming ``file``, where they cannot be read or are no plain numbers."""
    try:
        voxels: NDArray[Any] = np.asanyarray(image.dataobj)
    except Exception as error:
        raise ProXError(f"{file} cannot be read: {' '.join(str(error).split()):.160}") from None
    if voxels.dtype.kind not in "buif":
        raise ProXError(f"{file} has voxels of the type {voxels.dtype}, which are no plain numbers")
    return voxels


def _check_place(file: Path, affine: NDArray[np.float64]) -> None:
    """Raises ProXError where an axis points nowhere, or where another does: no mask could be written there."""
    if not (np.isfinite(affine).all() and np.linalg.det(affine[:3, :3])):
        raise ProXError(
            f"{file} does not say where it lies: its affine is {' '.join(str(affine[:3].round(4).tolist()).split())}"
        )


def _mended(image: Any) -> Any:
    """``image`` with the affine that MONAI's reader gives it: the qform, if it has the spacing of pixdim and the sform has not.

    Of four axes MONAI compares also the fourth column of the affine, so that hardly any qform has it. A qform whose code is 0
    says nothing of where the image lies, though MONAI takes it: of it only the spacing is taken.
    """
    axes = image.ndim

    def agrees(affine: NDArray[np.float64]) -> bool:
        sizes = np.sqrt((affine[:axes, :axes] ** 2).sum(0))
        return bool(np.allclose(image.header.get_zooms(), np.where(sizes == 0, 1, sizes)))

    if not hasattr(image, "get_sform") or axes > 4 or agrees(image.affine):
        return image
    sform, qform = image.get_sform(), image.get_qform()
    if image.header["sform_code"] != 0 and not agrees(sform) and agrees(qform):
        if image.header["qform_code"] == 0 and np.isfinite(sform).all():
            qform = nib.affines.from_matvec(directions(sform) * voxel_sizes(qform), sform[:3, 3])
        image.set_sform(qform)
    return image


def directions(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns of an affine's matrix, (3, 3), of length 1 where they are not 0."""
    sizes = voxel_sizes(affine)
    return np.asarray(affine[:3, :3] / np.where(sizes == 0, 1, sizes))


def _save(
    turned: NDArray[np.float64],
    original: NDArray[np.float64],
    orientation: str | None,
    labels: NDArray[np.integer],
    path: Path,
) -> None:
    """turned, original: the affines of ``labels``, (z, y, x), and of the file."""
    image = nib.Nifti1Image(labels.T, turned)
    if orientation is not None:
        image = image.as_reoriented(ornt_transform(axcodes2ornt(orientation), io_orientation(original)))
    nib.save(image, path)
