"""The supported versions, as in pyproject.toml and so in the package's metadata, and the installed versions."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

EXTRAS = ("", "onnx", "openvino", "search", "mlflow", "dicom", "publish")  # "" stands for packages of every installation
# By the module, if its name is another
PROJECTS = {"PIL": "pillow", "huggingface_hub": "huggingface-hub", "ignite": "pytorch-ignite"}


class UnsupportedVersionWarning(UserWarning):
    """A package has a version that this package is not tested with. It may work."""


@dataclass(frozen=True)
class Requirement:
    """A package that is needed.

    Args:
        name: name of the package, or "Python".
        supported: supported versions.
        installed: installed version, or None.
    """

    name: str
    supported: SpecifierSet
    installed: str | None

    @property
    def problem(self) -> str | None:
        """What is wrong with the installed version and what to do, or None."""
        specifier = f"{self.name}{self.supported}"
        remedy = f"use {specifier}" if self.name == "Python" else f"pip install '{specifier}'"
        if self.installed is None:
            return f"not installed; {remedy}"
        if not self.supported.contains(self.installed, prereleases=True):
            return f"{self.installed} is not supported by monai-prox; {remedy}"
        return None


def requirements() -> Iterator[Requirement]:
    """Python and all packages that are always needed.

    Returns:
        Nothing if this package is not installed.
    """
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
    """The message for a module that is not installed, with the pip command that installs it.

    For an optional package the command installs its extra.

    Args:
        module: name of the module.
    """
    name = module.partition(".")[0]
    project = PROJECTS.get(name, name).lower()
    for extra, needed in extras().items():
        for requirement in needed:
            if requirement.name.lower() == project:
                command = install_command(extra) if extra else f"pip install '{requirement.name}{requirement.supported}'"
                return f"{name} is not installed: {command}"
    return f"{name} is not installed: pip install {project}"


def install_command(extra: str) -> str:
    """The pip command that installs an extra.

    Args:
        extra: name of the extra.

    >>> install_command("onnx")
    'pip install "monai-prox[onnx]"'
    """
    return f'pip install "monai-prox[{extra}]"'


def extras() -> dict[str, list[Requirement]]:
    """The packages that each extra brings, also those of other extras in it. "" stands for packages of every installation.

    Returns:
        Nothing if this package is not installed.
    """
    try:
        import packaging.requirements as pep508

        lines = metadata("monai-prox").get_all("Requires-Dist", [])
    except ImportError:
        return {}
    by_extra: dict[str, list[Requirement]] = {extra: [] for extra in EXTRAS}
    for line in map(pep508.Requirement, lines):
        having = [extra for extra in EXTRAS if line.marker is None or line.marker.evaluate({"extra": extra})]
        if having and line.name != "monai-prox":
            by_extra[having[0]].append(Requirement(line.name, line.specifier, _installed(line.name)))
    return by_extra


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def warn_of_unsupported() -> None:
    """Warns of installed packages with unsupported versions.

    It does not raise, because nnU-Net imports this package whenever it searches for a trainer, and `monai-prox doctor` has to
    start. Missing packages are not reported, because prediction needs only a few.
    """
    for requirement in requirements():
        if requirement.installed is not None and requirement.problem is not None:
            warnings.warn(f"{requirement.name} {requirement.problem}", UnsupportedVersionWarning, stacklevel=3)
