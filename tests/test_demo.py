"""The demo as a user runs it, with a trainer of a few steps."""

import json
from pathlib import Path

import pytest
from commands import fresh
from nnunet_task import environment, run

pytest_plugins = ["nnunet_fixtures"]


@pytest.mark.slow
def test_the_demo_ends_with_stock_models_a_table_and_a_plot(tiny_trainers: Path, tmp_path: Path) -> None:
    work = tmp_path / "demo"
    command = ["monai-prox", "demo", "--work", str(work), "--trainer", "ProXTrainerTiny", "--device", "cpu", "--cases", "2"]
    output = run(command, environment(nnUNet_extTrainer=tiny_trainers), start=fresh)
    rows = json.loads((work / "table.json").read_text())
    assert [row["name"] for row in rows] == ["smallest", "middle", "largest"]
    assert rows[0]["parameters"] < rows[-1]["parameters"] and rows[0]["macs"] < rows[1]["macs"] < rows[2]["macs"]
    assert all(set(row["scores"]) == {"anterior", "posterior"} and row["seconds"] > 0 for row in rows)
    assert (work / "family.png").read_bytes().startswith(b"\x89PNG")
    results = work / "nnUNet_results" / "Dataset990_Phantom"
    for name in ("smallest", "middle", "largest"):
        assert (
            results / f"nnUNetTrainer__nnUNetPlansDemo-prox-{name}__3d_fullres" / "fold_0" / "checkpoint_final.pth"
        ).is_file()
        assert len(list((work / "predictions" / name).glob("*.nii.gz"))) == 2
        assert name in output
