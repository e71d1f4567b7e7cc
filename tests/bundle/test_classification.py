"""Scans prepared and classified without torch, against the transforms of the bundle and torch's own resizing."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from monai.transforms import Compose, NormalizeIntensity, Resize
from PIL import Image
from torch import nn
from torch.nn import functional as F

from monai_prox.export.classification_bundle import ClassificationBundle
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.runtime.classification import classify, find_scans, prepare_scan, probabilities, read_scan
from monai_prox.runtime.description import ScanDescription, read_description, write_description
from monai_prox.runtime.evaluation import LabelledScan, LabelledScans
from monai_prox.runtime.resampling import Array


def description_of(image_size: tuple[int, int] = (64, 64), working_size: tuple[int, int] = (64, 64)) -> ScanDescription:
    return ScanDescription(
        member="m",
        subnet={"depth": [1]},
        task="OCT",
        source="a test",
        classes=("A", "B"),
        image_size=image_size,
        working_size=working_size,
    )


def scan_of(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), np.uint8)


def test_what_is_said_of_the_weights_goes_with_a_bundle() -> None:
    family = MobileNetFamily(input_channels=1, num_classes=2)
    bundle = ClassificationBundle(
        name="m",
        task="OCT",
        source="a test",
        subnet={"depth": [1]},
        network=nn.Identity(),
        architecture=family.architecture_of(family.space.smallest()),
        metrics={},
        measured_on="",
        classes=("A", "B"),
        image_size=(64, 64),
        working_size=(64, 64),
        weights_license="CC-BY 4.0, Our Clinic",
    )
    assert bundle.metadata()["weights_license"] == "CC-BY 4.0, Our Clinic"
    assert all("Said of the weights: CC-BY 4.0, Our Clinic" in text for text in (bundle.readme(), bundle.data_license()))
    unsaid = replace(bundle, weights_license="")
    assert "weights_license" not in unsaid.metadata() and "Said of" not in unsaid.readme() + unsaid.data_license()


@pytest.mark.parametrize("size", [(64, 64), (100, 150), (31, 64), (40, 200)])
@pytest.mark.parametrize("working", [(64, 64), (48, 48)])
def test_scans_are_prepared_as_the_bundle_and_the_family_do(size: tuple[int, int], working: tuple[int, int]) -> None:
    scan = np.asarray(scan_of(*size) / np.float32(255), np.float32)
    transform = Compose([Resize((64, 64), mode="bilinear", anti_aliasing=True), NormalizeIntensity()])
    wanted = torch.as_tensor(transform(torch.from_numpy(scan[None])))[None]
    if working != (64, 64):
        wanted = F.interpolate(wanted, working, mode="bilinear", align_corners=False, antialias=True)
    found = prepare_scan(scan, description_of(working_size=working))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted[0].numpy(), atol=2e-4)


def brightness(x: Array) -> Array:
    """Logits of two classes: of an image that is brighter below, the second."""
    half = x.shape[2] // 2
    return np.stack([x[:, 0, :half].mean((1, 2)), x[:, 0, half:].mean((1, 2))], 1)


def test_every_scan_gets_a_line_and_a_broken_one_stops_none(tmp_path: Path) -> None:
    dark, bright = np.full((20, 40), 10, np.uint8), np.full((20, 40), 200, np.uint8)
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.vstack([dark, bright])).save(images / "below.png")
    Image.fromarray(np.vstack([bright, dark])).save(images / "above.jpeg")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(images / "colour.png")
    (images / "broken.png").write_bytes(b"no image")
    (images / "notes.txt").write_text("no scan")
    scans = find_scans(images)
    assert [path.name for path in scans] == ["above.jpeg", "below.png", "broken.png", "colour.png"]
    problems = {path.name: problem for path, problem in classify(description_of(), brightness, scans, tmp_path / "out")}
    assert [name for name, problem in problems.items() if problem is None] == ["above.jpeg", "below.png"]
    assert "cannot be read" in str(problems["broken.png"])
    assert "is no 8-bit grey image" in str(problems["colour.png"])
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["image", "class", "A", "B"]
    assert [(Path(name).name, label) for name, label, *_ in rows] == [("above.jpeg", "A"), ("below.png", "B")]
    assert all(float(a) + float(b) == pytest.approx(1, abs=1e-5) for *_, a, b in rows)


def test_places_without_scans_are_named(tmp_path: Path) -> None:
    refused("has no scans (.jpeg, .jpg, .png)", find_scans, tmp_path)
    refused("there is no folder and no scan", find_scans, tmp_path / "missing")
    (tmp_path / "file").write_text("")
    refused("cannot write to", classify, description_of(), brightness, [], tmp_path / "file")


def test_accuracy_is_of_files_and_arrays_alike(tmp_path: Path) -> None:
    arrays = [scan_of(50, 70, seed) for seed in range(40)]
    Image.fromarray(arrays[0]).save(tmp_path / "scan.png")
    description = description_of()
    found = [probabilities(np.asarray(a / np.float32(255), np.float32), description, brightness).argmax() for a in arrays]
    scans = LabelledScans([LabelledScan(str(i), a, int(c)) for i, (a, c) in enumerate(zip(arrays, found, strict=True))])
    assert scans.scores(range(40), description, brightness) == [1.0] * 40
    other = LabelledScans([LabelledScan("scan", tmp_path / "scan.png", 1 - int(found[0]))])
    assert other.scores([0], description, brightness) == [0.0]
    assert other.class_scores([0], description, brightness) == [{description.classes[1 - int(found[0])]: 0.0}]
    assert other.classes(description) == list(description.classes)
    np.testing.assert_array_equal(read_scan(tmp_path / "scan.png"), arrays[0] / np.float32(255))
    (patch,) = other.inputs([0], description, 4)
    assert patch.shape == (1, *description.input_shape) and other.shapes([0], description) == [(64, 64)]


def test_the_description_is_read_as_it_was_written() -> None:
    description = description_of(working_size=(48, 48))
    assert read_description(write_description(description), "a test") == description
