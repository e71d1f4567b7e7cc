"""--device is torch's device, --profile the file of a device that was measured."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers.in_process import prox
from helpers.nnunet_task import TWO_LEVELS, TWO_MEMBERS, bare_model, bare_plans, write_held_out
from helpers.searches import hurry

from monai_prox.cli.torch_device import check_device
from monai_prox.core import cost
from monai_prox.errors import ProXError
from monai_prox.files import write_json
from monai_prox.latency import measure
from monai_prox.latency.device import fingerprint
from monai_prox.latency.pack import choose_members
from monai_prox.search import study
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "xpu", "CPU", "device.csv", "", "cuda:1\ncpu"])
@pytest.mark.parametrize("command", [["search"], ["profile", "measure"]], ids=["search", "measure"])
def test_an_unknown_device_is_one_line_before_anything_is_opened(command: list[str], device: str) -> None:
    error = prox(*command, "no/model", "--device", device).error
    assert error.startswith("--device is '") and error.endswith("allowed: cpu, cuda, cuda:1 and so on, mps")


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("cuda", 0, "--device is cuda, and torch finds no GPU on this machine"),
        ("cuda:1", 1, "--device is cuda:1, and torch finds cuda:0 on this machine"),
        ("cuda:7", 2, "--device is cuda:7, and torch finds cuda:0 to cuda:1 on this machine"),
        ("mps", 0, "--device is mps, and torch finds none on this machine"),
    ],
)
def test_a_device_that_is_not_there_is_named(device: str, gpus: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ProXError, match=f"^{message}$"):
        check_device(device)


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 1), ("cuda:0", 1), ("cuda:1", 2), ("cpu", 0), (None, 0)])
def test_a_device_that_is_there_is_taken(device: str | None, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert check_device(device) == device


def test_a_search_runs_on_the_device_and_takes_the_profile_by_its_old_name(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    model = bare_model(bare_plans(**TWO_LEVELS))
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["one"]).parent))
    source = TrainedNNUNet.open(model.path)
    family, size = source.supernet.family, source.size
    times = [
        {"subnet": subnet.to_json(), "milliseconds": 1 + 1e-5 * cost.macs(family, subnet, size)}
        for subnet in choose_members(family, size, 8)
    ]
    write_json(measure.profile(fingerprint(family, size), "made up", 1, times), tmp_path / "clinic.json")
    words = ["search", model.path, "--trials", 2, "--finalists", 1, "-o", tmp_path / "out"]
    with patch.object(study, "runnable", wraps=study.runnable) as ran:
        done = prox(*words, "--profile", tmp_path / "clinic.json", "--device", "cpu")
    assert done.code == 0 and done.err == "" and "latency predicted within" in done.out
    assert {call.args[1] for call in ran.call_args_list} == {"cpu"}
    with pytest.warns(FutureWarning, match=r"^a device's file is given as --profile now: --profile .*clinic\.json$"):
        old = prox(*words, "--device", tmp_path / "clinic.json")
    assert old.code == 0 and "latency predicted within" in old.out
    both = prox(*words, "--device", "clinic.json", "--profile", "other.json").error
    assert both == "--device is 'clinic.json' and --profile 'other.json'; a device's file is given as --profile"


def test_torch_measures_on_the_device_and_the_others_on_the_processor(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **TWO_LEVELS))
    words = ["profile", "measure", model.path, "--members", 8, "-o", tmp_path / "here.json", "--device", "cpu"]
    assert prox(*words).error == "--device is for the runtime torch; onnxruntime runs on the processor, so leave it out"
    done = prox(*words, "--runtime", "torch")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "here.json").read_text())["runtime"] == f"torch {torch.__version__}"
