"""The core runs where nnU-Net, MONAI and network libraries are not installed; a family imports its own alone."""

import subprocess
import sys

import pytest

ADAPTED = ("nnunetv2", "batchgenerators", "batchgeneratorsv2", "monai", "nibabel", "SimpleITK", "typer", "matplotlib")
FAMILIES = {"unet": "dynamic_network_architectures", "mobilenet": "torchvision"}
CORE = "monai_prox, monai_prox.engine, monai_prox.calibrate, monai_prox.cost, monai_prox.probes, monai_prox.files"


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a fresh interpreter where the libraries above are not to be found."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({(*ADAPTED, *FAMILIES.values())!r}))\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("family", "library"), FAMILIES.items())
def test_the_core_needs_no_adapted_library_and_a_family_only_its_networks(family: str, library: str) -> None:
    done = run(f"import {CORE}\ndel sys.modules[{library!r}]\nimport monai_prox.families.{family}")
    assert done.returncode == 0, done.stderr


def test_a_blocked_library_is_blocked() -> None:
    assert "import of nnunetv2 halted" in run("import nnunetv2").stderr
