"""DICOM series as images: found by what files are, read as the NIfTI file that they were made of, or refused in a line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.descriptions import DESCRIBED
from helpers.dicom_series import NAMED, OBLIQUE, SECRETS, headers, image_of, network, write
from helpers.refusals import refused
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from monai_prox.runtime.cases import Case, find_cases, read_case
from monai_prox.runtime.description import Description, Normalisation
from monai_prox.runtime.options import Options
from monai_prox.runtime.prediction import predict

NIFTI = Options(format="nifti", orientation="LPS")
TURNED = {  # directions of rows, columns and slices, such as scanners have them
    "axial": np.eye(3),
    "oblique": OBLIQUE,
    "sagittal": np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]]),
    "coronal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
}


def read(folder: Path, description: Description = DESCRIBED) -> Any:
    (case,) = find_cases(folder, description)
    return read_case(case, description)


def names(folder: Path, description: Description = DESCRIBED) -> list[str]:
    return [case.name for case in find_cases(folder, description)]


def predicted(folder: Path, output: Path, options: Options = NIFTI, description: Description = DESCRIBED) -> dict[str, Any]:
    """What was wrong with each case of a folder, by its name."""
    return {
        case.name: problem for case, problem in predict(description, network, find_cases(folder, description), output, options)
    }


@pytest.mark.parametrize("how", TURNED)
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "LoadImage"])
def test_a_series_is_the_image_that_it_was_made_of(how: str, reader: str, tmp_path: Path) -> None:
    """As the reader of the training has it, and masks lie where those of the NIfTI file do."""
    orientation = "RAS" if reader == "LoadImage" else None
    description = replace(DESCRIBED, reader=reader, orientation=orientation)
    image = image_of(direction=TURNED[how])
    sitk.WriteImage(image, tmp_path / "case_0000.nii.gz")
    wanted = read_case(Case("case", (tmp_path / "case_0000.nii.gz",)), description)
    folder = write(headers(image)[::-1], tmp_path / "series", ending="")
    found = read(folder, description)
    np.testing.assert_array_equal(found.voxels, wanted.voxels)
    np.testing.assert_allclose(found.spacing, wanted.spacing, atol=1e-6)
    labels = (np.arange(wanted.voxels[0].size) % 3).astype(np.uint8).reshape(wanted.voxels.shape[1:])
    for name, one in (("ours", found), ("theirs", wanted)):
        one.save(labels, tmp_path / f"{name}.nii.gz")
    ours, theirs = (sitk.ReadImage(tmp_path / f"{name}.nii.gz") for name in ("ours", "theirs"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    for of in ("Spacing", "Origin", "Direction"):
        np.testing.assert_allclose(getattr(ours, f"Get{of}")(), getattr(theirs, f"Get{of}")(), atol=1e-5)


@pytest.mark.parametrize("stored", ["RAS", "LPS", "LAS"])
def test_series_are_turned_to_how_the_trainings_images_were_stored(stored: str, tmp_path: Path) -> None:
    """Where nnU-Net took them as stored, whom others would be upside down. Masks are on the series' own grid."""
    image = image_of(direction=np.eye(3))
    write(headers(image), tmp_path / "in" / "series")
    found = read(tmp_path / "in", replace(DESCRIBED, stored_orientation=stored))
    np.testing.assert_array_equal(found.voxels[0], sitk.GetArrayFromImage(sitk.DICOMOrient(image, stored)))
    for name, options, description in (
        ("file", Options(format="nifti"), replace(DESCRIBED, stored_orientation=stored)),
        ("option", Options(format="nifti", orientation=stored), DESCRIBED),
    ):
        assert predicted(tmp_path / "in", tmp_path / name, options, description) == {"series": None}
        mask = sitk.ReadImage(tmp_path / name / "series.nii.gz")
        assert mask.GetDirection() == image.GetDirection() and mask.GetOrigin() == image.GetOrigin()
        voxels = sitk.GetArrayFromImage(image)
        bright = sitk.GetArrayFromImage(mask) == 1
        assert voxels[bright].mean() > 100 > voxels[~bright].mean()
    words = "--orientation: the network smallest turns images by itself; leave it out"
    refused(words, predicted, tmp_path / "in", tmp_path, NIFTI, replace(DESCRIBED, reader="NibabelIOWithReorient"))


def test_where_nothing_tells_how_they_were_stored_there_is_a_warning(tmp_path: Path) -> None:
    write(headers(image_of()), tmp_path / "in" / "series")
    with pytest.warns(UserWarning, match="does not say how the training's images were stored"):
        predicted(tmp_path / "in", tmp_path / "out", Options(format="nifti"))


# ---------------------------------------------------------------------- what a series is
def test_cases_are_named_by_folders_that_are_theirs_alone_or_by_their_uid(tmp_path: Path) -> None:
    for folder in ("a/CT", "b", "c"):
        write(headers(image_of()), tmp_path / "in" / folder)
    two = [headers(image_of(seed)) for seed in (1, 2)]
    for series in two:
        write(series, tmp_path / "in" / "mixed", f"_{series[0].SeriesInstanceUID[-3:]}")
    (tmp_path / "in" / "b" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "empty").mkdir()
    (tmp_path / "in" / ".hidden").mkdir()
    shutil.copy(next((tmp_path / "in" / "b").glob("*.dcm")), tmp_path / "in" / ".hidden")
    uids = [series[0].SeriesInstanceUID for series in two]
    assert names(tmp_path / "in") == sorted(["a_CT", "b", "c", *uids])
    assert names(tmp_path / "in" / "b") == ["b"]
    wanted = {"a_CT", "b", "c", *uids}
    assert predicted(tmp_path / "in", tmp_path / "out") == dict.fromkeys(sorted(wanted))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.nii.gz" for name in wanted}


def test_a_series_in_several_folders_is_one(tmp_path: Path) -> None:
    """And names that two would have are nobody's."""
    series = headers(image_of())
    write(series[:4], tmp_path / "in" / "part 1")
    write(series[4:], tmp_path / "in" / "part 2")
    for folder in ("a/b_c", "a_b/c"):
        write(headers(image_of()), tmp_path / "in" / folder)
    found = find_cases(tmp_path / "in", DESCRIBED)
    assert len(found) == 3 and series[0].SeriesInstanceUID in [case.name for case in found]
    assert all(len(case.files) == 9 and case.name.startswith("1.2.826") for case in found)
    write(series, tmp_path / "in" / "copy")
    problems = predicted(tmp_path / "in", tmp_path / "out")
    assert problems[series[0].SeriesInstanceUID] == "9 of its 18 images are there twice; leave one file of each"


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    """Also where they lead back."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "linked").symlink_to(write(headers(image_of()), tmp_path / "elsewhere"))
    assert predicted(tmp_path / "in", tmp_path / "out") == {"linked": None}


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    series = headers(image_of())
    write(series, tmp_path / "in" / "scan")
    for name, changes in (
        ("report", {"Rows": None, "PixelData": None, "Modality": "SR"}),
        ("segmentation", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}),
    ):
        other = headers(image_of())[:1]
        write(other, tmp_path / "in" / "scan", f"_{name}", SeriesInstanceUID=generate_uid(), **changes)
    assert names(tmp_path / "in") == ["scan"]


def test_images_of_the_trainings_kind_come_first(tmp_path: Path) -> None:
    sitk.WriteImage(image_of(), tmp_path / "case_0000.nii.gz")
    write(headers(image_of()), tmp_path / "series")
    assert names(tmp_path) == ["case"]


def test_folders_and_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    words = f"{tmp_path} has no image named like case_0000.nii.gz, and no DICOM series"
    refused(words, find_cases, tmp_path, DESCRIBED)
    file = next(write(headers(image_of()), tmp_path / "series").iterdir())
    refused("is an image of a DICOM series; give the folder of the series", find_cases, file, DESCRIBED)
    pictures = replace(DESCRIBED, reader="NaturalImage2DIO", file_ending=".png")
    refused("has DICOM series, and the network is for pictures, *.png", find_cases, tmp_path, pictures)


# ---------------------------------------------------------------------- voxels
def big_endian(one: Dataset) -> None:
    one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    one.PixelData = np.frombuffer(one.PixelData, "<i2").astype(">i2").tobytes()
    one["PixelData"].VR = "OW"


def by_gdcm(compressor: str) -> Callable[[Dataset], None]:
    """SimpleITK's own, without loss, for pydicom has none of these."""

    def compress(one: Dataset) -> None:
        with TemporaryDirectory() as folder:
            writer = sitk.ImageFileWriter()
            writer.SetFileName(f"{folder}/slice.dcm")
            writer.UseCompressionOn()
            writer.SetCompressor(compressor)
            writer.Execute(sitk.GetImageFromArray(one.pixel_array[None]))
            written = dcmread(f"{folder}/slice.dcm")
        one.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
        one["PixelData"] = written["PixelData"]
        assert one.file_meta.TransferSyntaxUID.is_compressed

    return compress


@pytest.mark.parametrize(
    ("rescale", "changes", "stored"),
    [
        pytest.param({}, {}, None, id="HU"),
        pytest.param({"slope": 2, "intercept": -10}, {"SOPClassUID": MRImageStorage, "Modality": "MR"}, None, id="MR"),
        pytest.param({"slope": 0.37}, {}, None, id="fractions"),
        pytest.param({"intercept": 0}, {"RescaleSlope": None, "RescaleIntercept": None}, None, id="neither"),
        pytest.param({"intercept": -20000}, {"PixelRepresentation": 0}, None, id="unsigned"),
        pytest.param({}, {}, lambda one: one.compress(RLELossless), id="RLE"),
        pytest.param({"intercept": -20000}, {"PixelRepresentation": 0}, lambda one: one.compress(JPEGLSLossless), id="JPEG-LS"),
        pytest.param({}, {}, by_gdcm("JPEG"), id="JPEG"),
        pytest.param({}, {}, by_gdcm("JPEG2000"), id="JPEG 2000"),
        pytest.param({}, {}, big_endian, id="big-endian"),
    ],
)
def test_voxels_are_what_pydicom_reads(
    rescale: dict[str, float], changes: dict[str, Any], stored: Callable[[Dataset], Any] | None, tmp_path: Path
) -> None:
    series = headers(image_of(), **rescale)
    wanted = [one.pixel_array * float(rescale.get("slope", 1)) + rescale.get("intercept", -1024) for one in series]
    if changes.get("PixelRepresentation") == 0:
        for one in series:
            one.PixelRepresentation = 0
    for one in series if stored else ():
        stored(one)
    found = read(write(series, tmp_path / "series", **changes))
    np.testing.assert_allclose(found.voxels[0], np.stack(wanted), atol=0.01)


def test_slopes_may_differ_from_image_to_image(tmp_path: Path) -> None:
    """As those of PET do."""
    series = headers(image_of())
    for number, one in enumerate(series, 1):
        one.RescaleSlope, one.RescaleIntercept = number if number == 1 else number + 0.25, 0
    wanted = np.stack([one.pixel_array * float(one.RescaleSlope) for one in series])
    np.testing.assert_allclose(read(write(series, tmp_path / "series")).voxels[0], wanted, rtol=1e-6)


# ---------------------------------------------------------------------- channels
TWO = replace(DESCRIBED, channels=("T1", "T2"), normalisation=(Normalisation(scheme="ZScoreNormalization"),) * 2)


@pytest.mark.parametrize("pattern", ["case_{}", "case/{}"])
def test_channels_are_series_named_as_nnunet_names_files(pattern: str, tmp_path: Path) -> None:
    images = [image_of(seed) for seed in (1, 2)]
    for index, image in enumerate(images):
        write(headers(image), tmp_path / pattern.format(f"{index:04d}"))
    assert names(tmp_path, TWO) == ["case"]
    np.testing.assert_array_equal(read(tmp_path, TWO).voxels, [sitk.GetArrayFromImage(image) for image in images])


def test_channels_that_do_not_fit_are_named(tmp_path: Path) -> None:
    image = image_of()
    write(headers(image), tmp_path / "alone" / "scan")
    words = "the network needs 2 DICOM series, in folders CASE_0000 (T1), CASE_0001 (T2); there is scan"
    refused(words, read, tmp_path / "alone", TWO)
    write(headers(image), tmp_path / "half" / "a_0001")
    refused("in folders a_0000 (T1), a_0001 (T2); there is a_0001", read, tmp_path / "half", TWO)
    write(headers(image), tmp_path / "moved" / "a_0000")
    image.SetOrigin((0, 0, 0))
    write(headers(image), tmp_path / "moved" / "a_0001")
    refused("a_0001 lies on another grid than a_0000: (11, 14, 9) voxels", read, tmp_path / "moved", TWO)
    write(headers(image), tmp_path / "others" / "a_0000")
    write(headers(image), tmp_path / "others" / "a_0001", PatientID="MRN-4712")
    refused("a_0000, a_0001 are series of different patients", read, tmp_path / "others", TWO)
    write(headers(image), tmp_path / "short" / "a_0000")
    write(headers(image)[:1], tmp_path / "short" / "a_0001")
    refused("a_0001: it has 1 image; a volume has 2 or more", read, tmp_path / "short", TWO)


# ---------------------------------------------------------------------- no volume
def each(**changes: Any) -> Callable[[list[Dataset]], None]:
    def change(series: list[Dataset]) -> None:
        for one in series:
            for keyword, value in changes.items():
                if value is None:
                    del one[keyword]
                else:
                    setattr(one, keyword, value)

    return change


def as_of(one: Dataset, series: list[Dataset]) -> list[Dataset]:
    """In its study and frame of reference."""
    each(StudyInstanceUID=one.StudyInstanceUID, FrameOfReferenceUID=one.FrameOfReferenceUID)(series)
    return series


def shifted(series: list[Dataset], vectors: Any) -> None:
    for one, vector in zip(series, vectors, strict=True):
        one.ImagePositionPatient = (np.asarray(one.ImagePositionPatient, float) + vector).tolist()


NORMAL, ALONG = OBLIQUE[:, 2], OBLIQUE[:, 0]
WRONG: dict[str, tuple[Callable[[list[Dataset]], Any], str]] = {
    "a slice is missing": (
        lambda of: of.pop(4),
        "slices are missing: of its 8 images most are 1.5 mm apart, and some 3 mm",
    ),
    "two are missing": (lambda of: (of.pop(4), of.pop(4)), "slices are missing: of its 7 images most are 1.5 mm apart"),
    "uneven": (
        lambda of: shifted(of, [0.3 * NORMAL * (index == 4) for index in range(9)]),
        "its slices are not evenly spaced: one is 0.3 mm from where it would be at 1.5 mm each",
    ),
    "two phases": (
        lambda of: of.extend(as_of(of[0], headers(image_of(1)))),
        "of its 18 images 9 lie where another one does, as several phases or echoes do",
    ),
    "gantry tilt": (
        lambda of: shifted(of, [0.2 * ALONG * index for index in range(9)]),
        "its slices are not above each other, but up to 1.6 mm aside, at an angle of 7.6 degrees (gantry tilt?)",
    ),
    "two orientations": (
        lambda of: each(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])(of[6:]),
        "3 of its 9 images have other orientations than the first",
    ),
    "two sizes of pixels": (lambda of: each(PixelSpacing=[1, 1])(of[8:]), "1 of its 9 images have other sizes of pixels"),
    "two sizes": (lambda of: each(Rows=7)(of[8:]), "1 of its 9 images have other numbers of rows than the first, [14.0]"),
    "not at right angles": (
        each(ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0]),
        "its images' rows and columns are not at right angles",
    ),
    "a localizer": (each(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "its images are localizers, which are no volume"),
    "one image": (lambda of: of.__delitem__(slice(1, None)), "it has 1 image; a volume has 2 or more"),
    "several frames": (each(NumberOfFrames=2), "its files have several frames each (enhanced multi-frame)"),
    "colours": (each(PhotometricInterpretation="RGB"), "its images are RGB; only grey ones, MONOCHROME2, are read"),
    "no position": (each(ImagePositionPatient=None), "9 of its 9 images have no ImagePositionPatient"),
    "no number": (lambda of: of[3].ImagePositionPatient.__setitem__(1, "nan"), "ImagePositionPatient of one of its images is"),
    "two numbers": (
        each(ImagePositionPatient=[1, 2]),
        "ImagePositionPatient of one of its images is malformed; it is 3 numbers",
    ),
    "two frames of reference": (
        lambda of: each(FrameOfReferenceUID=generate_uid())(of[5:]),
        "its images are of 2 frames of reference; a volume has one",
    ),
}


@pytest.fixture(scope="module")
def good() -> list[Dataset]:
    return headers(image_of(3))


def refused_beside(good: list[Dataset], words: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """``bad``, which is there, is refused with these words and no secret; the good series beside it is done."""
    write(good, folder / "in" / "good")
    problems = predicted(folder / "in", folder / "out")
    assert problems["bad"].startswith(words) and problems["good"] is None
    assert [path.name for path in (folder / "out").iterdir()] == ["good.nii.gz"]
    said = "".join([*capfd.readouterr(), str(problems)])
    assert not [secret for secret in SECRETS if secret in said]


@pytest.mark.parametrize("what", WRONG)
def test_a_series_that_is_no_volume_is_refused_and_the_others_are_done(
    what: str, good: list[Dataset], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, words = WRONG[what]
    series = headers(image_of())
    spoil(series)
    write(series, tmp_path / "in" / "bad", SeriesInstanceUID=series[0].SeriesInstanceUID)
    refused_beside(good, words, tmp_path, capfd)


def cut(files: list[Path]) -> None:
    """In the pixels of one."""
    files[2].write_bytes(files[2].read_bytes()[:-20])


def header_cut(files: list[Path]) -> None:
    files[2].write_bytes(files[2].read_bytes()[:150])


def claimed(files: list[Path]) -> None:
    """More pixels than memory has."""
    for file in files:
        one = dcmread(file)
        one.Rows = one.Columns = 65_000
        one.save_as(file, enforce_file_format=True)


def compressed(files: list[Path], syntax: str = RLELossless) -> list[Path]:
    for file in files:
        one = dcmread(file)
        one.PixelRepresentation = 0
        one.compress(syntax)
        one.save_as(file, enforce_file_format=True)
    return files


def compressed_and_cut(files: list[Path]) -> None:
    cut(compressed(files))


def scrambled(files: list[Path]) -> None:
    """Whole, but the pixels are none."""
    one = dcmread(compressed(files, JPEGLSLossless)[2])
    one.PixelData = encapsulate([b"no JPEG-LS, " * 10])
    one.save_as(files[2], enforce_file_format=True)


def not_utf8(files: list[Path]) -> None:
    files[2].rename(os.fsdecode(os.fsencode(files[2].parent) + b"/\xff.dcm"))


def compressed_and_claimed(files: list[Path]) -> None:
    claimed(compressed(files))


def deflated(files: list[Path]) -> None:
    for file in files:
        one = dcmread(file)
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        one.save_as(file, enforce_file_format=True)


def no_uid(files: list[Path]) -> None:
    """It would be part of the name of a file."""
    one = dcmread(files[0])
    one.SeriesInstanceUID = "../../1"
    one.save_as(files[0], enforce_file_format=True)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "1 of the DICOM files in its folder cannot be read"),
        (compressed_and_cut, "1 of the DICOM files in its folder cannot be read"),
        (scrambled, "the pixels of image 3 of 9 of bad cannot be read; they are stored as JPEG-LS Lossless Image Compression"),
        (header_cut, "1 of the DICOM files in its folder cannot be read, and may be of it"),
        (claimed, "9 of the DICOM files in its folder cannot be read"),
        (compressed_and_claimed, "its headers say (65000, 65000, 9) voxels, and its files have"),
        (deflated, "9 of the DICOM files in its folder cannot be read"),
        (not_utf8, "its folder or its files have names that are not UTF-8; rename them"),
        (no_uid, "1 of the DICOM files in its folder cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_spoils_its_own_series_alone(
    spoil: Callable[[list[Path]], None],
    words: str,
    good: list[Dataset],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    series = headers(image_of())
    write(series, tmp_path / "in" / "bad")
    spoil([tmp_path / "in" / "bad" / f"{NAMED}_{(7 * index + 3) % 101:03d}_{index}.dcm" for index in range(9)])
    refused_beside(good, words, tmp_path, capfd)


def test_an_image_without_preamble_is_not_left_out_without_a_word(tmp_path: Path) -> None:
    """As files of before the year 2000, and of some exports."""
    folder = write(headers(image_of()), tmp_path / "scan")
    last = sorted(folder.iterdir())[-1]
    last.write_bytes(last.read_bytes()[132:])
    refused("1 of the DICOM files in its folder cannot be read, and may be of it", read, tmp_path)
