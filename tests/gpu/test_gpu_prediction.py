"""Members predict on a GPU what they predict on the CPU, and commands take it as --device."""

import json
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers.devices import SLOW_ON_CPU
from helpers.nnunet_task import CPU, TWO_MEMBERS, bare_model, bare_plans, write_held_out
from helpers.validation_batches import PATCH
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from monai_prox.export.nnunet import export_nnunet
from monai_prox.latency import measure
from monai_prox.search.torch_runner import runnable
from monai_prox.trained.nnunet_source import TrainedNNUNet


@pytest.mark.usefixtures("exact")
def test_a_member_runs_on_a_device_by_its_name_and_by_its_number(device: torch.device, bare: Path) -> None:
    source = TrainedNNUNet.open(bare_model(bare_plans(patch=PATCH)).path)
    x = np.random.default_rng(0).normal(size=(1, 1, *PATCH)).astype(np.float32)
    for which in ("smallest", "largest"):
        network = source.network(source.member(which)[1])
        expected = runnable(deepcopy(network), "cpu")(x)
        for name in (device.type, f"{device.type}:0"):
            on_device = deepcopy(network)
            np.testing.assert_allclose(runnable(on_device, name)(x), expected, rtol=1e-3, atol=1e-3)
            assert {weight.device.type for weight in on_device.parameters()} == {device.type}


def test_nnunet_predicts_with_an_exported_member(device: torch.device, bare: Path) -> None:
    folder = export_nnunet(TrainedNNUNet.of(bare_model(bare_plans(patch=PATCH))), "smallest")
    x = torch.randn(1, 24, 30, 24, generator=torch.Generator().manual_seed(0))
    logits = []
    for place in (CPU, device):
        predictor = nnUNetPredictor(use_mirroring=False, device=place, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), None)
        logits.append(predictor.predict_logits_from_preprocessed_data(x).float().cpu())
    expected, found = logits
    assert float((found.argmax(0) == expected.argmax(0)).float().mean()) > 0.98  # nnU-Net's is of half precision on a GPU
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


# ---------------------------------------------------------------------- commands
def named(device: torch.device) -> tuple[str, ...]:
    """What --device takes for it: a GPU has a number, too."""
    return ("cuda", "cuda:0") if device.type == "cuda" else ("cpu",)


def test_profile_measure_takes_it(device: torch.device, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer")
    from helpers.in_process import prox

    monkeypatch.setattr(measure, "SECONDS", 0)
    monkeypatch.setattr(measure, "ROUNDS", 1)
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}))
    words = ["profile", "measure", model.path, "--members", 8, "--runtime", "torch", "-o", bare / "here.json"]
    where = f" on {torch.cuda.get_device_name()}" if device.type == "cuda" else ""
    for name in named(device):
        done = prox(*words, "--device", name)
        assert done.code == 0, done.err
        assert json.loads((bare / "here.json").read_text())["runtime"] == f"torch {torch.__version__}{where}"


@SLOW_ON_CPU
def test_search_takes_it(device: torch.device, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer")
    pytest.importorskip("optuna")
    from helpers.in_process import prox

    from monai_prox.search import study

    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}))
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["one"]).parent))
    words = ["search", model.path, "--trials", 2, "--finalists", 1]
    for number, name in enumerate(named(device)):
        with patch.object(study, "runnable", wraps=study.runnable) as ran:
            done = prox(*words, "-o", bare / str(number), "--device", name)
        assert done.code == 0, done.err
        assert {call.args[1] for call in ran.call_args_list} == {name}
