"""JSON files that somebody has crafted: each is read, or refused in a line. It neither crashes a reader nor keeps it busy.

A valid file is taken, and one value or branch of it is replaced, taken away or repeated elsewhere. 4,600 of the cases that
test_fuzz.py counts.
"""

from __future__ import annotations

import json
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.architectures import unet_architecture, unet_family
from helpers.certificates import CERTIFIED
from helpers.descriptions import DESCRIBED, SCANS
from helpers.fuzzing import cases, leaves, plain_data
from helpers.hostile import write_bundle
from helpers.nnunet_task import SHALLOW, TWO_MEMBERS, bare_model, bare_plans, hold_out
from helpers.places import places
from helpers.refusals import refused
from hypothesis import given
from hypothesis import strategies as st

from monai_prox.certificate.comparison import compare, summary
from monai_prox.certificate.record import parse_certificate
from monai_prox.certificate.record import to_json as certificate
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.data.decathlon import DecathlonTask
from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.oct_plan import OctPlan
from monai_prox.data.phantom import write_phantom_task
from monai_prox.errors import ProXError
from monai_prox.export.from_nnunet import prediction_of
from monai_prox.families.mobilenet_choices import MobileNetChoices
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import parse_json, read_json
from monai_prox.latency.device import Device, fingerprint
from monai_prox.runtime.calibration import parse_calibration
from monai_prox.runtime.description import read_description
from monai_prox.runtime.description import write_description as written
from monai_prox.trained.bundle_folder import TrainedBundle
from monai_prox.trained.bundle_source import TrainedSegmenter
from monai_prox.trained.family_file import FamilyFile
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_plans import choices_of, monitor_of, recipe_of
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.trained.open_part import ENTRY, OpenPart

pytest_plugins = ["helpers.nnunet_fixtures"]

SECONDS = 60  # beyond which a reader hangs; all of them need far less than one


# ---------------------------------------------------------------------- valid files and their readers
FAMILY = unet_family(features=(4, 8))
SIZE = (24, 24)
CHOICES = {"depth": "all", "width": [0.5, 1.0], "kernel": [3, 5], "levels": 1, "resolution": [0.75, 1.0]}
PLAN = Plan(
    task="Task",
    channels=("MRI", "T2"),
    labels=("background", "organ"),
    spacing=(1.0, 1.0, 2.0),
    patch_size=(32, 32, 32),
    intensity={"kind": "z-score"},
    architecture=unet_architecture(axes=3, dropout=0.1),
)


def device_file() -> dict[str, Any]:
    generator = random.Random(0)
    members = [{"subnet": FAMILY.space.sample(generator).to_json(), "milliseconds": 1.5 + number} for number in range(12)]
    device = {"processor": "a processor", "threads": 1}
    return {"format": 1, "family": fingerprint(FAMILY, SIZE), "device": device, "runtime": "onnxruntime", "members": members}


def calibration_content() -> dict[str, Any]:
    member, scores = {"member": "largest", "digest": "0"}, [number / 12 for number in range(12)]
    options = {"step_size": 0.5, "mirror": False, "postprocessing": True}
    content = {"format": 1, "model": member, "second_opinions": [member], "options": options}
    return content | {"scores": scores, "dice": scores}


def use_plan(data: Any) -> None:
    family = Plan.from_json(data).family()
    family.architecture_of(family.space.smallest())
    list(family.layers(family.space.largest()))


def use_space(data: Any) -> None:
    space = SearchSpace.from_json(data)
    space.sample(random.Random(0))
    space.reductions()
    str(space)


def use_device(data: Any) -> None:
    device = Device.from_json(data, FAMILY, SIZE, "the file")
    device.latency_ms(FAMILY.space.largest())


def use_entry(data: Any) -> None:
    choices = choices_of(data, UNetChoices())
    recipe_of(data, "prox")
    monitor_of(data, monitored=True, threshold=0.1, patience=2)
    unet_family(features=(4, 8), choices=choices)


def use_certificate(data: Any) -> None:
    read = parse_certificate(json.dumps(data), "the file")
    for old, new in ((read, CERTIFIED), (CERTIFIED, read), (read, read)):
        compare(old, new).differs(strict=True)
    summary(read)
    str(read.machine)


def use_family(data: Any) -> None:
    FamilyFile.from_json(data, "the file").find("smallest")


READERS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "a bundle's plan": (PLAN.to_json(), use_plan),
    "a classifier's plan": (
        OctPlan(task="OCT", classes=("A", "B"), image_size=(224, 224)).to_json(),
        lambda data: OctPlan.from_json(data).family().space.largest(),
    ),
    "choices": (CHOICES, lambda data: unet_family(features=(4, 8), choices=UNetChoices.from_json(data))),
    "a classifier's choices": (
        json.loads(json.dumps(asdict(MobileNetChoices()))),
        lambda data: MobileNetChoices.from_json(data).width[-1],
    ),
    "a space": (FAMILY.space.to_json(), use_space),
    "a member": (FAMILY.space.largest().to_json(), lambda data: FAMILY.space.check(Subnet.from_json(data))),
    "a device": (device_file(), use_device),
    "a description": (json.loads(written(DESCRIBED)), lambda data: read_description(json.dumps(data), "the file").input_shape),
    "a scan's": (json.loads(written(SCANS)), lambda data: read_description(json.dumps(data), "the file").input_shape),
    "a certificate": (json.loads(certificate(CERTIFIED)), use_certificate),
    "a calibration": (calibration_content(), lambda data: parse_calibration(data, "the file")[0].expected(0.5)),
    "an nnU-Net plan's entry": (
        {"prox": {"space": CHOICES, "recipe": "prox", "monitor": {"threshold": 0.01, "patience": 3}}},
        use_entry,
    ),
    "a family": (
        {"members": [{"name": "smallest", "subnet": FAMILY.space.smallest().to_json(), "parameters": 1, "macs": 1}]},
        use_family,
    ),
}


# ---------------------------------------------------------------------- crafting
@st.composite
def crafted(draw: Any, valid: Any) -> Any:
    """``valid`` with something else in one place."""
    data = json.loads(json.dumps(valid))
    *way, last = draw(st.sampled_from([place for place in places(data) if place]))
    branch = data
    for key in way:
        branch = branch[key]
    how = draw(st.sampled_from(["leaf", "leaf", "leaf", "branch", "missing", "more", "twice", "many", "deep"]))
    if how in ("leaf", "branch"):
        branch[last] = draw(leaves if how == "leaf" else plain_data)
    elif how == "missing":
        del branch[last]
    elif how == "more" and isinstance(branch, dict):
        branch["more"] = draw(leaves)
    elif how == "twice":
        branch[last] = deepcopy(data)
    elif how == "many":
        branch[last] = [branch[last]] * 200
    else:
        for _ in range(draw(st.sampled_from([1, 30, 300]))):
            branch[last] = [branch[last]]
    return data


class Hangs(BaseException):
    """No reader catches it."""


@contextmanager
def in_time() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_read_or_refused(read: Callable[[], object]) -> None:
    with in_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of layers that are nothing
        try:
            read()
        except ProXError as refusal:
            assert str(refusal) and "\n" not in str(refusal) and len(str(refusal)) < 1010


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(name: str) -> None:
    """Or nothing below would show anything."""
    valid, read = READERS[name]
    read(parse_json(json.dumps(valid), "the file"))


@pytest.mark.parametrize("name", READERS)
@given(st.data())
@cases(300)
def test_a_crafted_value_is_read_or_refused(name: str, data: Any) -> None:
    valid, read = READERS[name]
    text = json.dumps(data.draw(crafted(valid)))
    is_read_or_refused(lambda: read(parse_json(text, "the file")))


# ---------------------------------------------------------------------- whole folders
@pytest.fixture
def model(bare: Path) -> ModelFolder:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))
    hold_out(model, ["case"])
    return model


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", PLAN, CHOICES)


def use_model(path: Path) -> None:
    source = TrainedNNUNet.open(path)
    source.family()
    name, subnet = source.member("largest")
    source.describe(subnet, name=name)
    source.model.validated("fold_0", subnet, 0)
    source.model.held_out("fold_0")
    prediction_of(source, "largest")


def use_bundle(path: Path) -> None:
    opened = TrainedBundle.open(path)
    _, subnet = opened.member("smallest")
    opened.measured(subnet)
    opened.regions  # noqa: B018 (it is read here)
    opened.validation_cases(DecathlonTask(path, "Task", PLAN.channels, PLAN.labels, ()))


def use_trained(path: Path) -> None:
    source = TrainedSegmenter(TrainedBundle.open(path), None)
    source.describe("smallest")


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0/family.json", "fold_0/validation/summary.json"])
@given(st.data())
@cases(150)
def test_a_model_folder_is_read_or_refused(name: str, model: ModelFolder, data: Any) -> None:
    path = model.path / name
    kept = path.with_suffix(".kept")
    if not kept.exists():
        use_model(model.path)  # valid as it is, or nothing below would show anything
        path.rename(kept)
    valid = json.loads(kept.read_text())
    path.write_text(json.dumps(data.draw(crafted(valid))))
    is_read_or_refused(lambda: use_model(model.path))


@given(st.data())
@cases(200)
def test_a_bundles_family_is_read_or_refused(bundle: Path, data: Any) -> None:
    path, kept = bundle / "models" / "family.json", bundle / "models" / "family.kept"
    if not kept.exists():
        use_trained(bundle)
        path.rename(kept)
    valid = json.loads(kept.read_text())
    path.write_text(json.dumps(data.draw(crafted(valid))))
    for use in (use_bundle, use_trained):
        is_read_or_refused(lambda use=use: use(bundle))


@given(st.data())
@cases(200)
def test_a_tasks_dataset_is_read_or_refused(tmp_path: Path, data: Any) -> None:
    folder = tmp_path / "Task990_Phantom"
    if not folder.exists():
        write_phantom_task(tmp_path, cases=2, test_cases=1)
        (next(tmp_path.glob("Task*"))).rename(folder)
        (folder / "dataset.json").rename(folder / "kept.json")
    valid = json.loads((folder / "kept.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(data.draw(crafted(valid))))

    def use() -> None:
        task = DecathlonTask.read(folder)
        assert all(file.resolve().is_relative_to(folder.resolve()) for case in task.cases for file in (case.image, case.label))
        task.geometry(task.split()[0][0])

    is_read_or_refused(use)


# ---------------------------------------------------------------------- what JSON's grammar allows
LITERALS = {
    "deep": ("[" * 100_000 + "]" * 100_000, True),
    "deep objects": ('{"a":' * 50_000 + "1" + "}" * 50_000, True),
    "rather deep": ("[" * 100 + "]" * 100, True),
    "a huge number": ("1" + "0" * 100_000, True),
    "a long number": ("9" * 19, True),
    "half a character": (r'"\ud800"', True),
    "half a character as a key": (r'{"\udfff": 1}', True),
    "beyond a float": ("1e999", False),
    "infinity": ("-Infinity", False),
    "no number": ("NaN", False),
    "a long text": ('"' + "x" * 1_000_000 + '"', False),
    "many": ("[" + "0," * 200_000 + "0]", False),
    "the same key twice": ('{"name": [], "name": 1}', False),
}


@pytest.mark.parametrize(("text", "never"), LITERALS.values(), ids=LITERALS.keys())
def test_what_the_grammar_allows_is_read_or_refused(text: str, never: bool, tmp_path: Path) -> None:
    """Some are refused wherever they are; the others are what a reader has to make sense of."""
    path = tmp_path / "file.json"
    path.write_text(text)
    with in_time():
        if never:
            refused(f"{path} is not valid JSON: ", read_json, path)
        for name, (valid, read) in READERS.items():
            key = next(reversed(valid))
            data = json.dumps(valid | {key: "HERE"}).replace('"HERE"', text)
            if never:
                refused(f"{name} is not valid JSON: ", parse_json, data, name)
            is_read_or_refused(lambda read=read, data=data, name=name: read(parse_json(data, name)))


def test_what_weights_say_is_closed_is_read_as_carefully() -> None:
    network = FAMILY.build(FAMILY.space.largest())
    OpenPart(SuperNet(FAMILY, network))
    for text in ("[" * 100_000, "{", "[]", "3", '{"depth": null}', '{"depth": 99}', '{"no such": 1}', "1" + "0" * 5_000):
        entry = torch.tensor(list(text.encode()), dtype=torch.uint8)
        with pytest.raises(ProXError):
            network.load_state_dict(network.state_dict() | {ENTRY: entry})
    for entry in (torch.tensor([300, -1]), torch.tensor(1.5), "no tensor"):
        with pytest.raises(ProXError):
            network.load_state_dict(network.state_dict() | {ENTRY: entry})


# ---------------------------------------------------------------------- names that would be paths
OUTSIDE = ["../outside.nii.gz", "imagesTr/../../outside.nii.gz", "/etc/hostname", "imagesTr/a\0b", 3, None, ["imagesTr"]]


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_tasks_files_are_in_its_folder(key: str, tmp_path: Path) -> None:
    folder = write_phantom_task(tmp_path, cases=2, test_cases=1)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "outside.nii.gz")
    data = json.loads((folder / "dataset.json").read_text())
    DecathlonTask.read(folder)
    for name in OUTSIDE:
        data["training"][1][key] = name
        (folder / "dataset.json").write_text(json.dumps(data))
        refused("files are named from the task's folder down", DecathlonTask.read, folder)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", "..", ".", "", "a\0b"])
@pytest.mark.parametrize("key", ["dataset_name", "plans_name", "file_ending"])
def test_names_in_a_model_folder_lead_nowhere_else(key: str, name: str, model: ModelFolder) -> None:
    path = model.path / ("dataset.json" if key == "file_ending" else "plans.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: name}))
    refused(f"{key!r} is part of paths", ModelFolder.open, model.path)


@pytest.mark.parametrize("ending", ["/../../outside.nii.gz", "/x", "..", "", "nii", ".nii/", ".\0"])
def test_the_ending_that_a_model_file_gives_to_its_outputs_leads_nowhere_else(ending: str) -> None:
    refused("images are files that end in", replace, DESCRIBED, file_ending=ending)
    text = json.dumps(json.loads(written(DESCRIBED)) | {"file_ending": ending})
    refused("images are files that end in", read_description, text, "the file")
