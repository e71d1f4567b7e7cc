"""Latency: measured members on a device predict the others, and a pack runs where this package is not."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import onnx
import pytest
from helpers.architectures import FOUR_DIMENSIONS, unet_architecture
from helpers.in_process import output_of
from helpers.nnunet_task import TWO_LEVELS, TWO_MEMBERS, bare_model, bare_plans
from helpers.refusals import refused
from helpers.searches import hurry

from monai_prox.cli import profile_command
from monai_prox.core import cost
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.families.mobilenet_choices import MobileNetChoices
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import write_json
from monai_prox.latency import measure, synthetic
from monai_prox.latency.case import CaseCosts
from monai_prox.latency.device import Device, features, fingerprint
from monai_prox.latency.measure import profile
from monai_prox.latency.pack import RUNTIMES, choose_members, measure_here, write_pack
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]

SIZE = (32, 32, 32)
UNET = UNetFamily(
    unet_architecture("PlainConvUNet", axes=3),
    input_channels=1,
    num_classes=3,
    patch_size=SIZE,
    choices=UNetChoices.from_json(FOUR_DIMENSIONS),
)
MOBILENET = MobileNetFamily(input_channels=1, num_classes=4, choices=MobileNetChoices(resolution=(48, 64)))


def profile_of(family: Any, size: tuple[int, ...], noise: float = 0.0, count: int = 24) -> dict[str, Any]:
    """Of a device whose time is exactly a sum of the features, but for relative ``noise``."""
    generator = random.Random(1)

    def time(subnet: Any) -> float:
        return float(features(family, subnet, size) @ WEIGHTS) * (1 + generator.gauss(0, noise))

    members = [{"subnet": subnet.to_json(), "milliseconds": time(subnet)} for subnet in choose_members(family, size, count)]
    return profile(fingerprint(family, size), "made up", 2, members)


WEIGHTS = np.array([0.3, 0.02, 2e-8, 1e-7, 1e-7, 3e-8])


@pytest.mark.parametrize(("family", "size"), [(UNET, SIZE), (MOBILENET, (64, 64))], ids=["unet", "mobilenet"])
def test_a_device_of_the_models_kind_is_predicted(family: Any, size: tuple[int, ...]) -> None:
    device = Device.from_json(profile_of(family, size), family, size, "a test")
    assert device.held_out_error < 1e-6
    generator = random.Random(2)
    for subnet in (family.space.sample(generator) for _ in range(20)):
        assert device.latency_ms(subnet) == pytest.approx(float(features(family, subnet, size) @ WEIGHTS))


def test_noise_shows_in_the_held_out_error_and_measured_members_keep_their_time() -> None:
    data = profile_of(UNET, SIZE, noise=0.1)
    device = Device.from_json(data, UNET, SIZE, "a test")
    assert 0.02 < device.held_out_error < 0.2
    smallest = UNET.space.smallest()
    assert device.latency_ms(smallest) == data["members"][0]["milliseconds"]
    assert device.name.endswith("2 threads, made up")


def test_a_held_out_error_is_of_members_that_the_prediction_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of members with the same features and times t, one weight w is left, w = sum(1 / t) / sum(1 / t ** 2).

    Of 1, 1 and 2 ms the others predict 1.5 / 1.25 = 1.2 ms for the first two, and 1 ms for the last: the errors are 0.2, 0.2
    and 0.5.
    """
    monkeypatch.setattr("monai_prox.latency.device.features", lambda *_: np.ones(1))
    members = [UNET.space.sample(random.Random(seed)) for seed in range(4)]
    device = Device(UNET, SIZE, "made up", dict(zip(members, (1.0, 1.0, 2.0), strict=False)), {})
    assert device.held_out_error == pytest.approx(0.2)
    assert device.latency_ms(members[3]) == pytest.approx(2.5 / 2.25), "predicted from all three"


def test_the_members_to_measure_span_the_family() -> None:
    members = choose_members(UNET, SIZE)
    macs = [cost.macs(UNET, subnet, SIZE) for subnet in members]
    assert len(set(members)) == 24 and members == choose_members(UNET, SIZE)
    assert members[0] == UNET.space.smallest() and members[-1] == UNET.space.largest()
    assert all(subnet in UNET.space for subnet in members)
    assert max(np.diff(np.log(sorted(macs)[1:-1]))) < 0.5
    refused("7 members are too few to predict others from; at least 8", choose_members, UNET, SIZE, 7)


def test_files_that_say_nothing_of_this_family_are_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "device.json", profile_of(UNET, SIZE)

    def read(family: Any = UNET, size: tuple[int, ...] = SIZE) -> Device:
        return Device.read(path, family, size)

    write_json(data, path)
    assert read().measured
    refused("was measured with another family", read, MOBILENET, (64, 64))
    refused("was measured with another family", read, UNET, (64, 32, 32))
    for change, words in (
        ({"format": 99}, "is no device's file"),
        ({"members": [{"subnet": {"depth": [1]}}]}, "is no device's file"),
        ({"members": data["members"][:5]}, "has 5 members of this family, at least 8 are needed"),
    ):
        write_json(data | change, path)
        refused(words, read)
    path.write_text("[]")
    refused("is no device's file", read)


def test_every_member_is_measured_in_every_round() -> None:
    calls: list[tuple[int, tuple[int, ...]]] = []
    members = [((lambda number=number: lambda x: calls.append((number, x.shape))), (1, number + 1)) for number in range(2)]
    said: list[str] = []
    times = measure.measure(members, said.append)
    assert [of["runs"] for of in times] == [90, 90] and len(calls) == 2 * 3 * 31
    assert set(calls) == {(0, (1, 1)), (1, (1, 2))}
    assert said[0] == "round 1 of 3, member 1 of 2" and said[-1] == "round 3 of 3, member 2 of 2"
    assert all(of["quartiles"][0] <= of["milliseconds"] <= of["quartiles"][1] for of in times)


@pytest.fixture
def source(bare: Path) -> TrainedNNUNet:
    return TrainedNNUNet.open(bare_model(bare_plans(**TWO_LEVELS)).path)


def test_what_was_measured_here_is_measured_again_only_if_it_is_of_no_use(
    source: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Path] = []
    monkeypatch.setattr(profile_command, "measure_members", lambda *arguments: measured.append(arguments[-1]))
    family, path = source.supernet.family, tmp_path / "device.json"
    usable = profile_of(family, source.size, count=8) | {"device": measure.device(os.cpu_count() or 1)}
    write_json(usable, path)
    assert profile_command.of_this_machine(source, path) == path and not measured
    for change in ({"family": "another"}, {"device": usable["device"] | {"threads": 99}}, {"members": []}, {"format": 9}):
        write_json(usable | change, path)
        assert profile_command.of_this_machine(source, path) == path and measured.pop() == path, change
    for text in ("[]", "{"):
        path.write_text(text)
        assert profile_command.of_this_machine(source, path) == path and measured.pop() == path
    assert profile_command.of_this_machine(source, tmp_path / "none.json") == measured.pop()


# Runs a script where of what we need only numpy and onnxruntime are
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("monai_prox", "torch", "onnx", "scipy", "SimpleITK", "openvino")))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Runs a script where what prediction needs is, but not this package, only what is beside the script
BESIDE = (
    ALONE.replace('"monai_prox", ', "")
    .replace('"scipy", "SimpleITK", ', "")
    .replace("import runpy, sys", "import pathlib, runpy, sys\nsys.path[:0] = [str(pathlib.Path(sys.argv[1]).parent)]")
)


def in_a_hurry(script: Path) -> Path:
    """The script, but it measures each member for a hundredth of the time, the memory of one of them, and each image once."""
    beside = script.parent / "monai_prox" / "latency" / "synthetic.py"
    for file, line, less in (
        (script, f"SECONDS = {measure.SECONDS}", f"SECONDS = {measure.SECONDS / 100}"),
        (script, f"SESSIONS = {measure.SESSIONS}", "SESSIONS = 1"),
        (beside, f"ROUNDS, LONG = {synthetic.ROUNDS}", "ROUNDS, LONG = 1"),
    ):
        text = file.read_text()
        assert text.count(line) == 1
        file.write_text(text.replace(line, less))
    return script


def test_a_pack_runs_without_this_package_and_serves_the_search(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TrainedNNUNet.open(bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **TWO_LEVELS)).path)  # both are measured
    path = tmp_path / "new" / "pack.zip"

    def noted(*arguments: Any, done: Any, write: Any = write_pack, **options: Any) -> Path:
        return write(*arguments, done=lambda *of: (numbers.append(of), done(*of)), **options)

    numbers: list[tuple[int, int]] = []
    monkeypatch.setattr("monai_prox.latency.pack.write_pack", noted)
    said = output_of("profile", "pack", source.path, "-o", path, "--members", 8)
    assert "python -m zipfile -e pack.zip . && python pack/measure.py" in said
    assert numbers == [(1, 2), (2, 2)]
    with ZipFile(path) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert len([name for name in names if "/monai_prox/" not in name]) == 4 and all(name.startswith("pack/") for name in names)
    script = in_a_hurry(tmp_path / "pack" / "measure.py")

    def run(how: str, output: str) -> tuple[str, dict[str, Any]]:
        command = [sys.executable, "-c", how, str(script), "--threads", "1", "--output", output]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / output).read_text())

    words, data = run(ALONE, "network.json")
    assert "the network alone was measured, for " in words and "pip install scipy SimpleITK" in words
    assert (
        data["pipeline"] is None and Device.read(tmp_path / "network.json", source.supernet.family, source.size).parts is None
    )
    (tmp_path / "pack" / "monai_prox" / "runtime" / "grid.py").open("a").write("print('the grid of the pack')\n")
    words, data = run(BESIDE, "device.json")
    assert "the grid of the pack" in words and "beside the network, an image of 38 x 49 x 34 voxels of 1 x 1 x 1 mm: " in words
    if sys.platform == "linux":
        assert data["process_mb"] > 20 and len([one for one in data["members"] if one.get("session_mb", 0) > 0]) == 1
    assert data["device"]["threads"] == 1 and data["runtime"].startswith("onnxruntime")
    family = source.supernet.family
    device = Device.read(tmp_path / "device.json", family, source.size)
    assert len(device.measured) == 2 and all(time > 0 for time in device.measured.values())
    assert 0 < device.latency_ms(family.space.largest()) < np.inf
    assert device.parts is not None and len(device.parts.works) == 10 and device.parts.held_out_error < 10
    assert CaseCosts.of(source, device).seconds(family.space.largest()) > 0
    refused("exists; give another", write_pack, source, path, count=8, done=print)


@pytest.mark.slow
def test_the_script_says_in_a_line_what_is_wrong_with_a_device(source: TrainedNNUNet, tmp_path: Path) -> None:
    """A runtime that does not know the files' version is one that is too old for them."""
    write_pack(source, tmp_path / "pack.zip", count=8, done=lambda *_: None)
    with ZipFile(tmp_path / "pack.zip") as archive:
        archive.extractall(tmp_path)
    pack = tmp_path / "pack"
    listed = json.loads((pack / measure.LISTED).read_text())["members"]
    first = pack / listed[0]["file"]
    assert {onnx.load(pack / one["file"]).ir_version for one in listed} == {8}
    newer = onnx.load(first)
    newer.ir_version = 99
    onnx.save(newer, first)

    def run(without: str = "torch", *options: str) -> str:
        alone = f"{ALONE.partition('del')[0]}sys.modules[{without!r}] = None\ndel{ALONE.partition('del')[2]}"
        command = [sys.executable, "-c", alone, str(pack / "measure.py"), "--threads", "1", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stdout == "" and not list(tmp_path.glob("device*"))
        return done.stderr.rpartition("\r")[2]

    said = run().rpartition("error: ")[2]
    assert re.search(
        r"onnxruntime [\d.]+ cannot read .*Unsupported model IR version.* pip install --upgrade onnxruntime\n$", said
    )
    assert run("onnxruntime") == "error: onnxruntime is not installed: pip install onnxruntime\n"
    assert run("numpy").endswith("error: numpy is not installed: pip install numpy\n")
    assert "No such file or directory" in run("torch", "--output", "nowhere/device.json")
    (pack / measure.LISTED).unlink()
    assert run() == f"error: {pack / measure.LISTED}: No such file or directory\n"


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=() if name == "torch" else [pytest.mark.alone, pytest.mark.slow]) for name in RUNTIMES],
)
def test_this_machine_is_measured_with_every_runtime(
    source: TrainedNNUNet, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    options = ["--runtime", runtime, "--threads", 1, "--members", 8, "-o", tmp_path / "device.json"]
    done = output_of("profile", "measure", source.path, *options)
    device = Device.read(tmp_path / "device.json", source.supernet.family, source.size)
    assert json.loads((tmp_path / "device.json").read_text())["runtime"].startswith(f"{runtime} ")
    assert len(device.measured) == 8 and device.parts is not None
    assert bool(device.sessions) == (runtime != "torch" and sys.platform == "linux")
    assert "beside the network, an image of 38 x 49 x 34 voxels" in " ".join(done.split())


def test_an_unknown_runtime_is_named(source: TrainedNNUNet) -> None:
    words = "the runtime 'tensorrt' is not known; allowed: onnxruntime, openvino, torch"
    refused(words, measure_here, source, [], "tensorrt", threads=1, progress=print)
