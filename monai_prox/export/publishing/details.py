"""What only people can say of a family that they publish."""

from __future__ import annotations

import re
from dataclasses import dataclass

from monai_prox.errors import ProXError, printable
from monai_prox.export.bundle import VERSION
from monai_prox.export.prediction import check_plain
from monai_prox.export.publishing.licence import Licence

NUMBERS = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}")
OWNER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")  # what Hugging Face allows
ADDRESS = re.compile(r"https?://[^\s\"'<>()]+")
HUB = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class Details:
    """What only people can say.

    authors, copyright: of the weights, a line each. licence: of the weights. version: of the bundles.
    owner: user or organisation on Hugging Face that the bundles will belong to, or url: the address of another place, in which
    each bundle has a folder; both are None if the place is not known.
    """

    authors: str
    copyright: str
    licence: Licence
    version: str = VERSION
    owner: str | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        for option in ("authors", "copyright"):
            text = getattr(self, option)
            if not text.strip() or printable(text) != text:
                raise ProXError(f"--{option} is {text!r:.80}; it must be one line of text")
        check_plain([self.authors, self.copyright])
        check_version(self.version, "--version")
        if self.owner is not None:
            check_owner(self.owner)
            if self.url is not None:
                raise ProXError("--owner and --url are two places of the weights; give one of them")
        if self.url is not None and not ADDRESS.fullmatch(self.url):
            raise ProXError(f"--url is {self.url!r:.80}; it must be an address such as https://example.org/weights")

    def address(self, bundle: str, path: str) -> str | None:
        """Where a file of a bundle will be, None if its place is not known.

        Args:
            bundle: name of the bundle.
            path: of the file within the bundle.
        """
        if self.owner is not None:  # of this version, so that the digest stays right when there is another
            return f"{HUB}/{self.owner}/{bundle}/resolve/{self.version}/{path}"
        return None if self.url is None else f"{self.url.rstrip('/')}/{bundle}/{path}"


def check_version(version: object, what: str) -> str:
    """The version. what: where it stands. Raises ProXError unless it is three numbers."""
    if not isinstance(version, str) or not NUMBERS.fullmatch(version):
        raise ProXError(f"{what} is {version!r:.80}; it must be three numbers, such as {VERSION}")
    return version


def check_owner(owner: str) -> str:
    """The owner. Raises ProXError for what is no name on Hugging Face."""
    if not OWNER.fullmatch(owner):
        raise ProXError(f"--owner is {owner!r:.80}; it must be the name of a user or an organisation on Hugging Face")
    return owner
