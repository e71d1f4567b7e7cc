"""The core runs where nnU-Net and MONAI are not installed, and the space where torch is not asked for."""

import subprocess
import sys

ADAPTED = ("nnunetv2", "batchgenerators", "batchgeneratorsv2", "monai", "nibabel", "SimpleITK", "typer", "matplotlib")
FAMILY = ("dynamic_network_architectures",)


def imports(modules: str, without: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Imports ``modules`` in a fresh interpreter where those of ``without`` are not to be found."""
    code = f"import sys\nfor name in {without!r}:\n    sys.modules[name] = None\nimport {modules}\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_core_and_the_unet_family_need_no_adapted_library() -> None:
    done = imports(
        "monai_prox, monai_prox.engine, monai_prox.families.unet, monai_prox.cost, monai_prox.probes", ADAPTED
    )
    assert done.returncode == 0, done.stderr


def test_the_core_needs_no_network_library() -> None:
    done = imports("monai_prox.engine, monai_prox.cost, monai_prox.probes, monai_prox.files", ADAPTED + FAMILY)
    assert done.returncode == 0, done.stderr


def test_a_blocked_library_is_blocked() -> None:
    done = imports("nnunetv2", ADAPTED)
    assert done.returncode != 0 and "nnunetv2" in done.stderr
