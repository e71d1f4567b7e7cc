"""One view of what nnU-Net or a bundle has trained: the members' networks, and what surrounds them on a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.runtime.description import Description, ScanDescription
from monai_prox.runtime.evaluation import HeldOut
from monai_prox.trained.family_file import FamilyFile

FOLDERS, FILES = ("nnunet", "bundle"), ("onnx", "openvino", "torchscript")  # what members are exported as


class Trained(Protocol):
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

    def family(self) -> FamilyFile:
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
