"""DICOM series made of images, image by image by pydicom, with a patient whom no message may name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy import ndimage
from scipy.spatial.transform import Rotation

PATIENT = {"PatientName": "Müller^Zoë", "PatientID": "MRN-4711", "PatientBirthDate": "19610203", "PatientSex": "F"}
STUDY = {"StudyDate": "20240229", "StudyTime": "101112", "AccessionNumber": "ACC-0815", "StudyID": "S-99"}
OBLIQUE = Rotation.from_euler("xyz", (20, -15, 30), degrees=True).as_matrix()
NAMED = "MUELLER"  # in the names of files
SECRETS = ("Müller", "Zoë", NAMED, *(value for value in (PATIENT | STUDY).values() if len(value) > 1))


def headers(image: sitk.Image, *, slope: float = 1, intercept: float = -1024) -> list[Dataset]:
    """A CT series of ``image``, of three axes and whole numbers, slice by slice, as files have it."""
    voxels = np.round((sitk.GetArrayFromImage(image) - intercept) / slope).astype(np.int16)
    direction = np.reshape(image.GetDirection(), (3, 3))
    series, frame, study = generate_uid(), generate_uid(), generate_uid()
    made = []
    for index, pixels in enumerate(voxels):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SpecificCharacterSet = "ISO_IR 100"
        for keyword, value in (PATIENT | STUDY).items():
            setattr(one, keyword, value)
        one.ReferringPhysicianName = ""
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.Modality, one.Manufacturer, one.ImageType = "CT", "Scanners", ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.SeriesNumber, one.InstanceNumber = 3, index + 1
        one.ImagePositionPatient = [round(mm, 9) for mm in image.TransformIndexToPhysicalPoint((0, 0, index))]
        one.ImageOrientationPatient = [round(cosine, 9) for cosine in direction.T[:2].ravel()]
        one.PixelSpacing = [round(mm, 6) for mm in image.GetSpacing()[1::-1]]
        one.SliceThickness = round(image.GetSpacing()[2], 6)
        one.Rows, one.Columns = pixels.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = slope, intercept, "HU"
        one.PixelData = pixels.tobytes()
        made.append(one)
    return made


def write(made: list[Dataset], folder: Path, ending: str = ".dcm", **changes: Any) -> Path:
    """Files whose names tell the patient and not the order. changes: of all images, None for what is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, one in enumerate(made):
        change(one, changes)
        one.save_as(folder / f"{NAMED}_{(7 * index + 3) % 101:03d}_{index}{ending}", enforce_file_format=True)
    return folder


def change(one: Dataset, changes: Mapping[str, Any]) -> None:
    for keyword, value in changes.items():
        if value is None:
            one.pop(keyword, None)
        else:
            setattr(one, keyword, value)


def image_of(seed: int = 0, *, direction: Any = None, size: tuple[int, ...] = (9, 14, 11)) -> sitk.Image:
    """Smooth noise of whole numbers, oblique unless there is a direction, with spacings that float32 can hold."""
    voxels = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 3000, size), 1.5)
    image = sitk.GetImageFromArray(np.round(voxels).astype(np.int16))
    image.SetSpacing((0.75, 0.875, 1.5))
    image.SetOrigin((-13.5, 7.25, 100.0))
    image.SetDirection(np.ravel(OBLIQUE if direction is None else direction).tolist())
    return image


def network(tile: np.ndarray) -> np.ndarray:
    """One of two outputs, for ``DESCRIBED``: the organ is what is bright."""
    return np.concatenate([-tile, tile], 1)
