"""Images as the device reads and writes them, against the readers of nnU-Net and MONAI: odd headers, two axes, pictures."""

from __future__ import annotations

import gzip
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import tifffile
from helpers import dicom_series
from helpers.descriptions import DESCRIBED
from helpers.nnunet_task import BARE_DATASET, bare_plans
from helpers.orientations import STORED, stored
from helpers.refusals import refused
from monai.transforms import LoadImage
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from PIL import Image as Picture

from monai_prox.errors import ProXError
from monai_prox.runtime import evaluation, itk_images, nifti_images
from monai_prox.runtime.cases import Case, find_cases, read_case, read_labels, read_truth
from monai_prox.runtime.description import ALL_CHANNELS, Description
from monai_prox.runtime.evaluation import Labelled, SegmentedCases, find_labelled
from monai_prox.trained.nnunet_source import describe

AFFINE = np.array([[1.1, 0, 0, -7], [0, 0.9, 0, 5], [0, 0, 1.5, 3], [0, 0, 0, 1]])
SHEARED = AFFINE + np.array([[0, 0.3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
SHAPE = (7, 6, 5)
THEIRS = {reader.__name__: reader for reader in LIST_OF_IO_CLASSES}


def voxels(dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(400, 90, SHAPE).astype(dtype)


def nifti(affine: np.ndarray | None = AFFINE, dtype: Any = np.float32, kind: Any = nib.Nifti1Image) -> Any:
    return kind(voxels(dtype), affine)


def sform_only() -> Any:
    image = nifti(None)
    image.header.set_zooms(np.sqrt((SHEARED[:3, :3] ** 2).sum(0)))
    image.set_sform(SHEARED, code=1, update_affine=True)
    return image


def two_forms() -> Any:
    image = nifti(np.diag([2.0, 2.0, 2.0, 1.0]))
    image.set_qform(np.eye(4), code=1)
    image.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), code=1)
    return image


def no_form() -> Any:
    image = nifti(None)
    image.header.set_zooms((1.5, 1.5, 1.5))
    image.header["sform_code"] = image.header["qform_code"] = 0
    return image


def no_spacing_in_sform() -> Any:
    """As public cardiac images are."""
    image = nifti(None)
    image.set_qform(np.diag([-1.316, -1.316, 4.0, 1.0]), code=1)
    image.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1, update_affine=False)
    return image


def with_nan() -> Any:
    array = voxels()
    array[3, 3, 3] = np.nan
    return nib.Nifti1Image(array, AFFINE)


def scaled() -> Any:
    image = nifti(dtype=np.int16)
    image.header.set_slope_inter(0.37, -1024)
    return image


def micron() -> Any:
    image = nifti()
    image.header.set_xyzt_units("micron")
    return image


ODD: dict[str, Callable[[], Any]] = {
    **{how: lambda how=how: stored(nifti(), how) for how in STORED},
    "sheared, without a qform": sform_only,
    "sform and qform disagree": two_forms,
    "neither form": no_form,
    "no spacing in the sform": no_spacing_in_sform,
    "NaN": with_nan,
    "scaled": scaled,
    "micron": micron,
    "NIfTI-2": lambda: nifti(kind=nib.Nifti2Image),
    "big-endian": lambda: nifti(dtype=">i2"),
}


def write(image: Any, path: Path) -> Path:
    nib.save(image, path)
    return path


def negative_pixdim(path: Path) -> Path:
    """As no library writes it."""
    nib.save(nifti(), path)
    raw = bytearray(path.read_bytes())
    raw[80:84] = np.float32(-1.1).tobytes()
    path.write_bytes(bytes(raw))
    return path


def description_of(reader: str, ending: str, channels: int = 1) -> Description:
    plans = bare_plans() | {"image_reader_writer": reader}
    (configuration,) = plans["configurations"].values()
    configuration |= {"normalization_schemes": ["ZScoreNormalization"] * channels, "use_mask_for_norm": [False] * channels}
    names = {str(number): f"channel {number}" for number in range(channels)}
    dataset = BARE_DATASET | {"file_ending": ending, "channel_names": names}
    return describe(plans, next(iter(plans["configurations"])), dataset, member="m", subnet={}, source="a test")


def assert_as(theirs: Any, files: list[Path], description: Description, folder: Path) -> None:
    """That the same voxels are read of a case, and the same file is written."""
    image = read_case(Case("case", tuple(files)), description)
    wanted, properties = theirs.read_images([str(file) for file in files])
    assert image.voxels.dtype == np.float32
    np.testing.assert_array_equal(image.voxels, wanted)
    np.testing.assert_allclose(image.spacing, properties["spacing"], rtol=1e-6)
    np.testing.assert_equal({**image.properties, "spacing": properties["spacing"]}, properties)
    labels = (np.arange(wanted[0].size) % 3).astype(np.uint8).reshape(wanted.shape[1:])
    paths = [folder / f"{name}{description.file_ending}" for name in ("ours", "theirs")]
    image.save(labels, paths[0])
    theirs.write_seg(labels, str(paths[1]), properties)
    for path in paths:
        np.testing.assert_array_equal(read_labels(path, description), labels)
        np.testing.assert_array_equal(theirs.read_seg(str(path))[0][0], labels)
    if description.file_ending == ".nii":
        ours, stock = map(nib.load, paths)
        np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(stock.dataobj))
        np.testing.assert_allclose(ours.affine, stock.affine, atol=1e-6)
        assert ours.get_data_dtype() == stock.get_data_dtype()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("odd", [*ODD, "negative pixdim"])
def test_files_are_read_and_written_as_by_the_plans_reader(reader: str, odd: str, tmp_path: Path) -> None:
    path = tmp_path / "case_0000.nii"
    if odd == "negative pixdim":
        negative_pixdim(path)
    else:
        write(ODD[odd](), path)
    description, theirs = description_of(reader, ".nii"), THEIRS[reader]()
    if reader == "SimpleITKIO" and odd in ("sheared, without a qform", "NIfTI-2"):
        with pytest.raises(RuntimeError):
            theirs.read_images([str(path)])
        refused(f"{path} cannot be read", read_case, Case("case", (path,)), description)
    else:
        assert_as(theirs, [path], description, tmp_path)


def test_monais_files_are_read_with_the_affine_that_monai_gives_them(tmp_path: Path) -> None:
    description = replace(description_of("NibabelIO", ".nii"), reader="LoadImage")
    four = nib.Nifti1Image(np.stack([voxels(), -voxels()], -1), np.diag([-1.0, -2.0, 3.0, 1.0]))
    for name, image in {**{name: make() for name, make in ODD.items()}, "four axes": four}.items():
        path = write(image, tmp_path / "case.nii")
        wanted = LoadImage(ensure_channel_first=True)(path)
        found = read_case(Case("case", (path,)), description)
        np.testing.assert_array_equal(found.voxels, wanted.numpy().transpose(0, 3, 2, 1), err_msg=name)
        np.testing.assert_allclose(found.spacing, wanted.pixdim.numpy()[::-1], rtol=1e-6, err_msg=name)
        found.save(np.zeros(found.voxels.shape[1:], np.uint8), tmp_path / "mask.nii")
        np.testing.assert_allclose(nib.load(tmp_path / "mask.nii").affine, wanted.affine, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("factor", [1.00003, 0.5], ids=["rounded", "half"])
def test_a_qform_that_is_not_set_gives_its_spacing_alone(how: str, factor: float, tmp_path: Path) -> None:
    """MONAI takes it for the orientation and the origin, too."""
    image = stored(nifti(), how)
    header = image.header.copy()
    affine = image.affine @ np.diag([factor] * 3 + [1])
    header.set_sform(affine, code=1)
    for name in ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[name] = 0
    header["pixdim"][0] = 1
    path = write(nib.Nifti1Image(np.asanyarray(image.dataobj), None, header), tmp_path / "case.nii")
    assert not np.allclose(LoadImage()(path).affine, image.affine, atol=0.1)
    description = replace(description_of("NibabelIO", ".nii"), reader="LoadImage", orientation="RAS")
    found = read_case(Case("case", (path,)), description)
    np.testing.assert_array_equal(found.voxels[0].T, np.asanyarray(stored(image, "RAS").dataobj))
    np.testing.assert_allclose(found.spacing, (1.5, 0.9, 1.1), rtol=1e-5)
    found.save(np.zeros(found.voxels.shape[1:], np.uint8), tmp_path / "mask.nii")
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii").affine, image.affine, atol=1e-4)


NOWHERE = {"0": (0, 0, 0), "flat": (1, 0, 1), "NaN": (1, np.nan, 1)}
READERS = ("NibabelIO", "NibabelIOWithReorient", "LoadImage", "SimpleITKIO")


@pytest.mark.parametrize(
    ("reader", "matrix"),
    [(reader, NOWHERE[how]) for reader in READERS for how in NOWHERE if how != "NaN" or reader.startswith("Nibabel")],
    ids=str,
)
def test_an_image_that_lies_nowhere_is_named(reader: str, matrix: Any, tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_sform(np.diag([*matrix, 1]), code=1)
    path = write(nib.Nifti1Image(voxels(), None, header), tmp_path / "case_0000.nii")
    refused(f"{path} ", read_case, Case("case", (path,)), replace(description_of("NibabelIO", ".nii"), reader=reader))


@pytest.mark.parametrize("name", ["d.nii", "d.nii.gz", "d.hdr", "1.2.840"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
def test_a_case_may_be_named_like_a_file(name: str, ending: str, tmp_path: Path) -> None:
    path, description = tmp_path / f"{name}_0000{ending}", description_of("SimpleITKIO", ending)
    sitk.WriteImage(sitk.GetImageFromArray(voxels()), path)
    (case,) = find_cases(tmp_path, description)
    image = read_case(case, description)
    labels = voxels().astype(np.uint8)
    (tmp_path / "masks").mkdir()
    image.save(labels, tmp_path / "masks" / f"{case.name}{ending}")
    (mask,) = (tmp_path / "masks").iterdir()
    assert mask.name == f"{name}{ending}"
    np.testing.assert_array_equal(read_labels(mask, description), labels)


def test_an_image_of_another_name_is_left_out_with_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """nnU-Net stops at such a folder. Masks beside their images, and what macOS puts beside files, are no images."""
    description = description_of("SimpleITKIO", ".nii.gz")
    for name in ("a_0000.nii.gz", "a.nii.gz", "._a_0000.nii.gz", "._b.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    assert [case.name for case in find_cases(tmp_path, description)] == ["a"] and not recwarn.list
    for name in ("b.nii.gz", "c_1.nii.gz", "d_00000.nii.gz", "e.nii.gz"):
        (tmp_path / name).touch()
    said = r"not named like case_0000\.nii\.gz, and so left out: b\.nii\.gz, c_1\.nii\.gz, d_00000\.nii\.gz and 1 more"
    with pytest.warns(UserWarning, match=said):
        assert [case.name for case in find_cases(tmp_path, description)] == ["a"]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_an_image_of_complex_numbers_is_refused(reader: str, tmp_path: Path) -> None:
    """ITK would take the real part alone."""
    path = tmp_path / "case_0000.nii"
    nib.save(nib.Nifti1Image(voxels().astype(np.complex64), np.eye(4)), path)
    assert refused(f"{path} has ", read_case, Case("case", (path,)), description_of(reader, ".nii")).endswith(
        "no plain numbers"
    )


def test_what_a_reader_cannot_take_is_named(tmp_path: Path) -> None:
    for reader, axes in (("NibabelIO", 4), ("NibabelIO", 2), ("LoadImage", 2), ("SimpleITKIO", 4)):
        path = write(nib.Nifti1Image(np.zeros((5, 4, 3, 2)[:axes], np.float32), np.eye(4)), tmp_path / "case_0000.nii")
        description = replace(description_of("NibabelIO", ".nii"), reader=reader)
        refused(f"{path} ", read_case, Case("case", (path,)), description)
    colours = np.zeros((5, 4, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    path = write(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "case_0000.nii")
    refused("which are no plain numbers", read_case, Case("case", (path,)), description_of("NibabelIO", ".nii"))
    path.write_bytes(b"no image")
    refused(f"{path} cannot be read", read_case, Case("case", (path,)), description_of("NibabelIO", ".nii"))
    refused("the reader 'Mystery' is not known", replace, description_of("NibabelIO", ".nii"), reader="Mystery")
    refused("three axis codes such as RAS", replace, description_of("NibabelIO", ".nii"), orientation="RAR")


COSINE = np.array([[np.cos(0.02), -np.sin(0.02), 0, 0], [np.sin(0.02), np.cos(0.02), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
ELSEWHERE = {
    "turned by 0.02": COSINE @ AFFINE,
    "off by a rounding": AFFINE + 1e-3 * np.eye(4, k=3),
    "off by a voxel": AFFINE + np.eye(4, k=3),
    "mirrored": np.diag([-1, 1, 1, 1]) @ AFFINE,
}


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("how", ELSEWHERE)
def test_channels_that_lie_elsewhere_are_read_as_by_nnunet_with_a_warning(reader: str, how: str, tmp_path: Path) -> None:
    files = [write(nifti(), tmp_path / "case_0000.nii"), write(nifti(ELSEWHERE[how]), tmp_path / "case_0001.nii")]
    with pytest.warns(UserWarning, match=r"case_0001\.nii lies elsewhere than the first channel, case_0000\.nii, and is taken"):
        assert_as(THEIRS[reader](), files, description_of(reader, ".nii", 2), tmp_path)
    ours, theirs = (nib.load(tmp_path / f"{name}.nii").affine for name in ("ours", "theirs"))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_channels_of_other_voxels_are_refused_as_by_nnunet(reader: str, tmp_path: Path) -> None:
    files = write(nifti(), tmp_path / "case_0000.nii"), tmp_path / "case_0001.nii"
    for other in (nifti(AFFINE + np.diag([0, 0, 0.5, 0])), nib.Nifti1Image(voxels()[1:], AFFINE)):
        write(other, files[1])
        with pytest.raises((RuntimeError, ValueError)):
            THEIRS[reader]().read_images(list(map(str, files)))
        description = description_of(reader, ".nii", 2)
        refused("the channels lie on different grids: ", read_case, Case("case", files), description)


def test_channels_on_one_grid_are_read_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    files = [write(nifti(), tmp_path / f"case_000{channel}.nii") for channel in range(2)]
    for reader in ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"):
        assert_as(THEIRS[reader](), files, description_of(reader, ".nii", 2), tmp_path)
    assert not [warning for warning in recwarn if "lies elsewhere" in str(warning.message)]


READERS = ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", ALL_CHANNELS]


def truth_of(reader: str, labels: nib.Nifti1Image, folder: Path) -> np.ndarray:
    asked = description_of(reader if reader in THEIRS else "NibabelIO", ".nii")
    asked = replace(asked, reader=reader, orientation="RAS" if reader == ALL_CHANNELS else asked.orientation)
    case = Case("case", (write(nifti(), folder / "case_0000.nii"),))
    image = read_case(case, asked)
    return read_truth(write(labels, folder / "case.nii"), case, asked, image.voxels.shape[1:])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("how", "apart"), [("off by a voxel", {"": "1"}), ("mirrored", {"": "14", "turned": r"7\.4"})])
def test_labels_that_lie_elsewhere_are_taken_with_a_warning(
    reader: str, how: str, apart: dict[str, str], tmp_path: Path
) -> None:
    far = apart.get("turned" if reader in READERS[2:] else "", apart[""])
    with pytest.warns(UserWarning, match=rf"case\.nii lies up to {far} mm from its image, case_0000\.nii, and is taken"):
        truth_of(reader, nib.Nifti1Image(voxels(np.uint8), ELSEWHERE[how]), tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_labels_that_lie_where_their_image_does_are_taken_without_a_warning(
    reader: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    labels = nib.Nifti1Image(voxels(np.uint8), ELSEWHERE["off by a rounding"])
    np.testing.assert_array_equal(truth_of(reader, labels, tmp_path), voxels(np.uint8).T)
    if reader in READERS[2:]:  # however they are stored
        for how in STORED[:-1]:
            np.testing.assert_array_equal(truth_of(reader, stored(labels, how), tmp_path), voxels(np.uint8).T)
    assert not [warning for warning in recwarn if "from its image" in str(warning.message)]


@pytest.mark.parametrize("reader", READERS[:3])
def test_labels_of_a_series_are_taken_for_no_file_says_where_that_lies(reader: str, tmp_path: Path) -> None:
    image = dicom_series.image_of()
    dicom_series.write(dicom_series.headers(image), tmp_path / "imagesTr" / "case")
    (tmp_path / "labelsTr").mkdir()
    sitk.WriteImage(image > 0, tmp_path / "labelsTr" / "case.nii.gz")
    described = replace(DESCRIBED, reader=reader)
    cases = SegmentedCases(find_labelled(tmp_path, described, ["case"]))
    assert cases.usable([0], described) == [0] and cases.scores([0], described, dicom_series.network)[0] > 0.5


def test_labels_that_lie_elsewhere_are_warned_of_once_though_they_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Where cases are too large to be kept. Python's own count of a warning ends with any ``catch_warnings``."""
    monkeypatch.setattr(evaluation, "KEPT", 0)
    described = replace(description_of("SimpleITKIO", ".nii"), labels={"background": 0, "organ": 1}, outputs=2)
    case = Case("case", (write(nifti(), tmp_path / "case_0000.nii"),))
    labels = write(nib.Nifti1Image(voxels(np.uint8), ELSEWHERE["off by a voxel"]), tmp_path / "case.nii")
    cases = SegmentedCases([Labelled(case, labels)])
    for _ in range(2):
        with warnings.catch_warnings():
            pass
        cases.usable([0], described)
        cases.scores([0], described, lambda x: np.zeros((1, 2, *x.shape[2:]), np.float32))
    assert len([warning for warning in recwarn if "from its image" in str(warning.message)]) == 1


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("kind", [".nii", ".nii.gz", "several parts"])
def test_a_nifti_file_that_ends_too_early_is_named(reader: str, kind: str, tmp_path: Path) -> None:
    """ITK would see 0 from there on. A gzip file says the length of the last of its parts alone."""
    voxels = np.random.default_rng(0).integers(1, 1000, (20, 30, 40), np.int16)
    path = tmp_path / f"case_0000{'.nii' if kind == '.nii' else '.nii.gz'}"
    sitk.WriteImage(sitk.GetImageFromArray(voxels), path)
    if kind == "several parts":
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content[:7000]) + gzip.compress(content[7000:]))
    description, case = description_of(reader, path.name[9:], 1), Case("case", (path,))
    found = read_case(case, description).voxels
    assert sorted(found.ravel()) == sorted(voxels.ravel())
    whole = path.read_bytes()
    for share in (0.98, 0.6):
        path.write_bytes(whole[: round(share * len(whole))])
        refused(f"{path} cannot be read", read_case, case, description)


# ---------------------------------------------------------------------- two axes
@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii.gz"])
def test_images_of_two_axes_are_read_and_written_as_by_nnunet(ending: str, tmp_path: Path) -> None:
    files = []
    for channel in range(2):
        image = sitk.GetImageFromArray(voxels()[channel])
        image.SetSpacing((0.7, 1.2))
        image.SetOrigin((3.0, -4.0))
        sitk.WriteImage(image, tmp_path / f"case_000{channel}{ending}")
        files.append(tmp_path / f"case_000{channel}{ending}")
    assert_as(THEIRS["SimpleITKIO"](), files, description_of("SimpleITKIO", ending, 2), tmp_path)
    written = [sitk.ReadImage(tmp_path / f"{name}{ending}") for name in ("ours", "theirs")]
    for image in written:
        assert image.GetSize() == written[1].GetSize() == (5, 6)
        assert image.GetSpacing() == written[1].GetSpacing() and image.GetOrigin() == written[1].GetOrigin()


GREY = np.random.default_rng(1).integers(0, 256, (6, 9), np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 256, (6, 9, 4), np.uint8)
PICTURES: dict[str, tuple[str, int, Callable[[Path], object]]] = {
    "8 bits": (".png", 1, lambda path: Picture.fromarray(GREY).save(path)),
    "16 bits": (".png", 1, lambda path: Picture.fromarray(GREY.astype(np.uint16) * 250).save(path)),
    "1 bit": (".png", 1, lambda path: Picture.fromarray(GREY > 100).save(path)),
    "RGB": (".png", 3, lambda path: Picture.fromarray(COLOUR[..., :3]).save(path)),
    "RGBA": (".png", 4, lambda path: Picture.fromarray(COLOUR).save(path)),
    "palette": (".png", 3, lambda path: Picture.fromarray(COLOUR[..., :3]).quantize(16).save(path)),
    "4 bits": (".png", 1, lambda path: Picture.fromarray(GREY // 16).save(path, bits=4)),
    "palette of greys": (".png", 3, lambda path: Picture.fromarray(GREY).convert("P").save(path)),
    "tif": (".tif", 1, lambda path: tifffile.imwrite(path, GREY)),
    "tif of 16 bits": (".tif", 1, lambda path: tifffile.imwrite(path, GREY.astype(np.uint16) * 250)),
    "tif of floats": (".tif", 1, lambda path: tifffile.imwrite(path, voxels()[0])),
    "tif in colour": (".tif", 3, lambda path: tifffile.imwrite(path, COLOUR[..., :3], photometric="rgb")),
    "tif that begins with white": (".tif", 1, lambda path: tifffile.imwrite(path, GREY, photometric="miniswhite")),
    "tif of the other byte order": (".tif", 1, lambda path: tifffile.imwrite(path, GREY.astype(np.uint16), byteorder=">")),
    "compressed tif": (".tif", 1, lambda path: tifffile.imwrite(path, GREY, compression="zlib")),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_read_and_written_as_by_nnunet(kind: str, tmp_path: Path) -> None:
    ending, channels, make = PICTURES[kind]
    make(tmp_path / f"case_0000{ending}")
    description = description_of("NaturalImage2DIO", ending, channels)
    ((name, files),) = [(case.name, case.files) for case in find_cases(tmp_path, description)]
    assert name == "case"
    assert_as(NaturalImage2DIO(), list(files), description, tmp_path)


RGB = COLOUR[..., :3]
OTHERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "1 bit": ("pixels of 1 bit", lambda path: tifffile.imwrite(path, GREY > 100)),
    "palette": ("colours of a palette", lambda path: Picture.fromarray(GREY).convert("P").save(path)),
    "float16": ("pixels of 16 bits, with a fraction", lambda path: tifffile.imwrite(path, GREY.astype(np.float16))),
    "float16 in colour": (
        "pixels of 16 bits, with a fraction",
        lambda path: tifffile.imwrite(path, RGB.astype(np.float16), photometric="rgb"),
    ),
    "float16, large": (
        "16 bits, with a fraction",
        lambda path: tifffile.imwrite(path, RGB.astype(np.float16), bigtiff=True, photometric="rgb"),
    ),
    "float64": ("pixels of 64 bits, with a fraction", lambda path: tifffile.imwrite(path, GREY.astype(np.float64))),
    "int64": ("pixels of 64 bits", lambda path: tifffile.imwrite(path, GREY.astype(np.int64))),
    "tiles": ("tiles instead of rows", lambda path: tifffile.imwrite(path, GREY, tile=(16, 16))),
    "planes": (
        "a plane for each colour",
        lambda path: tifffile.imwrite(path, RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
    ),
    "turned": ("a tag that turns or mirrors it", lambda path: tifffile.imwrite(path, GREY, extratags=[(274, 3, 1, 6, True)])),
    "mirrored": ("a tag that turns or mirrors it", lambda path: tifffile.imwrite(path, GREY, extratags=[(274, 3, 1, 4, True)])),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_pictures_that_itk_reads_in_another_way_are_refused(kind: str, tmp_path: Path) -> None:
    path, description = tmp_path / "case_0000.tif", description_of("NaturalImage2DIO", ".tif")
    words, make = OTHERS[kind]
    make(path)
    assert words in refused(f"{path} has ", read_case, Case("case", (path,)), description)
    assert words in refused("; store it as TIFF in rows, upright", read_labels, path, description)


@pytest.mark.parametrize("length", [4, 7, 10, 40])
def test_a_tiff_that_ends_too_early_is_named(length: int, tmp_path: Path) -> None:
    path = tmp_path / "case_0000.tif"
    tifffile.imwrite(path, GREY)
    path.write_bytes(path.read_bytes()[:length])
    refused(f"{path} cannot be read", read_case, Case("case", (path,)), description_of("NaturalImage2DIO", ".tif"))


def test_pictures_are_png_or_tif() -> None:
    refused("pictures are files that end in .png, .tif, not in '.bmp'", description_of, "NaturalImage2DIO", ".bmp")


def test_a_picture_per_channel_is_a_case_too(tmp_path: Path) -> None:
    for channel in range(2):
        Picture.fromarray(GREY + np.uint8(channel)).save(tmp_path / f"case_000{channel}.png")
    files = sorted(tmp_path.glob("*.png"))
    assert_as(NaturalImage2DIO(), files, description_of("NaturalImage2DIO", ".png", 2), tmp_path)
    Picture.fromarray(GREY[:, :4]).save(files[1])
    refused(
        "the channels have different sizes, rows and columns (6, 4), (6, 9)",
        read_case,
        Case("case", tuple(files)),
        description_of("NaturalImage2DIO", ".png", 2),
    )
    gap = (files[0], files[1].rename(tmp_path / "case_0002.png"))
    words = "the network needs case_0000.png, case_0001.png; there is case_0000.png, case_0002.png"
    refused(words, read_case, Case("case", gap), description_of("NaturalImage2DIO", ".png", 2))


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_no_memory_is_taken_for_voxels_that_are_not_in_the_file(reader: str, tmp_path: Path) -> None:
    """A header of a few bytes says how many there are."""
    path = tmp_path / "case_0000.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[40:48] = np.array([3, 3000, 3000, 3000], np.int16).tobytes()
    path.write_bytes(data)
    read = itk_images.read if reader == "SimpleITKIO" else partial(nifti_images.read, orientation=None)
    with pytest.raises(ProXError, match=r"its header says \(3000, 3000, 3000\) voxels, and it has 608 bytes"):
        read([path])


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside.raw", "LIST", "inside/x.raw", "link.raw"])
@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_voxels_in_files_elsewhere_are_not_read(name: str, ending: str, tmp_path: Path) -> None:
    """Headers of MetaImage and NRRD can name other files."""
    (tmp_path / "outside.raw").write_bytes(bytes(64))
    (tmp_path / "images" / "inside").mkdir(parents=True)
    (tmp_path / "images" / "link.raw").symlink_to(tmp_path / "outside.raw")
    headers = {
        ".mha": f"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {name}\n",
        ".nrrd": f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {name}\n",
    }
    path = tmp_path / "images" / f"case_0000{ending}"
    path.write_text(headers[ending])
    with pytest.raises(ProXError, match=f"has its voxels in {name}, which is no file beside it"):
        itk_images.read([path])
    (tmp_path / "images" / "beside.raw").write_bytes(bytes(range(64)))
    path.write_text(headers[ending].replace(name, "beside.raw"))
    assert itk_images.read([path]).voxels.ravel().tolist() == list(range(64))


@pytest.mark.skipif(os.name != "posix", reason="names and pipes of POSIX")
def test_names_that_are_no_text_and_pipes_are_refused(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xffb_0000.nii.gz"))
    nib.save(nifti(), tmp_path / "case.nii.gz")
    shutil.copyfile(tmp_path / "case.nii.gz", odd)
    os.mkfifo(tmp_path / "pipe_0000.nii.gz")
    for read in (itk_images.read, partial(nifti_images.read, orientation=None)):
        with pytest.raises(ProXError, match="has a name that is not UTF-8; rename it"):
            read([odd])
        with pytest.raises(ProXError, match="there is no file"):
            read([tmp_path / "pipe_0000.nii.gz"])
