"""The oldest supported versions are those that CI tries, and others are reported where the package is imported."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from monai_prox.cli import doctor
from monai_prox.requirements import missing, warn_of_unsupported

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TESTS = Path(__file__).parent


def installed(name: str, version: str, folder: Path) -> None:
    """What metadata are read from, of a package that is not there."""
    about = folder / f"{name}-{version}.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def importing(*options: str, first: str = "pass") -> str:
    """What a fresh interpreter says when it imports the package."""
    command = [sys.executable, *options, "-c", f"import sys; {first}; import monai_prox"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    of_users = extras.keys() - {"benchmarks", "test", "dev", "docs"}
    named = [*project["dependencies"], *(line for name in of_users for line in extras[name])]
    asked = [Requirement(line) for line in named if not line.startswith("monai-prox")]
    floors = {one.name: [Version(part.version) for part in one.specifier if part.operator == ">="] for one in asked}
    lines = [line for line in (TESTS / "oldest.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [line.split("==") for line in lines]
    assert floors == {name: [Version(version)] for name, version in pins}


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            "onnxscript.ir",
            r'^onnxscript is not installed: pip install "monai-prox\[onnx\]"$',
        ),
        ("onnxruntime", r'^onnxruntime is not installed: pip install "monai-prox\[onnx\]"$'),
        ("openvino", r'pip install "monai-prox\[openvino\]"$'),
        ("optuna", r'pip install "monai-prox\[search\]"$'),
        ("mlflow.tracking", r'^mlflow is not installed: pip install "monai-prox\[mlflow\]"$'),
        ("highdicom.seg", r'^highdicom is not installed: pip install "monai-prox\[dicom\]"$'),
        ("pydicom", r'^pydicom is not installed: pip install "monai-prox\[dicom\]"$'),
        ("PIL.Image", r"^PIL is not installed: pip install 'pillow>=[0-9.]+'$"),
        ("SimpleITK", r"(?i)pip install 'simpleitk>=[0-9.]+'$"),
        ("elsewhere", r"^elsewhere is not installed: pip install elsewhere$"),
    ],
)
def test_a_missing_package_comes_with_the_pip_command(module: str, words: str) -> None:
    assert re.search(words, missing(module))


def test_supported_versions_are_not_spoken_of() -> None:
    assert importing() == ""


@pytest.mark.parametrize(
    ("name", "version"),
    [("torch", "1.13.1"), ("torch", "2.9.1"), ("monai", "1.3.0"), ("nnunetv2", "2.5.2"), ("typer", "0.9.0")],
)
def test_an_unsupported_version_is_reported_at_import(name: str, version: str, tmp_path: Path) -> None:
    installed(name, version, tmp_path)
    reported = importing(first=f"sys.path.insert(0, {str(tmp_path)!r})")
    (supported,) = [one.specifier for one in map(Requirement, metadata.requires("monai-prox") or []) if one.name == name]
    message = f"UnsupportedVersionWarning: {name} {version} is not supported by monai-prox; pip install '{name}{supported}'"
    assert reported.count("UnsupportedVersionWarning") == 1 and message in reported


def test_the_packages_of_extras_are_left_alone(tmp_path: Path) -> None:
    installed("optuna", "2.0.0", tmp_path)
    assert importing(first=f"sys.path.insert(0, {str(tmp_path)!r})") == ""


def test_an_unsupported_python_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.warns(UserWarning, match=r"^Python 3\.9\.18 is not supported by monai-prox; use Python>=3\.10$"):
        warn_of_unsupported()


@pytest.mark.filterwarnings("error")
def test_what_is_not_installed_is_reported_by_the_doctor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("monai_prox.requirements.version", version)
    warn_of_unsupported()
    findings = {finding.what: finding for finding in doctor.versions()}
    assert findings["Python"].good and not findings["torch"].good
    assert findings["torch"].detail.startswith("not installed; pip install 'torch")


def test_nothing_is_said_where_nothing_can_be_known() -> None:
    """Without metadata, as in a checkout that is not installed, and without `packaging`."""
    found = f"sys.path.insert(0, {str(TESTS.parent)!r}); import types; "
    lazy = "sys.modules['lazy_loader'] = types.SimpleNamespace(attach_stub=lambda *_: (None, None, None))"
    assert importing("-S", first=found + lazy) == ""
