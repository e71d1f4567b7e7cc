"""What surrounds a network in prediction, as it travels inside a model file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import chain, permutations, product
from math import prod
from typing import Any, ClassVar, Literal

from monai_prox.errors import ProXError
from monai_prox.files import parse_json
from monai_prox.typed import typed

KEY = "monai_prox"  # of the model file's metadata
FORMAT = 3
READABLE = (1, 2, FORMAT)  # the first had no orientation, and fewer readers; the second no postprocessing
SCHEMES = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
    "NormalizeIntensity",  # MONAI's, of the voxels that are not 0
)
ENDING = re.compile(r"(\.\w+)+")  # it becomes part of paths
MOST_VALUES = 2**29  # of a patch before and after the network, 2 GiB of them
MOST_PIXELS = 4096  # of a scan, per axis
MOST_LABEL, MOST_STEPS = 65535, 1_000  # of labels' values; of postprocessing
SMALLEST, LARGEST = 1e-9, 1e9  # mm; nnU-Net gives pictures a third axis of 999
READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "NaturalImage2DIO", "LoadImage")
ALL_CHANNELS = READERS[-1]  # MONAI's, for which all channels of a case are one file
PICTURES = "NaturalImage2DIO"
AS_STORED = ("SimpleITKIO", "NibabelIO")  # of nnU-Net's readers, those that keep the axes of the file
TURNED = {"NibabelIOWithReorient": "RAS"}  # of nnU-Net's readers, those that turn images
PICTURE_ENDINGS = (".png", ".tif")
ORIENTATIONS = frozenset(map("".join, chain.from_iterable(permutations(axes) for axes in product("LR", "PA", "IS"))))


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Of one channel. scheme: by nnU-Net's or MONAI's name; masked: only within what is not 0; bounds, mean and std are for CT.

    With MONAI's a mask is of each channel by itself, with nnU-Net's it is what all have in common, filled.
    """

    scheme: str
    masked: bool = False
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ProXError(f"the normalisation {self.scheme!r} is not known; known: {', '.join(SCHEMES)}")


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """nnU-Net's: splines of ``order``; along the thick axis of images with thick slices those of ``order_z``.

    separate_z: whether the thick axis is treated so; None: where the ratio of the spacings is above 3.
    keeps: what stays in place, the image's outer faces, as with nnU-Net, or the centre of its first voxel, as with MONAI's
        Spacing, for which splines are of order 1.
    """

    order: int
    order_z: int = 0
    separate_z: bool | None = None
    keeps: Literal["faces", "centre"] = "faces"

    def __post_init__(self) -> None:
        if not (0 <= self.order <= 5 and 0 <= self.order_z <= 5):
            raise ProXError(f"splines are of order 0 to 5, got {self.order} and {self.order_z}")


@dataclass(frozen=True, kw_only=True)
class Description:
    """A segmentation network and what prediction needs beside it. Axes are the network's, see ``transpose``.

    member, subnet: name and configuration in the family; task, source: what it segments and where it was trained, in words.
    channels: names, in the order of the input. labels: names and values, a list of values for a region.
    regions: None for classes that exclude each other; else the value that each output is written as, later ones on top.
    outputs: number of the network's output channels. patch: voxels; spacing: mm. A 2D network has two of each.
    transpose: of an image as its reader gives it, (z, y, x), the axes in the network's order.
    cropped: whether to what is not 0. normalised_first: before resampling, as nnU-Net does, or after it.
    reader: of the images in training, nnU-Net's, which have a file per channel, or MONAI's, with channels as a fourth axis;
    file_ending: of theirs. orientation: axis codes that MONAI's turns images to, None for images as stored; nnU-Net's have
    their own way. stored_orientation: axis codes of the training's images, if nnU-Net took them as stored and all were stored
    alike; None where this is not so or not known. mirroring: axes of the patch along which nnU-Net mirrors in prediction; None
    where the file does not tell.
    postprocessing: groups of values, one after the other, of which only the largest component is kept.
    precision: in which the network computes, where the device can; its input and output are float32.
    license: of the weights, with attribution, as family.json says it, or "".
    """

    kind: ClassVar[str] = "segmentation"
    member: str
    subnet: Mapping[str, Any]
    task: str
    source: str
    channels: tuple[str, ...]
    labels: Mapping[str, Any]
    regions: tuple[int, ...] | None
    outputs: int
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    transpose: tuple[int, ...]
    normalisation: tuple[Normalisation, ...]
    images: Resampling
    logits: Resampling
    cropped: bool = True
    normalised_first: bool = True
    reader: str
    file_ending: str
    orientation: str | None = None
    stored_orientation: str | None = None
    mirroring: tuple[int, ...] | None = None
    postprocessing: tuple[tuple[int, ...], ...] = ()
    precision: Literal["float32", "float16"] = "float32"
    license: str = ""

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ProXError(f"the reader {self.reader!r:.80} is not known; known: {', '.join(READERS)}")
        if self.reader == PICTURES and self.file_ending not in PICTURE_ENDINGS:
            raise ProXError(f"pictures are files that end in {', '.join(PICTURE_ENDINGS)}, not in {self.file_ending!r:.80}")
        for codes in (self.orientation, self.stored_orientation):
            if codes is not None and codes not in ORIENTATIONS:
                raise ProXError(f"orientation is three axis codes such as RAS, or null, got {codes!r:.80}")
        if not ENDING.fullmatch(self.file_ending):
            raise ProXError(f"images are files that end in .nii.gz, .nrrd or the like, not in {self.file_ending!r:.80}")
        axes, values = len(self.patch), prod(self.patch) * (len(self.channels) + self.outputs)
        if axes not in (2, 3) or min(self.patch) < 1 or self.outputs < 1 or not self.channels or values > MOST_VALUES:
            raise ProXError(
                f"the patch is {self.patch!s:.80}, of {len(self.channels)} channels and {self.outputs} outputs; "
                f"allowed are 2 or 3 axes and {MOST_VALUES:,} values together"
            )
        if len(self.spacing) != axes or not all(SMALLEST <= mm <= LARGEST for mm in self.spacing):
            raise ProXError(f"the spacing is {self.spacing!s:.80}; allowed are {axes} positive numbers, in mm")
        if sorted(self.transpose) != [0, 1, 2]:
            raise ProXError(f"the axes are in the order {self.transpose!s:.80}; allowed is any order of 0, 1 and 2")
        if self.mirroring and (len(set(self.mirroring)) < len(self.mirroring) or not set(self.mirroring) <= set(range(axes))):
            raise ProXError(
                f"mirroring is along the axes {self.mirroring!s:.80}; allowed are some of the patch's {axes}, from 0 on"
            )
        if len(self.normalisation) != len(self.channels):
            raise ProXError(f"there are {len(self.normalisation)} normalisations, for {len(self.channels)} channels")
        regions = self.regions
        if regions is not None and (len(regions) != self.outputs or not all(0 <= v <= MOST_LABEL for v in regions)):
            raise ProXError(f"the regions are {regions!s:.80}; allowed are {self.outputs} values up to {MOST_LABEL}")
        steps = self.postprocessing
        if len(steps) > MOST_STEPS or not all(step and all(0 < value <= MOST_LABEL for value in step) for step in steps):
            raise ProXError(f"postprocessing is {steps!s:.80}; allowed are {MOST_STEPS:,} groups of values up to {MOST_LABEL}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels and voxels per axis of what the network takes."""
        return (len(self.channels), *self.patch)

    @property
    def grid(self) -> tuple[float, ...]:
        """Members of the same one share what is prepared of an image."""
        return self.spacing

    @property
    def turns_images(self) -> bool:
        """Whether images are turned to one orientation whichever way they are stored."""
        return self.reader in TURNED or self.orientation is not None

    @property
    def orientation_of_series(self) -> str | None:
        """Axis codes that DICOM series are turned to, None for those that they are stored with."""
        return TURNED.get(self.reader) or self.orientation or self.stored_orientation


@dataclass(frozen=True, kw_only=True)
class ScanDescription:
    """A network that classifies scans, (rows, columns) of grey, and what prediction needs beside it.

    member, subnet, task, source, license: as of ``Description``. classes: names, in the order of the outputs.
    image_size: pixels that scans are brought to; working_size: to which these are, once normalised, for the network.
    """

    kind: ClassVar[str] = "classification"
    member: str
    subnet: Mapping[str, Any]
    task: str
    source: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    working_size: tuple[int, int]
    license: str = ""

    def __post_init__(self) -> None:
        for size in (self.image_size, self.working_size):
            if not all(1 <= side <= MOST_PIXELS for side in size):
                raise ProXError(f"images of {size!s:.80} pixels; allowed are up to {MOST_PIXELS} an axis")

    @property
    def patch(self) -> tuple[int, ...]:
        """A scan is a single patch."""
        return self.working_size

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels, rows and columns of what the network takes."""
        return (1, *self.working_size)

    @property
    def grid(self) -> tuple[int, ...]:
        """As of ``Description``."""
        return self.working_size


DESCRIPTIONS: dict[str, type[Description] | type[ScanDescription]] = {cls.kind: cls for cls in (Description, ScanDescription)}


def write_description(description: Description | ScanDescription) -> str:
    """As JSON, for the model file's metadata."""
    return json.dumps({"format": FORMAT, "kind": description.kind, **asdict(description)})


def read_description(text: str, source: str) -> Description | ScanDescription:
    """source: for the error, a ProXError where ``text`` is not what ``write_description`` writes."""
    data = parse_json(text, f"{source}: its description")
    if not isinstance(data, Mapping) or data.get("format") not in READABLE or data.get("kind") not in tuple(DESCRIPTIONS):
        found = (data.get("format"), data.get("kind")) if isinstance(data, Mapping) else type(data).__name__
        raise ProXError(
            f"{source}: its description has format and kind {found!r:.80}; this version reads the formats "
            f"{', '.join(map(str, READABLE))}, {' and '.join(DESCRIPTIONS)}"
        )
    cls = DESCRIPTIONS[data["kind"]]
    of = fields(cls)
    if missing := [field.name for field in of if field.name not in data and field.default is MISSING]:
        raise ProXError(f"{source}: its description lacks {', '.join(missing)}")
    given = {field.name: data[field.name] for field in of if field.name in data}
    return typed(cls, given, f"{source}: its description is malformed")
