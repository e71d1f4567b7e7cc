"""Environments of their own, beside that of the tests."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def install(folder: Path) -> None:
    """A new environment with all packages of this one but us: we are installed as editable, and Python follows no .pth file
    that lies in the folder which another .pth file names. nnU-Net is a copy, without the trainers that we put into it.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    others = Path(sysconfig.get_path("purelib"))
    (packages / "others.pth").write_text(f"{others}\n")
    shutil.copytree(others / "nnunetv2", packages / "nnunetv2", ignore=shutil.ignore_patterns("monai_prox", "__pycache__"))
    for script in Path(sys.prefix, "bin").glob("nnUNetv2_*"):
        lines = script.read_text().splitlines(keepends=True)
        copy = folder / "bin" / script.name
        copy.write_text("".join([f"#!{folder / 'bin' / 'python'}\n", *lines[1:]]))
        copy.chmod(0o755)
