"""Labels as DICOM-SEG, a segmentation on the source's images, by highdicom: a binary segment for each label or region."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from highdicom import UID, AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.sr.codedict import codes
from pydicom.valuerep import DSfloat

from monai_prox import __version__
from monai_prox.errors import ProXError, printable
from monai_prox.runtime.description import MOST_LABEL, Description
from monai_prox.runtime.dicom_headers import read_header
from monai_prox.runtime.images import Grid
from monai_prox.runtime.memory import check_fits

NAME = "monai-prox"
SCHEME = "99MONAI-PROX"  # of codes, for labels that are nothing but names; those of the standard are of medical terms
IGNORED = "ignore"  # nnU-Net's name of voxels that count neither in training nor in a score
LONGEST = 64  # characters of a text of the kind that DICOM has for labels
SERIES_NUMBER = 1000  # beyond those that scanners count to
EMPTY_TEXT = (  # has to be there, and may be empty
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)

Source = tuple[Path, Sequence[Dataset]]  # of a channel: the file of its first image, and the headers of all


def segments(description: Description) -> dict[str, tuple[int, ...]]:
    """The values of labels in each segment, by its name; without the background. Raises ProXError where there are none."""
    found = {}
    for name, value in description.labels.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if not all(type(one) is int and 0 <= one <= MOST_LABEL for one in values):
            raise ProXError(f"the label {name!r:.80} has the values {value!r:.80}; allowed are 0 to {MOST_LABEL}")
        if name != IGNORED and set(values) - {0}:
            found[name] = tuple(one for one in values if one)
    if not found:
        raise ProXError("the network's file has no labels, so there is nothing to name segments by")
    return found


def write(labels: NDArray[np.integer], sources: Sequence[Source], grid: Grid, description: Description, path: Path) -> None:
    """labels: (z, y, x) on ``grid``. sources: by channel; segments refer to the images of the first.

    Patient and study are those of the first image, word for word. Raises ProXError where they cannot be taken over.
    """
    named = segments(description)
    (first, headers), *others = sources
    whole = read_header(first)
    if whole is None:
        raise ProXError("an image of the series can no longer be read")
    if not whole.get("FrameOfReferenceUID"):
        raise ProXError("its images have no FrameOfReferenceUID, which DICOM-SEG needs; use --output-format nifti")
    pixels = _pixels(labels, named)
    _leave_out_unreadable(whole)
    try:
        whole.decode()  # text, from the character set of the images
        whole.pop("SpecificCharacterSet", None)
        seg = Segmentation(
            source_images=_prepared(whole, headers, grid),
            pixel_array=pixels,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(number, name) for number, name in enumerate(named, 1)],
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer=NAME,
            manufacturer_model_name=_text(description.member),
            software_versions=__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            content_description=_text(description.source),
            series_description=_text(f"{description.task} {description.member}"),
            omit_empty_frames=bool(pixels.any()),
            further_source_images=[
                header for _, of in others for header in of if header.StudyInstanceUID == whole.StudyInstanceUID
            ],
        )
        seg.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, for labels may have any name
        for keyword in EMPTY_TEXT:
            if keyword in whole:
                seg[keyword] = whole[keyword]
        seg.save_as(path, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # what is wrong with the images' headers. Its text may quote them
        raise ProXError(
            f"the headers of its images do not make a DICOM-SEG ({type(error).__name__}); use --output-format nifti"
        ) from None


def _leave_out_unreadable(header: Dataset) -> None:
    """Elements whose values are not what their kind says, such as private ones of some scanners: all are decoded below."""
    for tag in list(header.keys()):
        try:
            Dataset({tag: header[tag]}).walk(lambda *_: None)
        except Exception:  # pydicom has no class for what a malformed value leads to
            del header[tag]


def _pixels(labels: NDArray[np.integer], named: dict[str, tuple[int, ...]]) -> NDArray[np.unsignedinteger]:
    """(z, y, x) of numbers of segments, or where they overlap, as regions do, (z, y, x, segments) of 0 and 1."""
    values = list(chain.from_iterable(named.values()))
    if len(values) == len(set(values)):
        numbers = np.zeros(MOST_LABEL + 1, np.uint8 if len(named) < 256 else np.uint16)
        for number, of in enumerate(named.values(), 1):
            numbers[list(of)] = number
        found: NDArray[np.unsignedinteger] = numbers[labels]
        return found
    check_fits(labels.size * len(named))
    return np.stack([np.isin(labels, of) for of in named.values()], axis=-1).astype(np.uint8)


def _described(number: int, name: str) -> SegmentDescription:
    label = _text(name) or f"segment {number}"
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=CodedConcept(str(number), SCHEME, label),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=NAME, family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
    )


def _text(text: str) -> str:
    """As DICOM allows it: a backslash would separate two texts."""
    return printable(text).replace("\\", "/").strip()[:LONGEST].strip()


def _prepared(whole: Dataset, headers: Sequence[Dataset], grid: Grid) -> list[Dataset]:
    """``headers`` as highdicom takes them, alike to the last digit, the first with patient and study, as in ``whole``.

    It refuses texts that are missing or not as the standard has them, so they are left empty, and filled in later.
    """
    distance = DSfloat(grid.spacing[2], auto_format=True)
    prepared = []
    for header in (whole, *headers[1:]):
        copied = Dataset()
        copied.update(header)  # its elements are the header's own, and must not be changed but replaced
        for keyword in ("ImageOrientationPatient", "PixelSpacing"):
            copied[keyword] = whole[keyword]
        copied["SpacingBetweenSlices"] = DataElement("SpacingBetweenSlices", "DS", distance)
        thickness = header.get("SliceThickness")
        if not (isinstance(thickness, float) and thickness > 0):
            copied["SliceThickness"] = DataElement("SliceThickness", "DS", distance)
        prepared.append(copied)
    prepared[0].file_meta = whole.file_meta
    for keyword in EMPTY_TEXT:
        prepared[0][keyword] = DataElement(keyword, dictionary_VR(keyword), "")
    return prepared
