"""Where an installation puts the trainers, so that nnU-Net finds them without a variable."""

import sys
import zipfile
from pathlib import Path

import pytest
from helpers.commands import pip

from monai_prox.bundle.shipped import shipped as shipped_names

ROOT = Path(__file__).parent.parent
IN_NNUNET = "nnunetv2/training/nnUNetTrainer/variants/monai_prox/"


@pytest.mark.slow
def test_a_wheel_places_the_trainers_in_nnunet_and_in_the_package_and_has_the_bundles(tmp_path: Path) -> None:
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("monai_prox-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        whole = [name for name in names if name.startswith("monai_prox/bundles/")]
        thin = archive.read(IN_NNUNET + "prox_trainers.py").decode()
    assert {IN_NNUNET + "__init__.py", IN_NNUNET + "prox_trainers.py"} <= names
    assert "monai_prox/nnunet_trainers/prox_trainers.py" in names
    shipped = (path for name in shipped_names() for path in (ROOT / "bundles" / name).rglob("*") if path.is_file())
    written = {"models", "eval"}  # by trainings
    shipped = {path.relative_to(ROOT) for path in shipped if not written & {*path.parts}}
    assert {f"monai_prox/{path.as_posix()}" for path in shipped} == {*whole}
    assert thin == (ROOT / "nnunet_trainers" / "prox_trainers.py").read_text()


def test_nnunet_finds_every_trainer_of_this_installation_without_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds for `pip install .` and `pip install -e .`, whichever this environment has."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from monai_prox.nnunet import variants

    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    for name in variants.__all__:
        assert recursive_find_trainer_class_by_name(name) is getattr(variants, name)
