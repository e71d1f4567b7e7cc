"""family.json: what a training says of the family that it leaves, whoever ran its loop, and the members that have names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from monai_prox import __version__
from monai_prox.core import cost
from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError, printable
from monai_prox.files import read_json, write_json
from monai_prox.surface_dice import check_tolerance
from monai_prox.typed import check_types, typed

FAMILY = "family.json"
FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9_-]+")  # it becomes part of paths
# Of a file, without its ending: part of the names of plans, in which two underscores would divide a model folder's name
FILE = re.compile(r"(?!.*__)[^\W_]([\w.-]*[^\W_])?")
MOST_MEMBERS, MOST_SCORES = 1_000, 100_000  # that a table shows
MOST_LICENSE = 10_000  # characters, for it is repeated wherever the weights go
MEMBER = {"name": str, "subnet": Mapping[str, tuple[float, ...]], "parameters": int, "macs": int}
SURFACE = "surface_dice"  # beside Dice, where it was measured
SCORES = dict.fromkeys(("dice", "accuracy", SURFACE), Mapping[str, float | None] | None)
PROGRESS = "probes"  # what 0.1.0 calls it
Scores = Mapping[str, float | None]
Plain = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class NamedMember:
    """A member with what it costs, for an input of the family's size, and its scores by class, None where it was not validated.

    A score is None where no case has the class. surface_dice: by the same classes, see ``monai_prox.surface_dice``.
    """

    name: str
    subnet: Subnet
    parameters: int
    macs: int
    scores: Scores | None = None
    surface_dice: Scores | None = None

    @classmethod
    def of(
        cls,
        name: str,
        subnet: Subnet,
        family: Family,
        size: Sequence[int],
        scores: Scores | None = None,
        surface_dice: Scores | None = None,
    ) -> NamedMember:
        """With its costs counted. size: of the input, voxels or pixels per axis."""
        parameters, macs = cost.parameters(family, subnet), cost.macs(family, subnet, size)
        return cls(name=name, subnet=subnet, parameters=parameters, macs=macs, scores=scores, surface_dice=surface_dice)

    def is_of(self, subnet: Subnet) -> bool:
        """Whether it is ``subnet``, whose dimensions may be in another order."""
        return dict(self.subnet) == dict(subnet)

    def to_json(self, measure: str) -> dict[str, Any]:
        """measure: the name of the scores."""
        costs = {"parameters": self.parameters, "macs": self.macs}
        surface = {} if self.surface_dice is None else {SURFACE: dict(self.surface_dice)}
        return {
            "name": self.name,
            "subnet": self.subnet.to_json(),
            **costs,
            measure: self.scores and dict(self.scores),
            **surface,
        }

    @classmethod
    def from_json(cls, data: Any, measure: str, source: Path | str) -> NamedMember:
        """Raises ProXError, naming ``source`` and the member, where ``data`` is not what ``to_json`` writes."""
        name = data.get("name") if isinstance(data, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ProXError(f"{source}: a member has a name of letters, digits, - and _, got {data!r:.120}")
        what = f"{source}, the member {name:.40}"
        check_types(data, MEMBER, what)
        check_types(data, SCORES, what, missing=True)
        try:
            subnet = Subnet.from_json(data["subnet"])
        except ProXError as error:
            raise ProXError(f"{what}: {error}") from None
        costs = {key: data[key] for key in ("parameters", "macs")}
        return cls(name=name, subnet=subnet, **costs, scores=data.get(measure), surface_dice=data.get(SURFACE))


@dataclass(frozen=True, kw_only=True)
class FamilyFile:
    """What a family.json holds. Members are in all of them; other fields are None where a host or an old file does not say.

    version: of this package, that wrote it. trainer: nnU-Net's class; recipe, epochs: of the training. validated_epoch: that
    the members were validated after, None where they were not. validation_cases: names of those that they were validated on.
    plan, choices: what a bundle's family is made of, as JSON; before any training it has no members.
    labels: names and values, a tuple of values for a region; regions: values of the labels by what is evaluated, if not each
    label by itself. measure: of the members' scores, which are by class, by "1" or "(1, 2)" as nnU-Net has it or by name.
    surface_tolerance_mm: of their surface Dice, None where none was measured.
    patch_size: for which costs are counted. mirroring: axes along which nnU-Net's validation mirrored, of which 0.1.0 does not
    speak: all of its trainings did. orientations: number of training images by axis codes, as they are stored.
    space, closed, stages: as JSON, the space that remained, by dimension the choices of what was closed, and the schedule.
    progress: scores of the members watched, by epoch, {"epoch": int, measure: {name: float}}. monitor: its comparisons.
    license: of the weights, with attribution, in words of who shares them; a line of text when it is read.
    """

    members: tuple[NamedMember, ...] = ()
    version: str | None = None
    trainer: str | None = None
    plan: Plain | None = None
    choices: Plain | None = None
    recipe: str | None = None
    epochs: int | None = None
    validated_epoch: int | None = None
    validation_cases: tuple[str, ...] | None = None
    measure: Literal["dice", "accuracy"] = "dice"
    surface_tolerance_mm: float | None = None
    labels: Mapping[str, int | tuple[int, ...]] | None = None
    regions: Mapping[str, tuple[int, ...]] | None = None
    patch_size: tuple[int, ...] | None = None
    mirroring: tuple[int, ...] | None = (0,)
    orientations: Mapping[str, int] | None = None
    space: Plain | None = None
    closed: Mapping[str, int] | None = None
    stages: tuple[Plain, ...] = ()
    progress: tuple[Plain, ...] = ()
    monitor: tuple[Plain, ...] = ()
    license: str | None = None

    @classmethod
    def read(cls, path: Path) -> FamilyFile:
        """Raises ProXError, naming ``path``, where it is not what ``write`` writes, or 0.1.0 did."""
        return cls.from_json(read_json(path), path)

    @classmethod
    def from_json(cls, data: Any, source: Path | str, *, planned: bool = False) -> FamilyFile:
        """planned: whether there may be no members yet.

        Raises ProXError, naming ``source``, for other formats, fields of other types, and members that are none.
        """
        if not isinstance(data, Mapping) or data.get("format", FORMAT) != FORMAT:
            raise ProXError(f"{source} is not a family of format {FORMAT}")
        members = () if planned and "members" not in data else data.get("members")
        if not isinstance(members, tuple) and (not isinstance(members, list) or not members):
            raise ProXError(f"{source} is not a family: it has no list of members")
        if len(members) > MOST_MEMBERS:
            raise ProXError(f"{source} names {len(members):,} members, at most {MOST_MEMBERS:,} are allowed")
        known = {field.name for field in fields(cls)} - {"members"}
        given = {name: data[name] for name in known if name in data}
        if PROGRESS in data:
            given.setdefault("progress", data[PROGRESS])
        family = typed(cls, given, str(source))
        named = tuple(NamedMember.from_json(member, family.measure, source) for member in members)
        if family.surface_tolerance_mm is not None:
            check_tolerance(family.surface_tolerance_mm, f"{source}: surface_tolerance_mm")
        labels = {label for member in named for label in (*(member.scores or ()), *(member.surface_dice or ()))}
        if len(labels) * len(named) > MOST_SCORES:
            raise ProXError(
                f"{source} has scores of {len(labels):,} labels, of {len(named):,} members; {MOST_SCORES:,} are allowed"
            )
        license = printable(" ".join((family.license or "").split()))
        if len(license) > MOST_LICENSE:
            raise ProXError(
                f"{source}: license has {len(license):,} characters, at most {MOST_LICENSE:,} are allowed; got {license!r:.80}"
            )
        return replace(family, members=named, license=license or None)

    def to_json(self) -> dict[str, Any]:
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"format": FORMAT, **data, "members": [member.to_json(self.measure) for member in self.members]}

    def write(self, folder: Path) -> None:
        """As family.json of ``folder``, with the version that writes it."""
        write_json(replace(self, version=__version__).to_json(), folder / FAMILY)

    def find(self, which: str) -> tuple[str, Subnet]:
        """Name and subnet of ``which``: a member's name, or the path of a JSON file with a subnet.

        A file's name is the member's. Raises ProXError for an unknown name, with the known ones, for a file whose name does
        not do for that, and for one that holds no subnet.
        """
        members = {member.name: member.subnet for member in self.members}
        if which.endswith(".json"):
            data, name = read_json(which), Path(which).stem
            subnet = data.get("subnet", data) if isinstance(data, dict) else data
            if not FILE.fullmatch(name):
                raise ProXError(
                    f"{which}: a file's name becomes the member's, so it has letters, digits, single _, - and dots, "
                    f"the first and the last being a letter or digit; got {name!r:.80}"
                )
            if name in members:
                raise ProXError(f"{which}: {name!r} is the name of another member; give the file a name of its own")
            return name, Subnet.from_json(subnet)
        if which not in members:
            raise ProXError(f"there is no member {which!r}; known: {', '.join(members)}, or the path of a JSON file")
        return which, members[which]

    def named(self, subnet: Subnet) -> NamedMember | None:
        """The member that is ``subnet``, the first of several."""
        return next((member for member in self.members if member.is_of(subnet)), None)
