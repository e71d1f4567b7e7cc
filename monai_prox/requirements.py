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
        specifier = f"{self.name}{self.supported}"
        remedy = f"use {specifier}" if self.name == "Python" else f"pip install '{specifier}'"
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

        package = metadata("monai-prox")
    except ImportError:  # PackageNotFoundError is one
        return
    yield Requirement("Python", SpecifierSet(package["Requires-Python"]), ".".join(map(str, sys.version_info[:3])))
    for line in package.get_all("Requires-Dist", []):
        requirement = pep508.Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield Requirement(requirement.name, requirement.specifier, _installed(requirement.name))


def missing(module: str) -> str:
    """Of a module that was not found: its name, and the pip command for it and, if it is of an extra, for what goes with it."""
    name = module.partition(".")[0]
    project = PROJECTS.get(name, name).lower()
    by_extra = _extras()
    for extra, lines in by_extra.items():
        if project in (entry.lower() for entry in lines):
            packages = list(lines.values()) if extra else [line for entry, line in lines.items() if entry.lower() == project]
            break
    else:
        packages = [project]
    return f"{name} is not installed: pip install {shlex.join(packages)}"


def _extras() -> dict[str, dict[str, str]]:
    """What pip installs for each of EXTRAS, without what it shares with others, by the project's name; "" for no extra."""
    try:
        import packaging.requirements as pep508

        lines = metadata("monai-prox").get_all("Requires-Dist", [])
    except ImportError:
        return {}
    lines_by_extra: dict[str, dict[str, str]] = {extra: {} for extra in EXTRAS}
    for requirement in map(pep508.Requirement, lines):
        extras = [extra for extra in EXTRAS if requirement.marker is None or requirement.marker.evaluate({"extra": extra})]
        if extras and requirement.name != "monai-prox":
            lines_by_extra[extras[0]][requirement.name] = f"{requirement.name}{requirement.specifier}"
    return lines_by_extra


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
