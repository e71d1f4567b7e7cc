"""The settings that training on retinal scans and prediction share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, ClassVar

from monai_prox.data.oct import OctScans
from monai_prox.data.plan_settings import plan_of_kind
from monai_prox.errors import ProXError
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.families.mobilenet_choices import MobileNetChoices

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class OctPlan:
    """The settings that training on retinal scans and prediction share.

    Args:
        task: name of the task.
        classes: names in the order of the network's outputs.
        image_size: pixels (rows, columns) that images are resized to.
    """

    kind: ClassVar[str] = "classification"  # in family.json: tells this plan from one for segmentation
    task: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]

    @property
    def patch_size(self) -> tuple[int, int]:
        """The size of the input for which the costs of members are counted, in pixels."""
        return self.image_size

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's input channels."""
        return ("OCT",)

    @property
    def images(self) -> str:
        """What the network sees, in words."""
        return f"images of {' x '.join(map(str, self.image_size))} pixels, of {', '.join(self.classes)}"

    def cached_bytes(self, image: Any, *, trains: bool) -> int:
        """Memory of a preprocessed scan, in bytes.

        Args:
            image: the scan. All scans need the same memory.
            trains: whether the scan is for training. It needs the same memory if not.
        """
        return 4 * prod(self.image_size)

    @property
    def values(self) -> dict[str, int]:
        """The value of each class, by its name."""
        return {name: value for value, name in enumerate(self.classes)}

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, for a JSON file."""
        return {"format": FORMAT, "kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> OctPlan:
        """The plan that ``to_json`` wrote.

        Args:
            data: what ``to_json`` returned.

        Raises:
            ProXError: ``data`` is something else.
        """
        return plan_of_kind(cls, cls.kind, FORMAT, data)

    def family(self, space: Any = None, *, open: Mapping[str, int] | None = None) -> MobileNetFamily:
        """The family of the plan's network.

        Args:
            space: "default", "paper", or an object with fields of ``MobileNetChoices``. Its last resolution is the plan's image
                size. None means the default.
            open: number of choices that remain of each dimension whose last choices were closed, see ``SearchSpace.narrow``.

        Raises:
            ProXError: the resolution is another one, nothing is elastic in ``space``, or ``space`` is not valid.
        """
        choices = MobileNetChoices.from_json({} if space is None else space)
        if choices.resolution[-1] != self.image_size[0]:
            raise ProXError(
                f"the search space ends in a resolution of {choices.resolution[-1]} pixels, images are planned with "
                f"{self.image_size[0]}; they must agree"
            )
        family = MobileNetFamily(input_channels=1, num_classes=len(self.classes), choices=choices, open=open)
        if not open and family.space.size() == 1:
            raise ProXError(f"the search space {space!r} has one member only, so there is nothing to expand")
        return family

    def regions(self, regions: None = None) -> dict[str, tuple[int, ...]]:
        """The value of each class that is evaluated, by its name.

        Args:
            regions: None, because classes are not put together.

        Raises:
            ProXError: ``regions`` is something else.
        """
        if regions is not None:
            raise ProXError(
                f"a scan has one class, so classes are evaluated one by one; regions must be null, got {regions!r:.80}"
            )
        return {name: (value,) for name, value in self.values.items()}

    def check_fits(self, scans: OctScans) -> None:
        """Checks that scans have the classes that the network was trained with.

        Args:
            scans: the scans.

        Raises:
            ProXError: the classes differ.
        """
        if scans.classes != self.classes:
            raise ProXError(f"the scans' classes are {', '.join(scans.classes)}; trained were {', '.join(self.classes)}")


def plan_scans(task: str, scans: OctScans, space: Any = None) -> OctPlan:
    """Plans a network for scans.

    Args:
        task: name of the task.
        scans: the scans, whose classes are the network's.
        space: see ``OctPlan.family``. Its highest resolution is the size of the images.

    Raises:
        ProXError: ``space`` is not valid, or no scan for training has one of the classes.

    >>> plan_scans("OCT", OctScans(("CNV", "NORMAL"), (), (), ()), {"resolution": [32, 64]}).image_size
    (64, 64)
    """
    if missing := [name for name, count in scans.count(scans.train).items() if scans.train and not count]:
        raise ProXError(f"no scan for training is of the classes {', '.join(missing)}; every class needs some")
    pixels = MobileNetChoices.from_json({} if space is None else space).resolution[-1]
    return OctPlan(task=task, classes=scans.classes, image_size=(pixels, pixels))
