"""The licence of the weights, which nobody but their trainers can name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.export.bundle import license_text
from monai_prox.export.publishing.licence_tags import TAGS

APACHE, OTHER = "apache-2.0", "other"
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]{0,95}")  # Hugging Face's examples of a name: my-license-1.0
LARGEST = 2**20  # bytes of a licence's text
CODE = "Code License\n\nThis license applies to all files except the model weights in the directory.\n\n"
RULE = f"\n{'-' * 79}\n\n"


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A licence of weights.

    tag: Hugging Face's. identifier: the tag, or of another licence the name that its owner has given it. name: in words.
    text: the whole licence, None if it is not at hand.
    """

    tag: str
    identifier: str
    name: str
    text: str | None

    @classmethod
    def of(cls, tag: str, *, name: str | None = None, file: Path | None = None) -> Licence:
        """The licence that was named.

        Args:
            tag: one of Hugging Face's list, or "other".
            name: identifier of another licence, such as my-license-1.0.
            file: its text, which another licence needs.

        Raises:
            ProXError: the tag is not in the list, another licence has no name or no text, or the file is no text.
        """
        if tag == OTHER:
            if name is None or file is None:
                raise ProXError(f"--licence {OTHER} needs --licence-name, such as my-license-1.0, and --licence-file, its text")
            if not IDENTIFIER.fullmatch(name):
                raise ProXError(f"--licence-name is {name!r:.80}; it must be small letters, digits, . and -, as my-license-1.0")
            return cls(tag=tag, identifier=name, name=name, text=_read(file))
        if tag not in TAGS:
            near = get_close_matches(tag.lower(), TAGS, n=3) or [APACHE, "cc-by-4.0"]
            raise ProXError(
                f"--licence is {tag!r:.80}; it must be a tag of https://huggingface.co/docs/hub/repositories-licenses, such as "
                f"{', '.join(near)}, or {OTHER}"
            )
        if name is not None:
            raise ProXError(f"--licence-name is for --licence {OTHER}; {tag} is called {TAGS[tag]}")
        text = license_text() if file is None and tag == APACHE else None if file is None else _read(file)
        return cls(tag=tag, identifier=tag, name=TAGS[tag], text=text)

    def tags(self) -> dict[str, str]:
        """Its entries in the front matter of a card."""
        if self.tag == OTHER:
            return {"license": OTHER, "license_name": self.identifier, "license_link": "LICENSE"}
        return {"license": self.tag}

    def file(self, code: str | None, copyright: str) -> str:
        """The file LICENSE of a bundle, in two parts as in the model zoo, or one if the code has the same licence.

        Args:
            code: licence of the bundle's other files, None if there is none.
            copyright: of the weights.
        """
        if code is not None and self.text is not None and self.text.strip() == code.strip():
            return code
        weights = (
            "Model Weights License\n\nThis license applies to the model weights in the directory.\n\n"
            f"{copyright}\n\n{self.name} ({self.identifier})\n" + ("" if self.text is None else f"\n{self.text.strip()}\n")
        )
        return weights if code is None else f"{CODE}{code.rstrip()}\n{RULE}{weights}"


def _read(file: Path) -> str:
    if not file.is_file():
        raise ProXError(f"there is no file {file}, the text of the licence")
    if file.stat().st_size > LARGEST:
        raise ProXError(f"{file} has more than {LARGEST:,} bytes, too many for the text of a licence")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ProXError(f"{file} is no text in UTF-8") from None
    if not text.strip():
        raise ProXError(f"{file} is empty; it must have the text of the licence")
    return text
