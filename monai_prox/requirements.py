"""The versions that this package supports, as pyproject.toml and so its metadata name them, and those that are installed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet


class UnsupportedVersionWarning(UserWarning):
    """A version that this package is not tested with; what does not need what is new in a later one may work."""


@dataclass(frozen=True)
class Requirement:
    name: str
    supported: SpecifierSet
    installed: str | None

    @property
    def problem(self) -> str | None:
        wanted = f"{self.name}{self.supported}"
        remedy = f"use {wanted}" if self.name == "Python" else f"pip install '{wanted}'"
        if self.installed is None:
            return f"not installed; {remedy}"
        if not self.supported.contains(self.installed, prereleases=True):
            return f"{self.installed} is not supported by monai-prox; {remedy}"
        return None


def requirements() -> Iterator[Requirement]:
    """Of Python and all packages but those of extras; nothing is known in a checkout that is not installed."""
    try:
        import packaging.requirements as pep508
        from packaging.specifiers import SpecifierSet

        ours = metadata("monai-prox")
    except ImportError:  # PackageNotFoundError is one
        return
    yield Requirement("Python", SpecifierSet(ours["Requires-Python"]), ".".join(map(str, sys.version_info[:3])))
    for line in ours.get_all("Requires-Dist", []):
        asked = pep508.Requirement(line)
        if asked.marker is None or asked.marker.evaluate({"extra": ""}):
            yield Requirement(asked.name, asked.specifier, _installed(asked.name))


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def warn_of_unsupported() -> None:
    """Warns and goes on: nnU-Net imports this package in every search for a trainer, and `monai-prox doctor` has to start.

    What is not installed is no problem here: prediction needs only a few of the packages.
    """
    for requirement in requirements():
        if requirement.installed is not None and requirement.problem is not None:
            warnings.warn(f"{requirement.name} {requirement.problem}", UnsupportedVersionWarning, stacklevel=3)
