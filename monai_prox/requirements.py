"""The versions that this package supports, as pyproject.toml and so its metadata name them, and those that are installed."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

EXTRAS = ("", "onnx", "openvino", "search", "mlflow")  # "": what every installation has
PROJECTS = {"PIL": "pillow", "ignite": "pytorch-ignite"}  # of modules that have another name


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


def missing(module: str) -> str:
    """Of a module that was not found: its name, and the pip command for it and, if it is of an extra, for what goes with it."""
    name = module.partition(".")[0]
    project = PROJECTS.get(name, name).lower()
    by_extra = _extras()
    for extra, lines in by_extra.items():
        if project in (known.lower() for known in lines):
            wanted = list(lines.values()) if extra else [line for known, line in lines.items() if known.lower() == project]
            break
    else:
        wanted = [project]
    return f"{name} is not installed: pip install {shlex.join(wanted)}"


def _extras() -> dict[str, dict[str, str]]:
    """What pip installs for each of EXTRAS, without what it shares with others, by the project's name; "" for no extra."""
    try:
        import packaging.requirements as pep508

        lines = metadata("monai-prox").get_all("Requires-Dist", [])
    except ImportError:
        return {}
    found: dict[str, dict[str, str]] = {extra: {} for extra in EXTRAS}
    for one in map(pep508.Requirement, lines):
        of = [extra for extra in EXTRAS if one.marker is None or one.marker.evaluate({"extra": extra})]
        if of and one.name != "monai-prox":
            found[of[0]][one.name] = f"{one.name}{one.specifier}"
    return found


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
