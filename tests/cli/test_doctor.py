"""What the doctor finds: extras with the command that brings them, and devices."""

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from helpers.in_process import prox
from helpers.nnunet_task import folders

from monai_prox import requirements
from monai_prox.cli import doctor

OPTIONAL = {"onnx": "onnx", "openvino": "openvino", "search": "optuna", "mlflow": "mlflow"}
OPTIONAL |= {"dicom": "highdicom", "publish": "huggingface-hub"}


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in (folders(tmp_path) | {"nnUNet_extTrainer": doctor.trainers_folder()}).items():
        monkeypatch.setenv(name, str(folder))


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    """As if these projects were not installed."""
    version = metadata.version

    def found(name: str) -> str:
        if name in absent:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(requirements, "version", found)


def test_every_extra_of_users_is_listed() -> None:
    declared = set(metadata.metadata("monai-prox").get_all("Provides-Extra"))
    assert {*OPTIONAL} == {*requirements.EXTRAS} - {""} == declared - {"benchmarks", "test", "dev", "docs"}
    assert {finding.what for finding in doctor.extra_packages()} == {f"extra {extra}" for extra in OPTIONAL}


@pytest.mark.parametrize(("extra", "project"), OPTIONAL.items())
def test_a_missing_extra_comes_with_its_command_and_is_no_fault(
    extra: str, project: str, ready: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, project)
    done = prox("doctor")
    assert done.code == 0, done.out
    lines = [line for line in done.out.splitlines() if f"extra {extra} " in line]
    assert [line.split() for line in lines] == [
        ["optional", "extra", extra, project, "not", "installed;", "pip", "install", f'"monai-prox[{extra}]"']
    ]


def test_installed_extras_have_versions() -> None:
    found = {finding.what: finding.detail for finding in doctor.extra_packages()}
    assert f"optuna {metadata.version('optuna')}" in found["extra search"]
    assert f"onnxruntime {metadata.version('onnxruntime')}" in found["extra onnx"]


def test_a_needed_package_that_is_missing_is_a_fault(ready: None, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "tqdm")
    done = prox("doctor")
    assert done.code == 1 and "missing  tqdm" in done.out


def test_devices_have_the_names_that_the_option_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [SimpleNamespace(name="NVIDIA A", total_memory=24e9), SimpleNamespace(name="NVIDIA B", total_memory=80.2e9)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", gpus.__getitem__)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = {finding.what: finding.detail for finding in doctor.devices()}
    assert found["device cpu"].endswith(" threads") and int(found["device cpu"].split()[0]) >= 1
    assert found["device cuda:0"] == "NVIDIA A, 24.0 GB" and found["device cuda:1"] == "NVIDIA B, 80.2 GB"
    assert "device mps" in found
    assert found["onnxruntime runs on"].split(", ") == onnxruntime.get_available_providers()
    assert found["openvino runs on"].startswith("CPU (")


def test_runtimes_that_are_not_there_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    assert [finding.what for finding in doctor.devices()] == ["device cpu"]


def test_a_driver_that_fails_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        available_devices = ["GPU"]

        def get_property(self, *_: str) -> str:
            raise RuntimeError("Exception from src/inference:\n[GPU] no driver")

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=Core))
    found = {finding.what: finding.detail for finding in doctor.devices()}
    assert found["openvino runs on"] == "nothing: Exception from src/inference: [GPU] no driver"
