"""The bundle of a member, with what only people can say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import yaml
from torch import nn

from monai_prox.errors import ProXError
from monai_prox.export.bundle import SCHEMA, Exportable
from monai_prox.export.bundle_docs import LICENCE_NOTE, WIDTH
from monai_prox.export.folder import LISTING
from monai_prox.export.publishing.details import Details
from monai_prox.files import digest_of, read_json, write_json

METADATA, README, LICENSE, LARGE_FILES = "configs/metadata.json", "docs/README.md", "LICENSE", "large_files.yml"
WEIGHTS = ("models/model.pt", "models/model.ts")
TEXT: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # of somebody's files, which may have another encoding
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")  # becomes part of a Python module's name, and of one on Hugging Face


def check_name(name: str) -> str:
    """The name of a family. Raises ProXError for one that can be no part of the names of bundles and of their tests."""
    if not NAME.fullmatch(name):
        raise ProXError(
            f"the family is called {name!r:.80}; its name is that of bundles, too, so it has letters, digits, _: give --name "
            "such as hippocampus_mri_segmentation"
        )
    return name


def bundle_name(family: str, member: str) -> str:
    """The name of a member's bundle.

    Args:
        family: name of the family.
        member: name of the member.

    >>> bundle_name("spleen_ct", "under-2M")
    'spleen_ct_under_2M'
    """
    return f"{family}_{re.sub(r'[^A-Za-z0-9]', '_', member)}"


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A member, ready to be written as a bundle whose metadata, also that in its TorchScript, says what only people can say."""

    member: Exportable
    details: Details
    change: str

    @property
    def network(self) -> nn.Module:
        return self.member.network

    def metadata(self) -> dict[str, Any]:
        return signed(self.member.metadata(), self.details, self.change)

    def configurations(self) -> dict[str, dict[str, Any]]:
        return self.member.configurations()

    def readme(self) -> str:
        return self.member.readme()

    def data_license(self) -> str:
        return self.member.data_license()


def signed(metadata: Mapping[str, Any], details: Details, change: str) -> dict[str, Any]:
    """A bundle's metadata with what only people can say. If it names no schema, it gets the model zoo's.

    Args:
        metadata: the metadata.
        details: what is said.
        change: the version's entry in the changelog, which has no other: a member is a new bundle.
    """
    said = {"authors": details.authors, "copyright": details.copyright, "version": details.version}
    return {"schema": SCHEMA, **metadata, **said, "changelog": {details.version: change}}


def complete(bundle: Path, details: Details, change: str) -> dict[str, Any]:
    """Writes into the files of an exported bundle what only people can say, and removes what lists an export.

    Args:
        bundle: folder of the bundle, named like it.
        details: what is said.
        change: as of ``signed``.

    Returns:
        The bundle's metadata.

    Raises:
        ProXError: the bundle has no metadata.
    """
    if not (bundle / METADATA).is_file():
        raise ProXError(f"the family's bundle has no {METADATA}, which the model zoo and MONAI's programs ask for; write one")
    metadata = read_json(bundle / METADATA)
    if not isinstance(metadata, dict):
        raise ProXError(f"{METADATA} of the family's bundle is no object; it must be one")
    metadata = signed(metadata, details, change)
    write_json(metadata, bundle / METADATA)

    licence, readme = bundle / LICENSE, bundle / README
    code = licence.read_text(**TEXT) if licence.is_file() else None
    licence.write_text(details.licence.file(code, details.copyright), **TEXT)
    if readme.is_file():
        text, note = readme.read_text(**TEXT), licence_note(details)
        known, section = LICENCE_NOTE in text, f"{text.rstrip()}\n\n# License of the weights\n\n{note}\n"
        readme.write_text(text.replace(LICENCE_NOTE, note) if known else section, **TEXT)
    _write_large_files(bundle, details)
    (bundle / LISTING).unlink()
    return metadata


def licence_note(details: Details) -> str:
    """What the documents say of the licence."""
    licence = details.licence
    weights = f"The model weights: {licence.name} (`{licence.identifier}`). {details.copyright}."
    others = "See LICENSE, which has the licence of the other files, too. That of the data is in docs/data_license.txt."
    return fill(f"{weights} {others}", WIDTH)


def _write_large_files(bundle: Path, details: Details) -> None:
    """The file that tells the model zoo, which keeps weights elsewhere, where they are."""
    files = [
        {"path": path, "url": url, "hash_val": digest_of(bundle / path), "hash_type": "sha256"}
        for path in WEIGHTS
        if (bundle / path).is_file() and (url := details.address(bundle.name, path)) is not None
    ]
    if files:
        (bundle / LARGE_FILES).write_text(yaml.safe_dump({"large_files": files}, sort_keys=False, width=1000), encoding="utf-8")
