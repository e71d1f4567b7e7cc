"""One view of what nnU-Net or a bundle has trained: the members' networks, and what surrounds them on a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from monai_prox.errors import ProXError
from monai_prox.evaluation import HeldOut
from monai_prox.runtime.description import Description, ScanDescription
from monai_prox.space import Subnet
from monai_prox.supernet import SuperNet

FOLDERS, FILES = ("nnunet", "bundle"), ("onnx", "openvino", "torchscript")  # what members are exported as


class Source(Protocol):
    """A trained family.

    path: where it was found. measure: what its members' scores measure, "dice" or "accuracy". size: of the input that costs are
    counted for, at full resolution.
    """

    @property
    def path(self) -> Path: ...

    @property
    def measure(self) -> str: ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Of FOLDERS and FILES, what its members can be exported as."""

    @property
    def arguments(self) -> list[str]:
        """With which ``monai-prox export`` takes the same fold and dataset."""

    @property
    def supernet(self) -> SuperNet:
        """With the trained weights, without what training has closed."""

    @property
    def size(self) -> Sequence[int]: ...

    @property
    def classifies(self) -> bool:
        """Whether members classify images, instead of segmenting them."""

    def family(self) -> dict[str, Any]:
        """family.json."""

    def member(self, which: str) -> tuple[str, Subnet]:
        """Of a name of family.json or a JSON file with a subnet. Raises ProXError for others, and where it is no member."""

    def network(self, subnet: Subnet) -> nn.Module:
        """The member as a stock network, in evaluation mode, its norms with statistics of their own."""

    def describe(self, name: str, subnet: Subnet) -> Description | ScanDescription:
        """Raises ProXError for what the runtime cannot repeat."""

    def check_all_trained(self) -> None:
        """Raises ProXError where some members have not been trained yet."""

    def held_out(self) -> HeldOut:
        """The cases that training validated on. Raises ProXError where they are not known or not there."""


def open_source(path: Path, *, fold: str | None = None, dataset: Path | None = None, checkpoint: str | None = None) -> Source:
    """The family that ProXTrainer left in a model folder, or that a bundle's training left in the bundle.

    fold: of an nnU-Net model, such as "fold_0", the first finished one if None. dataset: images and labels, in nnUNet_raw where
    it is None, for bundles a Decathlon task, for classifiers the scans. checkpoint: of an nnU-Net model, "best" or "latest";
    the final one if None. Raises ProXError where there is no trained family.
    """
    if not path.is_dir():
        raise ProXError(f"there is no folder {path}")
    if (path / "plans.json").is_file():
        from monai_prox.export.nnunet_source import NNUNetSource

        return NNUNetSource.open(path, fold=fold, dataset=dataset, checkpoint=checkpoint or "final")
    if fold is not None or checkpoint is not None:
        raise ProXError(f"--{'fold' if checkpoint is None else 'checkpoint'} is for nnU-Net's model folders, {path} is none")
    from monai_prox.bundle.trained import TrainedBundle
    from monai_prox.export.bundle_source import BundleSource, ClassifierSource

    bundle = TrainedBundle.open(path)
    return (ClassifierSource if bundle.classifies else BundleSource)(bundle, dataset)
