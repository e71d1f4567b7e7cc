"""A member that segments, with what surrounds its network in prediction: what a bundle is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from monai_prox.errors import ProXError

HIGHEST = 65535  # label
MARKS = ("$", "@", "%")  # with which MONAI's configurations begin expressions, references and macros


def check_plain(data: Any) -> None:
    """Raises ProXError where a text in ``data``, from a plan or a dataset.json, would be code in a bundle's configuration."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            check_plain(key)
            check_plain(value)
    elif isinstance(data, list | tuple):
        for value in data:
            check_plain(value)
    elif isinstance(data, str) and data.lstrip().startswith(MARKS):
        raise ProXError(
            f"{data!r:.80} would be read as an expression in a bundle; names must not begin with {', '.join(MARKS)}"
        )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A member with what surrounds it in prediction. Axes are (x, y, z).

    name, task, source: of the member, of what it segments, and in words where it was trained.
    network, architecture: the stock network with its weights, and its entry as in nnU-Net's plans.
    channels: names; modality: "CT" or "MR" and so on; outputs: names of the network's output channels.
    highest_label: in the label images that it makes of them, up to 65535.
    patch_size: voxels; spacing: mm. subnet: as JSON.
    metrics: as measured, {} where nothing was; measured_on: on what, in words.
    orientation: axis codes that images are turned to for the network, None where it sees them as stored.
    licence: of the data, as its dataset.json says, or "".
    preprocessing, postprocessing: configurations of MONAI's transforms, from files to the network and back to a label image
    ``pred`` (1, x, y, z), which is then saved. datalist: expression for the images in ``@dataset_dir``, named like ``images``.
    weighing: of a tile's voxels, MONAI's or nnU-Net's.
    """

    name: str
    task: str
    source: str
    subnet: Mapping[str, Any]
    network: nn.Module
    architecture: Mapping[str, Any]
    channels: tuple[str, ...]
    modality: str
    outputs: tuple[str, ...]
    highest_label: int
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    metrics: Mapping[str, float]
    measured_on: str
    licence: str
    preprocessing: tuple[Mapping[str, Any], ...]
    postprocessing: tuple[Mapping[str, Any], ...]
    images: str
    orientation: str | None
    datalist: str
    weighing: Literal["monai", "nnunet"] = "monai"

    def __post_init__(self) -> None:
        names = self.name, self.task, self.source, self.channels, self.modality, self.outputs, self.licence
        check_plain([*names, self.architecture, self.metrics, self.subnet])
        if not 0 <= self.highest_label <= HIGHEST:
            raise ProXError(f"there is a label {self.highest_label}; bundles write labels from 0 to {HIGHEST}")
