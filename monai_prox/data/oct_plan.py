"""What training on retinal scans and prediction have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, ClassVar

from monai_prox.data.oct import OctScans
from monai_prox.errors import ProXError
from monai_prox.families.mobilenet import MobileNetChoices, MobileNetFamily
from monai_prox.typed import typed

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class OctPlan:
    """classes: names in the order of the network's outputs. image_size: pixels, rows and columns, images are brought to."""

    kind: ClassVar = "classification"  # in family.json: tells this plan from one for segmentation
    task: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]

    @property
    def patch_size(self) -> tuple[int, int]:
        """What the costs of members are counted for."""
        return self.image_size

    @property
    def images(self) -> str:
        """What the network sees, in words."""
        return f"images of {' x '.join(map(str, self.image_size))} pixels, of {', '.join(self.classes)}"

    def cached_bytes(self, image: Any, *, trains: bool) -> int:
        """Memory of a scan that is preprocessed."""
        return 4 * prod(self.image_size)

    @property
    def values(self) -> dict[str, int]:
        """Of the classes, by their names."""
        return {name: value for value, name in enumerate(self.classes)}

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> OctPlan:
        """Raises ProXError where ``data`` is no plan of this kind and format."""
        what = f"not a plan for classification of format {FORMAT}"
        if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("kind") != cls.kind:
            raise ProXError(f"{what}: {data!r:.160}")
        return typed(cls, {key: value for key, value in data.items() if key not in ("format", "kind")}, what)

    def family(self, space: Any = None, *, open: Mapping[str, int] | None = None) -> MobileNetFamily:
        """The family of this plan's network.

        space: "default", "paper" or an object with fields of MobileNetChoices, whose last resolution is the plan's image size.
        open: by dimension, the choices that remain where the last ones were closed. Raises ProXError for another resolution
        and where ``space`` leaves nothing elastic.
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

    def regions(self) -> dict[str, tuple[int, ...]]:
        """What is evaluated one by one: each class, with the value of its label."""
        return {name: (value,) for name, value in self.values.items()}

    def check_fits(self, scans: OctScans) -> None:
        """Raises ProXError where ``scans`` have other classes than the network was trained with."""
        if scans.classes != self.classes:
            raise ProXError(f"the scans' classes are {', '.join(scans.classes)}; trained were {', '.join(self.classes)}")


def plan_scans(task: str, scans: OctScans, space: Any = None) -> OctPlan:
    """The plan for ``scans``: their classes, and images of the highest resolution in ``space``."""
    pixels = MobileNetChoices.from_json({} if space is None else space).resolution[-1]
    return OctPlan(task=task, classes=scans.classes, image_size=(pixels, pixels))
