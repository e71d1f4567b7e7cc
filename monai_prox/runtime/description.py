"""What surrounds a network in prediction, as it travels inside a model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from monai_prox.errors import ProXError

KEY = "monai_prox"  # of the model file's metadata
FORMAT = 1
SCHEMES = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Of one channel. scheme: by nnU-Net's names; masked: only within what is not 0; bounds, mean and std are for CT alone."""

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
    """

    order: int
    order_z: int = 0
    separate_z: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """A segmentation network and what prediction needs beside it. Axes are the network's, see ``transpose``.

    member, subnet: name and configuration in the family; task, source: what it segments and where it was trained, in words.
    channels: names, in the order of the input. labels: names and values, a list of values for a region.
    regions: None for classes that exclude each other; else the value that each output is written as, later ones on top.
    outputs: number of the network's output channels. patch: voxels; spacing: mm. A 2D network has two of each.
    transpose: of an image as SimpleITK gives it, (z, y, x), the axes in the network's order.
    reader: nnU-Net's, of the images in training; file_ending: of theirs.
    """

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
    reader: str
    file_ending: str

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, data: Any, source: str) -> Description:
        """source: for the error, a ProXError where ``data`` is not what ``to_json`` writes."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
            raise ProXError(f"{source}: its description has format {found!r}; this version reads {FORMAT}")
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in data]:
            raise ProXError(f"{source}: its description lacks {', '.join(missing)}")
        values = {name: data[name] for name in names}
        try:
            values |= {key: tuple(values[key]) for key in ("channels", "patch", "spacing", "transpose")}
            values["regions"] = None if values["regions"] is None else tuple(values["regions"])
            values["normalisation"] = tuple(Normalisation(**one) for one in values["normalisation"])
            values |= {key: Resampling(**values[key]) for key in ("images", "logits")}
        except TypeError as error:
            raise ProXError(f"{source}: its description is malformed: {error}") from None
        return cls(**values)
