"""DICOM-SEG of DICOM series, read back by pydicom and by SimpleITK: masks as of the NIfTI files that series were made of."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.descriptions import DESCRIBED
from helpers.dicom_series import OBLIQUE, PATIENT, SECRETS, STUDY, headers, image_of, network, write
from helpers.in_process import prox
from helpers.nnunet_task import STOCK_IMAGE
from helpers.refusals import refused
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage

import monai_prox
from monai_prox.files import temporary_folder
from monai_prox.runtime.cases import find_cases
from monai_prox.runtime.description import Normalisation
from monai_prox.runtime.options import Options
from monai_prox.runtime.prediction import predict

pytest_plugins = ["helpers.nnunet_fixtures"]

SEG = Options(orientation="LPS")
BOTH = replace(SEG, format="both")


def masks(file: Path, like: sitk.Image) -> dict[str, np.ndarray]:
    """The masks of a DICOM-SEG on the grid of an image, by the names of segments, from its frames' places alone."""
    seg = dcmread(file)
    labels = {segment.SegmentNumber: str(segment.SegmentLabel) for segment in seg.SegmentSequence}
    found = {label: np.zeros(like.GetSize()[::-1], bool) for label in labels.values()}
    (shared,) = seg.SharedFunctionalGroupsSequence
    cosines = np.reshape(like.GetDirection(), (3, 3))[:, :2].T.ravel()
    np.testing.assert_allclose(shared.PlaneOrientationSequence[0].ImageOrientationPatient, cosines, atol=1e-6)
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, like.GetSpacing()[1::-1], atol=1e-6)
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for frame, pixel in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        identified = frame if "SegmentIdentificationSequence" in frame else shared
        number = identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        at = like.TransformPhysicalPointToContinuousIndex([float(mm) for mm in place])
        np.testing.assert_allclose(at, (0, 0, round(at[2])), atol=1e-4)
        found[labels[number]][round(at[2])] = pixel
    return found


def by_simpleitk(file: Path, like: sitk.Image) -> np.ndarray:
    """The one segment of a DICOM-SEG whose frames follow each other, on the grid of an image, as SimpleITK places it."""
    return sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(file), like, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0


def segmented(series: list[Dataset], folder: Path, options: Options = BOTH, **description: Any) -> Path:
    """The output folder, with what was written of a series ``scan``."""
    described = replace(DESCRIBED, **description)
    cases = find_cases(write(series, folder / "in" / "scan").parent, described)
    assert [problem for _, problem in predict(described, network, cases, folder / "out", options)] == [None]
    return folder / "out"


@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE], ids=["axial", "oblique"])
def test_a_series_is_segmented_as_the_nifti_file_it_was_made_of(direction: np.ndarray, stock: Path, tmp_path: Path) -> None:
    """By a network of nnU-Net's and the command, voxel by voxel, and in the same place."""
    image = sitk.ReadImage(stock / STOCK_IMAGE)
    image = sitk.Cast(sitk.Round(image), sitk.sitkInt16)
    image.SetSpacing((0.75, 0.875, 1.5))
    image.SetOrigin((-13.5, 7.25, 100.0))
    image.SetDirection(direction.ravel().tolist())
    (tmp_path / "nifti").mkdir()
    sitk.WriteImage(image, tmp_path / "nifti" / "scan_0000.nii.gz")
    write(headers(image)[::-1], tmp_path / "dicom" / "scan", ending="")
    words = "predict", stock / "model.onnx", "--threads", 1, "-o", tmp_path / "out", "-i"
    assert prox(*words, tmp_path / "nifti").code == 0
    wanted = sitk.ReadImage(tmp_path / "out" / "scan.nii.gz")
    done = prox(*words, tmp_path / "dicom", "--output-format", "both", "--orientation", axis_codes(image))
    assert (done.code, done.err) == (0, "") and done.out.endswith("1 of 1 cases\n")
    found, labels = sitk.ReadImage(tmp_path / "out" / "scan.nii.gz"), sitk.GetArrayFromImage(wanted)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), labels)
    for of in ("Spacing", "Origin", "Direction"):
        np.testing.assert_allclose(getattr(found, f"Get{of}")(), getattr(wanted, f"Get{of}")(), atol=1e-5)
    read = masks(tmp_path / "out" / "scan.dcm", wanted)
    names = {name: value for name, value in dcm_labels(stock).items() if value}
    assert list(read) == list(names) and len(names) == 2 and labels.any()
    for name, value in names.items():
        np.testing.assert_array_equal(read[name], labels == value)


def axis_codes(image: sitk.Image) -> str:
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()))


def dcm_labels(stock: Path) -> dict[str, int]:
    from monai_prox.runtime.model import Model

    return dict(Model(stock / "model.onnx", threads=1).description.labels)  # type: ignore[union-attr]


@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE], ids=["axial", "oblique"])
def test_simpleitk_sees_the_mask_in_its_place(direction: np.ndarray, tmp_path: Path) -> None:
    image = image_of(direction=direction, size=(9, 16, 12))  # whole bytes a slice, of which ITK loses others' last bits
    out = segmented(headers(image), tmp_path)
    mask = sitk.ReadImage(out / "scan.nii.gz")
    wanted = sitk.GetArrayFromImage(mask) == 1
    assert 0.2 < wanted.mean() < 0.8
    np.testing.assert_array_equal(masks(out / "scan.dcm", image)["organ"], wanted)
    np.testing.assert_array_equal(by_simpleitk(out / "scan.dcm", image), wanted)


def test_it_is_of_the_patient_the_study_and_the_images(tmp_path: Path) -> None:
    """Names of other alphabets, and what the standard does not allow, are taken over as they are."""
    series = headers(image_of())
    wrong = {"PatientBirthDate": "3 Feb 1961", "PatientSex": "female", "StudyTime": "noon"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.IGNORE)
        write(series, tmp_path / "in" / "scan", **wrong)
    seg = dcmread(segmented(series, tmp_path) / "scan.dcm")
    assert seg.SOPClassUID == SegmentationStorage and seg.SegmentationType == "BINARY" and seg.Modality == "SEG"
    for keyword, value in (PATIENT | STUDY | wrong).items():
        assert str(seg[keyword].value) == value, keyword
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == series[0][keyword].value
    assert seg.SeriesInstanceUID != series[0].SeriesInstanceUID
    wanted = {one.SOPInstanceUID for one in series}
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series[0].SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == wanted
    at = {one.SOPInstanceUID: [float(mm) for mm in one.ImagePositionPatient] for one in series}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(at[source.ReferencedSOPInstanceUID], [float(mm) for mm in place], atol=1e-6)
    (segment,) = seg.SegmentSequence
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("monai-prox", monai_prox.__version__)
    assert segment.SegmentAlgorithmType == "AUTOMATIC" and segment.SegmentLabel == "organ"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "organ"


def test_images_without_a_patient_have_segmentations_without_one(tmp_path: Path) -> None:
    """As those that were made anonymous have."""
    series = headers(image_of())
    for one in series:
        for keyword in (*PATIENT, *STUDY, "ReferringPhysicianName", "Manufacturer", "SliceThickness", "SeriesNumber"):
            del one[keyword]
    seg = dcmread(segmented(series, tmp_path) / "scan.dcm")
    assert all(seg[keyword].value in ("", None) for keyword in PATIENT | STUDY)


def test_names_of_labels_become_what_dicom_allows(tmp_path: Path) -> None:
    """64 characters, of any alphabet, without the backslash that would separate two names."""
    labels = {"background": 0, "ignore": 2, "肝臓 ß\\left\n": 1, "x" * 100: [1, 3]}
    seg = dcmread(segmented(headers(image_of()), tmp_path, labels=labels) / "scan.dcm")
    assert [str(segment.SegmentLabel) for segment in seg.SegmentSequence] == ["肝臓 ß/left", "x" * 64]


def test_regions_overlap(tmp_path: Path) -> None:
    image, labels = image_of(), {"background": 0, "whole": [1, 2], "core": 2}
    described = {"labels": labels, "regions": (1, 2), "outputs": 2}
    out = segmented(headers(image), tmp_path, **described)
    values = sitk.GetArrayFromImage(sitk.ReadImage(out / "scan.nii.gz"))
    found = masks(out / "scan.dcm", image)
    np.testing.assert_array_equal(found["whole"], values > 0)
    np.testing.assert_array_equal(found["core"], values == 2)
    assert set(np.unique(values)) >= {1, 2} and dcmread(out / "scan.dcm").SegmentsOverlap == "YES"


def test_a_segmentation_of_nothing_is_one(tmp_path: Path) -> None:
    image = image_of()
    seg = masks(segmented(headers(image), tmp_path, labels={"background": 0, "cyst": 7}) / "scan.dcm", image)
    assert not seg["cyst"].any()


def test_all_channels_are_referred_to(tmp_path: Path) -> None:
    two = {"channels": ("T1", "T2"), "normalisation": (Normalisation(scheme="ZScoreNormalization"),) * 2, "outputs": 4}
    first, second = (headers(image_of(seed)) for seed in (1, 2))
    write(first, tmp_path / "in" / "scan_0000")
    write(second, tmp_path / "in" / "scan_0001", StudyInstanceUID=first[0].StudyInstanceUID)
    described = replace(DESCRIBED, **two)
    done = list(predict(described, network, find_cases(tmp_path / "in", described), tmp_path / "out", SEG))
    assert [problem for _, problem in done] == [None]
    seg = dcmread(tmp_path / "out" / "scan.dcm")
    found = {one.SeriesInstanceUID for one in seg.ReferencedSeriesSequence}
    assert found == {series[0].SeriesInstanceUID for series in (first, second)}


def test_cosines_that_are_rounded_differently_are_one_orientation(tmp_path: Path) -> None:
    image = image_of()
    series = headers(image)
    for one in series[::2]:
        one.ImageOrientationPatient = [round(float(cosine), 5) for cosine in one.ImageOrientationPatient]
    out = segmented(series, tmp_path)
    seg = dcmread(out / "scan.dcm")
    assert sitk.GetArrayFromImage(sitk.ReadImage(out / "scan.nii.gz")).sum() == seg.pixel_array.sum()


def test_what_is_malformed_and_not_needed_is_left_out(tmp_path: Path) -> None:
    """Elements of half a number, and a thickness with a comma, as some programs write them."""
    series = headers(image_of())
    for one in series:
        block = one.private_block(0x0019, "SCANNERS", create=True)
        block.add_new(0x01, "FD", 1.0)
    for file in write(series, tmp_path / "in" / "scan").iterdir():
        content = file.read_bytes()
        half = content.index(b"\x19\x00\x01\x10FD\x08\x00")
        content = content[:half] + b"\x19\x00\x01\x10FD\x04\x00" + content[half + 12 :]
        (before, after) = content.split(b"\x18\x00\x50\x00DS\x04\x001.5 ")
        file.write_bytes(before + b"\x18\x00\x50\x00DS\x04\x001,5 " + after)
    cases = find_cases(tmp_path / "in", DESCRIBED)
    assert [problem for _, problem in predict(DESCRIBED, network, cases, tmp_path / "out", SEG)] == [None]
    seg = dcmread(tmp_path / "out" / "scan.dcm")
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 1.5
    assert str(seg.PatientName) == PATIENT["PatientName"]


# ---------------------------------------------------------------------- what is written
def test_what_a_killed_run_has_left_is_removed(tmp_path: Path) -> None:
    """It may have a patient's data."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "out").mkdir()
    with temporary_folder(tmp_path / "out" / "scan.dcm") as folder:
        left = folder.with_name(folder.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    left.mkdir()
    (left / "scan.dcm").write_bytes(b"half")
    out = segmented(headers(image_of()), tmp_path, SEG)
    assert [path.name for path in out.iterdir()] == ["scan.dcm"]


def test_what_is_written_is_asked_for(tmp_path: Path) -> None:
    series = headers(image_of())
    for format, endings in ((None, {".dcm"}), ("dicom-seg", {".dcm"}), ("nifti", {".gz"}), ("both", {".dcm", ".gz"})):
        out = segmented(series, tmp_path / str(format), replace(SEG, format=format))
        assert {path.suffix for path in out.iterdir()} == endings


def test_a_case_has_all_of_its_files_or_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(headers(image_of()), tmp_path / "in" / "scan", FrameOfReferenceUID=None)
    retired = "1.2.840.10008.5.1.4.1.1.5"  # a kind of image that highdicom does not know
    write(headers(image_of()), tmp_path / "in" / "old", SOPClassUID=retired)
    cases = find_cases(tmp_path / "in", DESCRIBED)
    problems = {case.name: problem for case, problem in predict(DESCRIBED, network, cases, tmp_path / "out", BOTH)}
    assert problems == {
        "scan": "its images have no FrameOfReferenceUID, which DICOM-SEG needs; use --output-format nifti",
        "old": "the headers of its images do not make a DICOM-SEG (KeyError); use --output-format nifti",
    }
    assert list((tmp_path / "out").iterdir()) == []
    said = "".join([*capfd.readouterr(), str(problems)])
    assert not [secret for secret in SECRETS if secret in said]
    nifti = replace(BOTH, format="nifti")
    assert {problem for _, problem in predict(DESCRIBED, network, cases, tmp_path / "out", nifti)} == {None}


def test_done_cases_are_left_if_all_of_their_files_are_there(tmp_path: Path) -> None:
    out = segmented(headers(image_of()), tmp_path, SEG)
    before = (out / "scan.dcm").stat().st_mtime_ns
    cases = find_cases(tmp_path / "in", DESCRIBED)
    list(predict(DESCRIBED, network, cases, out, SEG, overwrite=False))
    assert (out / "scan.dcm").stat().st_mtime_ns == before
    list(predict(DESCRIBED, network, cases, out, BOTH, overwrite=False))
    assert (out / "scan.dcm").stat().st_mtime_ns > before and (out / "scan.nii.gz").exists()


def test_an_image_is_never_replaced_and_segmentations_are_no_images(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(headers(image_of()), folder)
    next(folder.iterdir()).rename(folder / "in.dcm")
    cases = find_cases(folder, DESCRIBED)
    refused("the segmentation would replace the image", predict, DESCRIBED, network, cases, folder, SEG)
    (folder / "in.dcm").rename(folder / "1")
    for _ in range(2):
        cases = find_cases(folder, DESCRIBED)
        assert [(case.name, len(case.files)) for case in cases] == [("in", 9)]
        assert [problem for _, problem in predict(DESCRIBED, network, cases, folder, SEG)] == [None]


def test_what_cannot_be_done_is_refused_before_anything_is(tmp_path: Path) -> None:
    write(headers(image_of()), tmp_path / "in" / "scan")
    sitk.WriteImage(image_of(), tmp_path / "scan_0000.nii.gz")
    series, file = find_cases(tmp_path / "in", DESCRIBED), find_cases(tmp_path, DESCRIBED)
    refused("--output-format is one of nifti, dicom-seg, both, got 'png'", Options, format="png")
    refused("--orientation is three axis codes such as LPS, got 'lps'", Options, orientation="lps")
    out = tmp_path / "out"
    for cases, options, changes, words in (
        (file, BOTH, {}, "--output-format dicom-seg or both and --orientation: for DICOM series alone, and the images"),
        (series, Options(probabilities=True), {}, "--save-probabilities is for nnUNetv2_ensemble, which knows no DICOM series"),
        (series, SEG, {"labels": {"background": 0}}, "the network's file has no labels, so there is nothing to name segments"),
        (series, SEG, {"labels": {"organ": "one"}}, "the label 'organ' has the values 'one'; allowed are 0 to 65535"),
    ):
        refused(words, predict, replace(DESCRIBED, **changes), network, cases, out, options)
    assert not out.exists()
    assert [problem for _, problem in predict(DESCRIBED, network, file, out, Options(format="nifti"))] == [None]


@pytest.mark.parametrize("absent", ["pydicom", "highdicom"])
def test_without_the_extra_the_command_says_what_installs_it(
    absent: str, stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(headers(image_of()), tmp_path / "in" / "scan")
    for name in list(sys.modules):
        if name.partition(".")[0] == absent or name.startswith("monai_prox.runtime.dicom_"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("monai_prox.runtime.dicom_seg", raising=False)
    monkeypatch.setitem(sys.modules, absent, None)
    done = prox("predict", stock / "model.onnx", "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.error.startswith(f"this command needs a package: {absent} is not installed: pip install")
    assert not (tmp_path / "out").exists()
