"""The core runs where nnU-Net, MONAI and network libraries are not installed; a family imports its own alone."""

import subprocess
import sys
from pathlib import Path

import pytest

import monai_prox

ADAPTED = ("nnunetv2", "batchgenerators", "batchgeneratorsv2", "monai", "nibabel", "SimpleITK", "typer", "matplotlib")
FAMILIES = {"unet": "dynamic_network_architectures", "mobilenet": "torchvision"}
# Imports one family after the other, each where no other has been imported and the others' libraries are not to be found
ONE_BY_ONE = f"""
import importlib
for family, library in {FAMILIES!r}.items():
    for name in [name for name in sys.modules if name.startswith(("monai_prox.families", *{(*FAMILIES.values(),)!r}))]:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys({(*FAMILIES.values(),)!r}))
    del sys.modules[library]
    importlib.import_module(f"monai_prox.families.{{family}}")
"""
CORE = "monai_prox, monai_prox.training.engine, monai_prox.training.calibrate, monai_prox.core.named_members, monai_prox.files"


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a fresh interpreter where the libraries above are not to be found."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({(*ADAPTED, *FAMILIES.values())!r}))\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)


def test_the_core_needs_no_adapted_library_and_a_family_only_its_networks() -> None:
    done = run(f"import {CORE}\n{ONE_BY_ONE}")
    assert done.returncode == 0, done.stderr


def test_predictions_import_no_statistics() -> None:
    """scipy.stats takes 50 MB and a second."""
    code = "import sys, monai_prox.runtime.prediction, monai_prox.runtime.model; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Each in a process of its own, forked before any of them is imported
FIRST = """
import gc, importlib, os, sys
import dynamic_network_architectures.architectures.unet, highdicom, ignite.engine, matplotlib, monai.engines, monai.handlers
import nnunetv2.training.nnUNetTrainer.nnUNetTrainer, onnxruntime.quantization, onnxscript, optuna, scipy, torch.onnx
import torchvision, typer
gc.disable()
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(name)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""


@pytest.mark.slow
def test_every_module_can_be_the_first_that_is_imported() -> None:
    package = Path(monai_prox.__file__).parent
    names = [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in sorted(package.rglob("*.py"))]
    names = [name.removesuffix(".__init__") for name in names]
    done = subprocess.run([sys.executable, "-c", FIRST, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and len(names) > 50, done.stderr


def test_a_blocked_library_is_blocked() -> None:
    assert "import of nnunetv2 halted" in run("import nnunetv2").stderr
