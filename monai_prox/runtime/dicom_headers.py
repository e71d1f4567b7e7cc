"""Headers of DICOM files by pydicom, without a word of what is in them in messages, warnings and logs."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, config, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RTDoseStorage, SegmentationStorage

NO_IMAGE = ""
LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")  # segmentations of another kind
WITH_PIXELS = (SegmentationStorage, LABEL_MAP, RTDoseStorage)  # and no images
SIZE = ("Rows", "Columns", "BitsAllocated")  # of an image, together in bits
ELEMENT = 12  # bytes before the first fragment of compressed pixels
FRAGMENT, END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)  # tags

config.settings.reading_validation_mode = config.IGNORE  # its warnings quote values, of patients' names and dates, too
for library in ("pydicom", "highdicom"):
    logging.getLogger(library).setLevel(logging.CRITICAL)  # and so do their logs


def series_of(path: Path) -> str | None:
    """The SeriesInstanceUID of an image, NO_IMAGE for what is none, and None for what ``read_header`` cannot read."""
    header = read_header(path, ["SOPClassUID", "SeriesInstanceUID", *SIZE])
    if header is None:
        return None
    kind = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")))
    if kind in WITH_PIXELS or (kind and "Rows" not in header and "Image Storage" not in kind.name):
        return NO_IMAGE
    return str(header.get("SeriesInstanceUID")) if "Rows" in header else None


def read_header(path: Path, tags: Sequence[str] | None = None) -> Dataset | None:
    """What stands before the pixels, of ``tags`` alone unless they are None.

    None for a file that is deflated, or damaged, or ends too early, as far as ``SIZE`` is among the tags.
    """
    try:
        syntax = read_file_meta_info(path).TransferSyntaxUID
        if syntax == DeflatedExplicitVRLittleEndian:  # pydicom would inflate all of it, to a thousand times its size
            return None
        with path.open("rb") as file:
            header = dcmread(file, stop_before_pixels=True, specific_tags=list(tags) if tags else None)
            if tags:
                list(header)  # pydicom converts values when they are asked for, and raises anything for malformed ones
            return header if "Rows" not in header or _has_all_pixels(file, header, syntax) else None
    except Exception:  # whatever a damaged file leads to. What it says may quote the file
        return None


def _has_all_pixels(file: BinaryIO, header: Dataset, syntax: UID) -> bool:
    """Of those that are missing some versions of ITK make 0, and others take gigabytes of memory.

    file: where its pixels begin. Raises struct.error where it ends within the heads of compressed fragments.
    """
    if not syntax.is_compressed:
        needed = prod(int(header[keyword].value) for keyword in SIZE) // 8
        return os.fstat(file.fileno()).st_size - file.tell() >= needed
    file.seek(ELEMENT, os.SEEK_CUR)
    while True:
        *tag, length = struct.unpack("<HHL", file.read(8))
        if tuple(tag) != FRAGMENT:
            return tuple(tag) == END
        file.seek(length, os.SEEK_CUR)
