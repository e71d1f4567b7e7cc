"""The card of a family: README.md as Hugging Face shows it, with the members, their front, and how each is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import yaml

from monai_prox.errors import ProXError, printable
from monai_prox.export.bundle_docs import WIDTH
from monai_prox.export.publishing.details import HUB, Details
from monai_prox.report import count, describe_choices
from monai_prox.runtime.kinds import SEGMENTATION
from monai_prox.trained.family_file import NamedMember
from monai_prox.trained.source import Trained

CARD, FRONT = "README.md", "front.png"
RULE = "---"  # around the front matter
PIPELINES = {True: "image-segmentation", False: "image-classification"}  # Hugging Face's tasks
ABOUT = ("task", "intended_use", "image_classes", "pred_classes", "data_source")  # of metadata, what the card repeats

MANY = "One training gave a family of networks. Each member is a MONAI bundle; the table says what it costs and how good it is."
ONE = "A network of nnU-Net as a MONAI bundle."


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A member on the card. bundle: its name. metadata: of the bundle."""

    member: NamedMember
    bundle: str
    metadata: Mapping[str, Any]


def front_matter(source: Trained, details: Details) -> str:
    """What a card begins with, for Hugging Face.

    Args:
        source: the family.
        details: what only people can say.
    """
    entries = {
        **details.licence.tags(),
        "library_name": "monai",
        "pipeline_tag": PIPELINES[source.kind is SEGMENTATION],
        "tags": ["monai", "medical"],
    }
    return f"{RULE}\n{yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)}{RULE}\n"


def read_front_matter(card: Path) -> tuple[str, Mapping[str, Any]]:
    """What a card begins with, as text and as plain data.

    Args:
        card: the card.

    Raises:
        ProXError: there is no card, or its beginning names no licence.
    """
    if not card.is_file():
        raise ProXError(f"there is no {card}; give the folder that monai-prox publish has written")
    begin, *rest = card.read_text(encoding="utf-8", errors="replace").split(f"{RULE}\n", 2)
    try:
        entries = yaml.safe_load(rest[0]) if not begin and len(rest) == 2 else None
    except (yaml.YAMLError, RecursionError):
        entries = None
    if not isinstance(entries, dict) or not isinstance(entries.get("license"), str):
        raise ProXError(
            f"{card} does not begin with lines between {RULE} that name the license of the weights; publish it again"
        )
    return f"{RULE}\n{rest[0]}{RULE}\n", entries


def family_card(name: str, source: Trained, entries: Sequence[Entry], details: Details, *, data: str, picture: bool) -> str:
    """The card.

    Args:
        name: name of the family.
        source: the family.
        entries: the members, at least one.
        details: what only people can say.
        data: the licence of the data, in words.
        picture: whether there is a picture of the front beside the card.
    """
    about = entries[0].metadata
    said = {key: printable(str(about.get(key, "not stated"))) for key in ABOUT}
    image = f"![{source.measure.capitalize()} over MACs of the members]({FRONT})\n\n" if picture else ""
    references = "\n".join(f"- {printable(str(reference))}" for reference in about.get("references", ()))
    return f"""{front_matter(source, details)}
# {name}

{said["task"]}. {MANY if source.family().recipe else ONE} Intended use: {said["intended_use"]}.

{image}## Members

{_table(source, entries, details)}

{_caption(source, entries)}

## Use

With MONAI and the packages that a bundle's configs/metadata.json names; all bundles are used as this one is:

```bash
{_commands(entries[0].bundle, details)}
```

## Input and output

- Images: {said["image_classes"]}
- Output: {said["pred_classes"]}

## Training

{_training(source)}

Data: {said["data_source"]}.

{data.strip()}

## License

{_licence(details)}

## Citation

Authors: {details.authors}

{references}
"""


def _table(source: Trained, entries: Sequence[Entry], details: Details) -> str:
    measure, surface = source.measure.capitalize(), any(entry.member.surface_dice for entry in entries)
    scored = any(entry.member.scores for entry in entries)
    head = ["bundle", "parameters", "MACs", *[measure] * scored, *["surface Dice"] * surface, "choices"]
    lines = [head, ["---", *["---:"] * (len(head) - 2), "---"]]
    for entry in entries:
        member = entry.member
        place = f"models/{entry.bundle}" if details.owner is None else f"{HUB}/{details.owner}/{entry.bundle}"
        means = [*[member.scores] * scored, *[member.surface_dice] * surface]
        scores = ["-" if (mean := (score or {}).get("mean")) is None else f"{mean:.3f}" for score in means]
        costs = [count(member.parameters), count(member.macs)]
        lines.append([f"[{entry.bundle}]({place})", *costs, *scores, describe_choices(member.subnet)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _caption(source: Trained, entries: Sequence[Entry]) -> str:
    size, segments = " x ".join(map(str, source.size)), source.kind is SEGMENTATION
    of = f"a patch of {size} voxels" if segments else f"an image of {size} pixels"
    macs = f"MACs are those of {of} at the training's full resolution."
    if not any(entry.member.scores for entry in entries):
        return f"{macs} The members were not measured."
    return f"{macs} {source.measure.capitalize()} is the mean over the classes, of {printable(source.scored)}."


def _commands(bundle: str, details: Details) -> str:
    run = "python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir OUTPUT"
    if details.owner is None:
        return f"cd models/{bundle} && {run}"
    repo = f"--source huggingface_hub --repo {details.owner}/{bundle} --version {details.version}"
    return f"python -m monai.bundle download --name {bundle} {repo} --bundle_dir .\ncd {bundle} && {run}"


def _training(source: Trained) -> str:
    family = source.family()
    host = f"`{family.trainer}`" if family.trainer else "MONAI"
    if family.recipe is None:
        return f"Trained by {host}, as one network."
    epochs = f", {family.epochs} epochs" if family.epochs else ""
    return (
        f"Trained once by {host} with [monai-prox](https://doi.org/10.1016/j.neucom.2024.127512) {family.version}, recipe "
        f"`{family.recipe}`{epochs}. The members were cut out without retraining."
    )


def _licence(details: Details) -> str:
    licence = details.licence
    weights = f"The model weights: {licence.name} (`{licence.identifier}`). {details.copyright}."
    return fill(f"{weights} LICENSE in each bundle says it, and the licence of the other files.", WIDTH)
