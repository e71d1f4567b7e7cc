"""One view of what nnU-Net or a bundle has trained: the members' networks, and what surrounds them on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray
from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.runtime.description import Description, ScanDescription
from monai_prox.runtime.evaluation import HeldOut, Measure
from monai_prox.runtime.grid import ImageSize
from monai_prox.runtime.kinds import Kind
from monai_prox.surface_dice import surface_dice_by_class
from monai_prox.trained.family_file import FamilyFile, NamedMember

RUN_BY_PREDICT, PAGE = ("onnx", "openvino", "torchscript"), "html"
FOLDERS, FILES = ("nnunet", "bundle"), (*RUN_BY_PREDICT, PAGE)  # what members are exported as
EVERY = "fold_every"  # of nnU-Net's folds all that have a number; a fold "all" is another one
UNNAMED = "member"  # the name of a subnet that has none
Measured = Literal["dice", "accuracy", "surface Dice"]
PLOT = "prox_progress.png"  # which a training draws


class Members(Protocol):
    """Networks of a family that can be run, trained or not.

    size: of the input that costs are counted for, at full resolution. A member is given by its name, a JSON file with a subnet,
    or as a subnet of the family's space.
    """

    @property
    def supernet(self) -> SuperNet:
        """With the trained weights, without what training has closed."""

    @property
    def size(self) -> Sequence[int]: ...

    @property
    def kind(self) -> Kind:
        """What members do with images."""

    @property
    def median_image(self) -> ImageSize | None:
        """The median size of the training's images, None if nothing tells it."""

    def network(self, which: str | Subnet) -> nn.Module:
        """The member as a stock network, in evaluation mode, its norms with statistics of their own. Of several folds, the mean
        of their stock networks.
        """

    def describe(self, which: str | Subnet, *, name: str = UNNAMED) -> Description | ScanDescription:
        """name: of a subnet. Raises ProXError for what the runtime cannot repeat."""


class Trained(Members, Protocol):
    """A trained family. Of nnU-Net's folds, the first is used for networks, or the mean of those that were asked for.

    path: where it was found. measure: what its members' scores measure. Names of members are those in family.json.
    """

    @property
    def path(self) -> Path: ...

    @property
    def measure(self) -> Measured: ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Of FOLDERS and FILES, what its members can be exported as; the first is of the kind that it is itself."""

    @property
    def arguments(self) -> list[str]:
        """With which ``monai-prox export`` takes the same folds and dataset."""

    @property
    def note(self) -> str | None:
        """In words, in what the scores of a search differ from those in family.json, which are of the same measure."""

    def family(self) -> FamilyFile:
        """family.json, of the first fold that is used."""

    def members(self) -> tuple[NamedMember, ...]:
        """Those that have names, their scores being the mean over all folds."""

    @property
    def progress(self) -> Path | None:
        """The plot of the training, a PNG file, if it has left one."""

    @property
    def scored(self) -> str:
        """In words, what the scores of ``members`` are of."""

    def origins(self, *, every: bool = False) -> list[str]:
        """In words, how far the training had come, unless its end is what it is. every: of every fold, not of those used."""

    def member(self, which: str) -> tuple[str, Subnet]:
        """Name and subnet. Raises ProXError for an unknown name, and for what is no member."""

    def check_all_trained(self) -> None:
        """Raises ProXError where some members have not been trained yet."""

    def held_out(self) -> HeldOut:
        """The cases that training validated on. Raises ProXError where they are not known or not there."""

    def scored_by(self, metric: str) -> Trained:
        """The same family, whose held-out cases are scored by its own measure or, of segmentations, by surface_dice.

        Raises ProXError for another ``metric``.
        """


def named(trained: Trained, which: str | Subnet, name: str = UNNAMED) -> tuple[str, Subnet]:
    """Name and subnet of a member. name: of a subnet."""
    return trained.member(which) if isinstance(which, str) else (name, which)


def check_metric(metric: str, *allowed: str) -> str:
    """Raises ProXError unless the ``metric`` is one of those ``allowed``."""
    if metric not in allowed:
        raise ProXError(f"this family is scored by {' or '.join(allowed)}; got {metric!r:.80}")
    return metric


def surface_measure(tolerance: float) -> Measure:
    """The surface Dice within a tolerance in mm, see ``monai_prox.surface_dice``."""

    def score(
        predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, Any], spacing: Sequence[float]
    ) -> dict[str, float]:
        by_class = surface_dice_by_class(predicted, truth, labels, spacing=spacing, tolerance=tolerance)
        return {name: value for name, value in by_class.items() if not isnan(value)}

    return Measure(f"surface Dice within {tolerance:g} mm", score)


def plot_of(folders: Sequence[Path], root: Path) -> Path | None:
    """The plot of a training that lies in one of ``folders``. A link out of ``root`` is none."""
    plots = (folder / PLOT for folder in folders)
    return next((plot for plot in plots if plot.is_file() and plot.resolve().is_relative_to(root.resolve())), None)
