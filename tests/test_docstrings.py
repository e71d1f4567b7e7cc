"""Every name of the public face has a docstring that names its arguments, and its examples run."""

import doctest
import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import monai_prox
import monai_prox.bundle

FACES = (monai_prox, monai_prox.bundle)
NAMES = {f"{face.__name__}.{name}": (face, name) for face in FACES for name in dir(face) if name != "bundle"}
KINDS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def public(name: str) -> Any:
    face, attribute = NAMES[name]
    return getattr(face, attribute)


def own_classes(cls: type) -> list[type]:
    """The class and its bases in this package."""
    return [base for base in cls.__mro__ if base.__module__.startswith("monai_prox")]


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that this package defines, without those that a subclass overrides."""
    found: dict[str, Any] = {}
    for base in own_classes(cls):
        for name, value in vars(base).items():
            if not name.startswith("_") and (inspect.isroutine(value) or hasattr(value, "func") or isinstance(value, property)):
                found.setdefault(name, value)
    yield from found.items()


def parameters(call: Callable[..., Any]) -> set[str]:
    return {
        name
        for name, parameter in inspect.signature(call).parameters.items()
        if name not in ("self", "cls")
        and not name.startswith("_")
        and not (parameter.kind in KINDS and name in ("args", "kwargs"))
    }


def constructed(cls: type) -> set[str]:
    """The arguments of a class, if this package says which they are."""
    own = any("__init__" in vars(base) for base in own_classes(cls)) or hasattr(cls, "_fields")
    return parameters(cls) if own and not getattr(cls, "_is_protocol", False) else set()


def documented(docstring: str) -> set[str]:
    """The names in the section Args, and in that of the method of the protocol that is referred to."""
    if reference := re.search(r"See ``Family\.(\w+)``\.", docstring):
        return documented(inspect.getdoc(getattr(monai_prox.Family, reference[1])) or "")
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", docstring, re.MULTILINE)
    return set(re.findall(r"^ {4}\*{0,2}(\w+):", section[1], re.MULTILINE)) if section else set()


def faults(name: str, value: Any, names: set[str]) -> list[str]:
    docstring = inspect.getdoc(value) if value.__doc__ else None
    if not docstring:
        return [f"{name} has no docstring"]
    first = docstring.partition("\n")[0]
    given = documented(docstring)
    return [
        *([] if first.rstrip().endswith((".", ":")) else [f"{name}: the first line is no sentence: {first}"]),
        *(f"{name}: {argument} is not under Args" for argument in sorted(names - given)),
        *(f"{name}: {argument} is under Args, but is no argument" for argument in sorted(given - names)),
    ]


def faults_of_methods(name: str, cls: type) -> Iterator[str]:
    for method, value in methods(cls):
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        call = value if inspect.isfunction(value) else None
        yield from faults(f"{name}.{method}", value, parameters(call) if call else set())


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_what_it_is_and_takes(name: str) -> None:
    value = public(name)
    if inspect.isclass(value):
        problems = [*faults(name, value, constructed(value)), *faults_of_methods(name, value)]
    else:
        problems = faults(name, value, parameters(value))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("module", sorted({public(name).__module__ for name in NAMES}))
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    results = doctest.testmod(sys.modules[module], optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not results.failed, f"{results.failed} examples of {module} fail, see above"


def test_a_missing_argument_is_noticed() -> None:
    """The check is no check of nothing."""

    def scale(image: int, factor: int) -> int:
        """Scales an image.

        Args:
            image: the image.
            size: nothing.
        """
        return image * factor

    problems = faults("scale", scale, parameters(scale))
    assert problems == ["scale: factor is not under Args", "scale: size is under Args, but is no argument"]
    scale.__doc__ = None
    assert faults("scale", scale, set()) == ["scale has no docstring"]
