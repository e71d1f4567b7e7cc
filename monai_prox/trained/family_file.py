"""Members by name, as a family.json lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.files import read_json
from monai_prox.typed import check_types

FAMILY = "family.json"
NAME = re.compile(r"[A-Za-z0-9_-]+")  # it becomes part of paths
# Of a file, without its ending: part of the names of plans, in which two underscores would divide a model folder's name
FILE = re.compile(r"(?!.*__)[^\W_]([\w.-]*[^\W_])?")


MOST_MEMBERS, MOST_SCORES = 1_000, 100_000  # that a table shows
MEMBER = {"name": str, "subnet": Mapping[str, tuple[float, ...]], "parameters": int, "macs": int}
SCORES = dict.fromkeys(("dice", "accuracy"), Mapping[str, float | None] | None)
FURTHER = {  # what is in a family.json beside its members, of which either host writes some
    "recipe": str,
    "epochs": int,
    "validated_epoch": int | None,
    "validation_cases": tuple[str, ...],
    "measure": Literal["dice", "accuracy"],
    "regions": Mapping[str, tuple[int, ...]] | None,
    "closed": Mapping[str, int] | None,
    "mirroring": tuple[int, ...] | None,
}


def check_family(data: Any, source: Path | str) -> dict[str, Any]:
    """Returns what a family.json holds, with a score of each member, which may be None.

    Raises ProXError, naming ``source``, unless it has a list of named members.
    """
    members = data.get("members") if isinstance(data, dict) else None
    if not isinstance(members, list) or not members:
        raise ProXError(f"{source} is not a family: it has no list of members")
    if len(members) > MOST_MEMBERS:
        raise ProXError(f"{source} names {len(members):,} members, at most {MOST_MEMBERS:,} are allowed")
    check_types(data, FURTHER, source, missing=True)
    labels = set[str]()
    for member in members:
        name = member.get("name") if isinstance(member, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ProXError(f"{source}: a member has a name of letters, digits, - and _, got {member!r:.120}")
        check_types(member, MEMBER, f"{source}, the member {name:.40}")
        check_types(member, SCORES, f"{source}, the member {name:.40}", missing=True)
        labels.update(*(member.get(measure) or () for measure in SCORES))
        member.setdefault(data.get("measure", "dice"), None)
    if len(labels) * len(members) > MOST_SCORES:
        raise ProXError(
            f"{source} has scores of {len(labels):,} labels, of {len(members):,} members; {MOST_SCORES:,} are allowed"
        )
    return data  # type: ignore[no-any-return]


def find_member(family: Mapping[str, Any], which: str) -> tuple[str, Subnet]:
    """Name and subnet of ``which``: a member's name in a family.json, or the path of a JSON file with a subnet.

    A file's name is the member's. Raises ProXError for an unknown name, with the known ones, for a file whose name does not do
    for that, and for one that holds no subnet.
    """
    members = {member["name"]: member for member in family["members"]}
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
    return which, Subnet.from_json(members[which]["subnet"])
