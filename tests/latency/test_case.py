"""Seconds and memory of a whole case: in closed form, by trained families and by plans, and what is said of unknown ones."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.cases import PROCESS_MB, WEIGHTS, session_mb, with_cases
from helpers.hostile import spoil_json
from helpers.in_process import prox
from helpers.nnunet_task import BARE_DATASET, FULLRES, bare_model, bare_plans
from helpers.refusals import refused
from helpers.searches import made_up_device

from monai_prox.cli import profile_command
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.export.device_file import export_file
from monai_prox.files import write_json
from monai_prox.latency import pack
from monai_prox.latency.case import COMMAND_MB, CaseCosts
from monai_prox.latency.device import Device, fingerprint
from monai_prox.latency.measure import LISTED, add_memory, device
from monai_prox.latency.parts import Work, features, whole_grid
from monai_prox.nnunet.plan_entry import plan_training
from monai_prox.nnunet.planned_family import PlannedFamily
from monai_prox.runtime.grid import ImageSize
from monai_prox.runtime.kinds import CLASSIFICATION
from monai_prox.runtime.memory import needed_for
from monai_prox.trained.nnunet_plans import median_image_of
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]
NAME = "Dataset990_Phantom"
SPACE = {"depth": "full", "width": [0.5, 1.0], "levels": 0, "resolution": [0.75, 1.0]}
SIZE = ImageSize((30, 41, 52), (1.2, 0.8, 1.0))


@pytest.fixture
def family(bare: Path) -> TrainedNNUNet:
    return TrainedNNUNet.open(bare_model(bare_plans(name="nnUNetPlans", prox={"space": SPACE})).path)


def read(data: dict[str, Any], source: Any) -> Device:
    return Device.from_json(data, source.supernet.family, source.size, "device.json")


# ---------------------------------------------------------------------- arithmetic
def test_a_case_is_its_parts_and_its_tiles(family: TrainedNNUNet) -> None:
    known = read(with_cases(made_up_device(family), family), family)
    costs = CaseCosts.of(family, known, SIZE)
    space = family.supernet.family.space
    for subnet in (space.smallest(), space.largest()):
        description = family.describe(subnet)
        work = Work.of(SIZE, description)
        beside = sum(float(np.dot(features(part, work), of)) for part, of in WEIGHTS.items())
        assert costs.tiles(subnet) == work.tiles > 1
        assert costs.seconds(subnet) == pytest.approx(beside + work.tiles * known.latency_ms(subnet) / 1000, rel=1e-4)
        image = 4 * prod(SIZE.shape)
        case = image + needed_for(whole_grid(SIZE, description), description)
        assert costs.ram_gb(subnet) == pytest.approx(
            (PROCESS_MB + COMMAND_MB + session_mb(family, subnet)) / 1e3 + case / 1e9, rel=1e-4
        )
    assert Work.of(SIZE, family.describe(space.smallest())).grid < Work.of(SIZE, family.describe(space.largest())).grid


def test_the_memory_of_members_that_were_not_measured_is_predicted(family: TrainedNNUNet) -> None:
    known = read(with_cases(made_up_device(family), family), family)
    others = [subnet for subnet in known.measured if subnet not in known.sessions]
    assert len(known.sessions) == 4 and others
    for subnet in others:
        assert known.session_mb(subnet) == pytest.approx(session_mb(family, subnet), rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory of a process")
@pytest.mark.parametrize("side", [20, 50])
def test_a_prediction_takes_no_more_memory_than_was_predicted(side: int, family: TrainedNNUNet, tmp_path: Path) -> None:
    """Nor much less, in a process of its own, which has what the command has imported by its end."""
    space = family.supernet.family.space
    largest, size = space.largest(), ImageSize((side, side, side), (1.0, 1.0, 1.0))
    shape = [1, *family.describe(largest).input_shape]
    members: list[dict[str, Any]] = [{}]
    file = tmp_path / "largest.onnx"
    export_file(family, "largest", file, "onnx")
    process_mb = add_memory(members, [(file, shape)], "onnxruntime", 1, str)
    data = with_cases(made_up_device(family), family)
    data["members"] = [one for one in data["members"] if one["subnet"] != largest.to_json()]
    data["members"].append({"subnet": largest.to_json(), "milliseconds": 1.0, **members[0]})
    predicted = CaseCosts.of(family, read(data | {"process_mb": process_mb}, family), size).ram_gb(largest)
    (tmp_path / "in").mkdir()
    voxels = np.random.default_rng(0).integers(1, 64, size.shape, np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), tmp_path / "in" / "case_0000.nii.gz")
    words = ["monai-prox", "predict", str(file), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--threads", "1"]
    code = f"import atexit, sys; sys.argv = {words}; status = open('/proc/self/status')\n"
    code += "atexit.register(lambda: print('VmHWM', *status.read().split('VmHWM:')[1].split()[:1], file=sys.stderr))\n"
    code += "from monai_prox.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken = int(done.stderr.split("VmHWM")[1].split()[0]) * 1024 / 1e9
    assert predicted is not None and taken < predicted < 1.25 * taken


def test_a_case_of_more_tiles_than_prediction_allows_is_refused(family: TrainedNNUNet) -> None:
    costs = CaseCosts.of(
        family, read(with_cases(made_up_device(family), family), family), ImageSize((1, 30_000, 30_000), (1.0, 1.0, 1.0))
    )
    refused("times on (1, 30000, 30000) voxels; at most 131,072 are", costs.seconds, family.supernet.family.space.largest())


def test_the_median_is_the_plans_in_the_readers_axes(family: TrainedNNUNet) -> None:
    assert family.median_image == ImageSize((34, 49, 38), (1.0, 1.0, 1.0))
    turned = {
        "original_median_shape_after_transp": [34, 49.5, 38],
        "original_median_spacing_after_transp": [3, 1.5, 1],
        "transpose_backward": [1, 2, 0],
    }
    assert median_image_of(turned) == ImageSize((50, 38, 34), (1.5, 1.0, 3.0))
    assert median_image_of({"transpose_backward": [0, 1, 2]}) is None
    costs = CaseCosts.of(family, read(with_cases(made_up_device(family), family), family))
    assert costs.size == family.median_image


# ---------------------------------------------------------------------- what is not known
def test_files_of_earlier_versions_still_give_latencies(family: TrainedNNUNet) -> None:
    data = made_up_device(family)
    former = {key: value for key, value in data.items() if key not in ("pipeline", "process_mb")}
    for of in (data, former):
        known = read(of, family)
        assert known.parts is None and known.process_mb is None and known.latency_ms(family.supernet.family.space.largest())
        refused("the device's file says nothing of a case beside the network; measure it again: ", CaseCosts.of, family, known)
        assert not CaseCosts.known(family, known)


def test_what_cannot_be_known_is_one_line(family: TrainedNNUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_cases(made_up_device(family), family)
    whole = read(data, family)
    without: Any = read(data | {"process_mb": None}, family)
    costs = CaseCosts.of(family, without)
    assert costs.ram_gb(family.supernet.family.space.largest()) is None and costs.check_known(["seconds"]) is None
    refused("does not have the memory of its processes, which is measured on Linux alone", costs.check_known, ["ram_gb"])
    refused("this family classifies scans", CaseCosts.of, SimpleNamespace(kind=CLASSIFICATION), whole)
    monkeypatch.setattr(TrainedNNUNet, "median_image", None)
    refused(
        "nothing tells the median size of this family's images; give one, such as --case-shape", CaseCosts.of, family, whole
    )
    assert CaseCosts.of(family, whole, SIZE).size == SIZE
    for change, words in (
        ({"pipeline": []}, "is no device's file"),
        ({"pipeline": {"cases": []}}, "is no device's file of monai-prox profile: device.json: 'pipeline' has cases of fewer"),
        ({"process_mb": -1.0}, "'process_mb' and 'session_mb' are 0.001 to 1e+09"),
        ({"process_mb": "much"}, "'process_mb' must be of type"),
    ):
        refused(words, read, data | change, family)


def test_spoilt_files_are_refused_or_give_numbers(family: TrainedNNUNet, tmp_path: Path) -> None:
    path, happened = tmp_path / "device.json", set[bool]()
    space = family.supernet.family.space
    for seed in range(40):
        write_json(with_cases(made_up_device(family), family), path)
        spoil_json(path, random.Random(seed))
        try:
            costs = CaseCosts.of(family, Device.read(path, family.supernet.family, family.size), SIZE)
            found = [costs.seconds(space.largest()), costs.ram_gb(space.largest()) or 0.0, costs.parts.held_out_error]
        except ProXError:
            found = []
        assert np.isfinite(found).all(), seed
        happened.add(bool(found))
    assert happened == {False, True}


def test_this_machine_is_measured_again_if_its_file_lacks_the_case(
    family: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Path] = []
    monkeypatch.setattr(profile_command, "measure_members", lambda *arguments: measured.append(arguments[-1]))
    monkeypatch.setattr(profile_command.os, "cpu_count", lambda: 1)
    path, of_here = tmp_path / "device.json", made_up_device(family) | {"device": device(1)}
    write_json(of_here, path)
    assert profile_command.of_this_machine(family, path) == path and not measured
    assert profile_command.of_this_machine(family, path, whole=True) == measured.pop()
    write_json(with_cases(of_here, family), path)
    assert profile_command.of_this_machine(family, path, whole=True) == path and not measured


# ---------------------------------------------------------------------- before any training
@pytest.fixture
def planned(bare: Path) -> PlannedFamily:
    folder = bare / "nnUNet_preprocessed" / NAME
    (folder / "dataset.json").write_text(json.dumps(BARE_DATASET))
    (folder / "nnUNetPlans.json").write_text(json.dumps(bare_plans(name="nnUNetPlans", prox={"space": SPACE})))
    return PlannedFamily(plan_training(folder, "nnUNetPlans", FULLRES, "ProXTrainer", {}))


def test_a_plan_has_the_members_that_a_training_has(planned: PlannedFamily, family: TrainedNNUNet) -> None:
    space = family.supernet.family.space
    assert fingerprint(planned.supernet.family, planned.size) == fingerprint(family.supernet.family, family.size)
    assert planned.median_image == family.median_image and planned.kind is family.kind
    for subnet in (space.smallest(), space.largest()):
        of_plan, of_training = planned.describe(subnet), family.describe(subnet)
        told = {"member": "", "source": "", "mirroring": None, "stored_orientation": None}
        assert replace(of_plan, **told) == replace(of_training, **told)
        assert of_plan.source == "ProXTrainer, 3d_fullres, not trained"
        shapes = [{name: of.shape for name, of in one.network(subnet).state_dict().items()} for one in (planned, family)]
        assert shapes[0] == shapes[1]
    assert planned.describe("smallest").member == "smallest"
    refused("the member 'tiny' is not known; known: smallest, ", planned.describe, "tiny")
    refused("", planned.network, Subnet.from_values(depth=(9,)))


def test_a_plan_is_packed(planned: PlannedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the pack is the plan's; that a pack runs is tested with a trained family."""

    def files(source: Any, members: Any) -> Any:
        for number, subnet in enumerate(members):
            yield f"member_{number:02d}.onnx", b"a member", [1, *source.describe(subnet).input_shape], subnet

    monkeypatch.setattr(pack, "_files", files)
    output = tmp_path / "clinic.zip"
    done = prox("profile", "pack", "-d", 990, "--untrained", "-o", output, "--members", 8)
    assert done.code == 0, done.err
    words = f"monai-prox plan {NAME} -c {FULLRES} -tr ProXTrainer -p nnUNetPlans --profile device.json --max-seconds 20"
    assert words in " ".join(done.out.split())
    with ZipFile(output) as archive:
        listed, names = json.loads(archive.read(f"clinic/{LISTED}")), set(archive.namelist())
    assert listed["case"] == {"shape": [34, 49, 38], "spacing": [1.0, 1.0, 1.0]}
    assert listed["family"] == fingerprint(planned.supernet.family, planned.size)
    assert listed["members"][0]["input"] == [1, 1, 12, 20, 12] and listed["members"][-1]["input"] == [1, 1, 16, 24, 16]
    assert {"clinic/measure.py", "clinic/monai_prox/__init__.py", "clinic/monai_prox/runtime/labels.py"} <= names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["somewhere", "--untrained"], "--untrained is for -d DATASET, which nnU-Net has planned, not for a folder, got "),
        (["--untrained"], "--untrained is for -d DATASET"),
        (["-d", 990, "--untrained", "--fold", 0], "--fold: for what was trained; leave it out with --untrained"),
        (["-d", 990, "--untrained", "-p", "Other"], "Other.json; there are nnUNetPlans"),
        (["-d", 990, "--untrained", "-tr", "nnUNetTrainer"], "the trainer is nnUNetTrainer, which trains no family"),
    ],
)
def test_what_is_no_plan_is_one_line(words: list[Any], message: str, planned: PlannedFamily, tmp_path: Path) -> None:
    for command in ("pack", "measure"):
        assert message in prox("profile", command, *words, "-o", tmp_path / "out").error
    assert not list(tmp_path.glob("out*"))
