"""Members by name, as a family.json lists them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError
from monai_prox.files import read_json
from monai_prox.space import Subnet


def find_member(family: Mapping[str, Any], which: str) -> tuple[str, Subnet]:
    """Name and subnet of ``which``: a member's name in a family.json, or the path of a JSON file with a subnet.

    Raises ProXError for an unknown name, with the known ones, and for a file that holds no subnet.
    """
    members = {member["name"]: member for member in family["members"]}
    if which.endswith(".json"):
        data = read_json(which)
        subnet = data.get("subnet", data) if isinstance(data, dict) else data
        name = "".join(c for c in Path(which).stem if c.isalnum() or c == "-") or "member"
        if name in members:
            raise ProXError(f"{which}: {name!r} is the name of another member; give the file a name of its own")
        return name, Subnet.from_json(subnet)
    if which not in members:
        raise ProXError(f"there is no member {which!r}; known: {', '.join(members)}, or the path of a JSON file")
    return which, Subnet.from_json(members[which]["subnet"])
