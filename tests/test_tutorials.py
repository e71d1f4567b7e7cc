"""The tutorials of the documentation, command by command, on small images and with trainings that learn nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.bundle_commands import ROOT, TINY, arguments, copy_bundles, monai, write_task
from helpers.nnunet_task import environment, run
from helpers.programs import Programs

pytest_plugins = ["helpers.nnunet_fixtures", "helpers.program_fixtures"]

TUTORIALS = ROOT / "docs" / "tutorials"


def shell_lines(page: str) -> list[str]:
    """All lines of the commands in a page."""
    text = (TUTORIALS / page).read_text(encoding="utf-8")
    return [
        line for block in re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]


@pytest.mark.slow
def test_the_tutorial_on_bundles(tmp_path: Path) -> None:
    copy_bundles(tmp_path)
    (tmp_path / "DATA").mkdir()
    task = write_task(tmp_path / "DATA", "msd_prox", cases=4).rename(tmp_path / "DATA" / "Task501_Liver")
    here, training = tmp_path, arguments(TINY)
    for line in shell_lines("bundles.md"):
        words = shlex.split(line)
        if words[0] == "cd":
            here = here / words[1]
        elif words[0] == "monai-prox":
            run(words, os.environ, cwd=here)
        else:
            assert words[:3] == ["python", "-m", "monai.bundle"]
            monai([str(task / "imagesTr") if word == "IMAGES" else word for word in words[3:]] + training, cwd=here)
            training = ["--num_workers", "0"] if "--subnet" not in line else []
    assert len(list((tmp_path / "bundles" / "msd_prox" / "eval").glob("*_seg.nii.gz"))) == 4
    assert len(list((here / "OUT").glob("*.nii.gz"))) == 4


@pytest.mark.slow
def test_the_tutorials_on_the_first_family_and_on_devices(demonstrated: Path, tmp_path: Path, programs: Programs) -> None:
    """By a shell, one after the other, in an environment that has everything, with what the demo has left of a phantom."""
    changes = {
        "Dataset004_Hippocampus/ProXTrainerDemo__": "Dataset990_Phantom/ProXTrainerDemoShort__",
        "profile pack": "profile pack --members 8",
        "monai-prox search": "monai-prox search --trials 2 --cases 1 --finalists 1",
        "--max-seconds 2": "--max-seconds 1000",
        "choice-fd3846bb.json": "$(ls $MODEL/search/members | head -n 1)",
        "-i IMAGES": "-i prox_demo/held_out",
    }
    shutil.copytree(demonstrated / "prox_demo", tmp_path / "prox_demo", symlinks=True)
    lines = ["set -e"]
    for line in [*shell_lines("first-family.md"), *shell_lines("device.md")]:
        if line.startswith(("python3 -m venv", ". .venv", "pip install", "monai-prox doctor", "monai-prox demo")):
            continue  # the setup, of which doctor ends with 1 without nnU-Net's variables
        for words, others in changes.items():
            line = line.replace(words, others)
        lines.append(line)
        if "profile pack" in line:  # what is done on the device
            lines += ["python -m zipfile -e clinic.zip pack", "cd $(dirname $(find pack -name measure.py))"]
            lines += [f"{sys.executable} measure.py --output $OLDPWD/device.json", "cd - > /dev/null"]
    env = environment()
    env["PATH"] = f"{programs.folder}{os.pathsep}{env['PATH']}"
    done = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert (tmp_path / "clinic.onnx").is_file() and len(list((tmp_path / "SEGMENTATIONS").glob("*.nii.gz"))) == 2
