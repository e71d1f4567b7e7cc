"""Every name that users and configurations need is in monai_prox or monai_prox.bundle, at first use, and typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.refusals import refused

import monai_prox
import monai_prox.bundle

BUNDLES = Path(__file__).parents[1] / "bundles"
USE = """
import monai_prox

family: monai_prox.Family = monai_prox.MobileNetFamily(input_channels=1, num_classes=2)
supernet = monai_prox.SuperNet(family)
reveal_type(supernet.extract(family.space.smallest()))
reveal_type(monai_prox.open_trained)
monai_prox.SuperNets
"""
# What they hold is not seen from outside, and takes mypy longer than all else
SKIPPED = [*(f"torch.{part}" for part in ("_dynamo", "_functorch", "_higher_order_ops", "_inductor", "ao", "distributed"))]
SKIPPED += ["torch.export", "torch.fx", "torch.onnx", "ignite", "mlflow", "monai", "nnunetv2", "onnx", "onnxscript"]
SETTINGS = f"""
[mypy]
ignore_missing_imports = True

[mypy-{",".join(f"{name}.*" for name in SKIPPED)}]
follow_imports = skip
"""


@pytest.mark.parametrize("module", [monai_prox, monai_prox.bundle], ids=lambda module: module.__name__)
def test_every_name_is_there(module: object) -> None:
    names = dir(module)
    assert names == sorted(names) and len(names) > 10
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nowhere"):
        module.nowhere  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("file", sorted(BUNDLES.glob("*/configs/*.json")), ids=lambda file: f"{file.parts[-3]} {file.name}")
def test_configurations_name_nothing_else(file: Path) -> None:
    text = file.read_text()
    named = re.findall(r"monai_prox((?:\.\w+)+)", text) + re.findall(r"from monai_prox(?:\.bundle)? import (\w+)", text)
    for name in named:
        first, _, rest = name.removeprefix(".").partition(".")
        place, name = (monai_prox.bundle, rest.partition(".")[0]) if first == "bundle" else (monai_prox, first)
        assert name in dir(place), name


def test_an_unknown_folder_is_refused_by_the_one_door(tmp_path: Path) -> None:
    refused("there is no folder", monai_prox.open_trained, tmp_path / "nowhere")
    refused("is no bundle of a supernet", monai_prox.open_trained, tmp_path)


@pytest.mark.slow
def test_types_are_seen_from_outside(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--cache-dir", os.devnull, "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'Revealed type is "torch.nn.modules.module.Module"' in done.stdout, done.stdout
    assert "Trained" in done.stdout and 'has no attribute "SuperNets"' in done.stdout
    assert "Found 1 error" in done.stdout
