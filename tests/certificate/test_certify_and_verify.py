"""``monai-prox certify`` and ``verify`` on a file that nnU-Net's own model became, and on images."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
from helpers.descriptions import DESCRIBED, SCANS
from helpers.dicom_series import SECRETS, headers, image_of, write
from helpers.in_process import Done, prox

from monai_prox.certificate import measurement
from monai_prox.certificate.record import KEY, Certificate, has_certificate, read_certificate, to_json
from monai_prox.runtime import model_entries
from monai_prox.runtime.description import KEY as DESCRIPTION
from monai_prox.runtime.description import write_description
from monai_prox.runtime.dice import class_dice
from monai_prox.runtime.model import Model
from monai_prox.runtime.model_entries import read_entry, write_entry

pytest_plugins = ["helpers.nnunet_fixtures"]

LABELS = {"anterior": 1, "posterior": 2}
ONLY_ON_THE_WAY = ("torch", "nnunetv2", "monai", "nibabel", "matplotlib", "onnx", "packaging")


def write_image(path: Path, seed: int, shape: tuple[int, ...] = (16, 26, 18)) -> None:
    voxels = np.random.default_rng(seed).normal(480, 130, shape).astype(np.float32)
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(voxels), 2.0), path)


def voxels_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


class Clinic:
    """A folder with the file, images, and labels: what the file finds, without some voxels of one label."""

    def __init__(self, folder: Path, model: Path, seeds: Mapping[str, int]) -> None:
        self.model, self.images, self.labels = folder / "model.onnx", folder / "images", folder / "labels"
        shutil.copyfile(model, self.model)
        for name, seed in seeds.items():
            write_image(self.images / f"{name}_0000.nii.gz", seed)
        done = prox("predict", model, "-i", self.images, "-o", self.labels, "--threads", 1)
        assert done.code == 0, done.err
        for index, path in enumerate(sorted(self.labels.iterdir())):
            found = voxels_of(path)
            found[(found == 2) & (np.random.default_rng(index).random(found.shape) < 0.1 + 0.1 * index)] = 0
            sitk.WriteImage(sitk.GetImageFromArray(found), path)

    def run(self, command: str, *words: object, labels: bool = True, repeats: int = 1) -> Done:
        more = ["--labels", self.labels] if labels else []
        return prox(command, self.model, "--images", self.images, *more, "--threads", 1, "--repeats", repeats, *words)

    def certificate(self) -> Certificate:
        found = read_certificate(self.model)
        assert found is not None
        return found


@pytest.fixture
def clinic(stock: Path, tmp_path: Path) -> Clinic:
    return Clinic(tmp_path, stock / "model.onnx", {"mary_smith": 1, "john_smith": 2})


def table(done: Done) -> dict[str, list[str]]:
    """Cells by the first one of their row; a cell that goes on in the next line is put together."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in done.out.splitlines():
        if line.startswith("│"):
            first, *cells = (cell.strip() for cell in line.strip("│").split("│"))
            name = first or name
            known = found.get(name, [""] * len(cells))
            found[name] = [f"{old} {new}".strip() for old, new in zip(known, cells, strict=True)]
    return found


def change_weights(path: Path, factor: float) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 5:
            changed = array * np.random.default_rng(0).normal(1, factor, array.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, path)


def test_a_file_that_is_the_same_is_within_the_noise(clinic: Clinic) -> None:
    before, model = clinic.model.read_bytes(), Model(clinic.model, threads=1)
    done = clinic.run("certify", repeats=2)
    assert done.code == 0, done.err
    assert f"{clinic.model}: certified, 2 of 2 cases" in done.out and "step size 0.5, not mirrored" in done.out
    assert clinic.model.read_bytes().startswith(before), "nothing but the certificate is new"
    x = np.random.default_rng(0).normal(size=(1, *model.description.input_shape)).astype(np.float32)
    again = Model(clinic.model, threads=1)
    assert np.array_equal(again(x), model(x)) and again.described == model.described
    certificate = clinic.certificate()
    assert [len(case.seconds) for case in certificate.cases] == [2, 2]
    assert certificate.machine.threads == 1 and certificate.machine.runtime.startswith("onnxruntime ")
    text = read_entry(clinic.model, KEY)
    assert text is not None and not re.search("smith|mary|john", text.lower()) and os.uname().nodename not in text
    done = clinic.run("verify", repeats=2)
    assert done.code == 0 and done.err == "", done
    assert "Of the 2 cases here 2 are among the 2 of the certificate, and are compared." in done.out
    found = table(done)
    assert set(found) == {
        *("Dice, mean", "Dice, anterior", "Dice, posterior", "segmentations", "seconds a case", "peak memory")
    }
    assert {found[name][-1] for name in found if name != "seconds a case"} == {"within the noise"}
    assert found["segmentations"][:3] == ["2", "2 the same", "none"]
    assert ": the same" in done.out.splitlines()[-2]


def test_the_figures_are_those_of_the_files(clinic: Clinic, tmp_path: Path) -> None:
    assert clinic.run("certify").code == 0
    prox("predict", clinic.model, "-i", clinic.images, "-o", tmp_path / "masks", "--threads", 1)
    names = sorted(path.name for path in clinic.labels.iterdir())
    for case, name in zip(clinic.certificate().cases, names, strict=True):
        found, true = voxels_of(tmp_path / "masks" / name), voxels_of(clinic.labels / name)
        assert case.dice == pytest.approx(class_dice(found, true, {"background": 0, **LABELS}))
        assert {label: segment.voxels for label, segment in case.segments.items()} == {
            label: np.count_nonzero(found == value) for label, value in LABELS.items()
        }
        assert [case.segments[label].true_voxels for label in LABELS] == [np.count_nonzero(true == v) for v in LABELS.values()]
        assert case.dice["anterior"] == 1 and 0 < case.dice["posterior"] < 1
        assert case.memory is None or case.memory > 10**7


@pytest.mark.parametrize("labels", [True, False])
def test_weights_that_have_changed_a_little_are_seen(clinic: Clinic, labels: bool) -> None:
    """With labels, and without them by the volumes."""
    assert clinic.run("certify").code == 0
    change_weights(clinic.model, 0.03)
    done = clinic.run("verify", labels=labels)
    assert done.code == 1 and done.err == f"differs: {clinic.model}\n"
    found = table(done)
    assert found["segmentations"][1] == "0 the same" and found["segmentations"][-1] == "differs"
    assert found["Dice, mean"][-1] == ("differs" if labels else "")


def test_other_images_are_compared_by_their_means(clinic: Clinic, stock: Path, tmp_path: Path) -> None:
    assert clinic.run("certify").code == 0
    (tmp_path / "other").mkdir()
    other = Clinic(tmp_path / "other", stock / "model.onnx", {"a": 3, "b": 4})
    shutil.copyfile(clinic.model, other.model)
    done = other.run("verify")
    assert done.code == 0, done
    assert "None of the 2 cases here is among the 2 of the certificate, so means are compared." in done.out
    found = table(done)
    assert found["Dice, mean"][-1] == "within the noise" and found["peak memory"][-1] == "other cases"
    for path in other.labels.iterdir():  # labels that have nothing in common with what is found
        sitk.WriteImage(sitk.GetImageFromArray(np.roll(voxels_of(path), 7, 1)[::-1]), path)
    done = other.run("verify")
    assert table(done)["Dice, mean"][-1] == "differs" and done.code == 1


def test_the_settings_of_the_certificate_are_those_of_the_comparison(clinic: Clinic) -> None:
    assert clinic.run("certify", "--step-size", 1, "--mirror", "--no-postprocessing").code == 0
    settings = clinic.certificate().settings
    assert (settings.step, settings.mirror, settings.postprocess) == (1, True, False)
    done = clinic.run("verify", labels=False)
    assert "step size 1, mirrored, without postprocessing" in done.out
    assert table(done)["segmentations"][1] == "2 the same" and done.code == 0


def test_a_certificate_is_not_replaced_unasked(clinic: Clinic) -> None:
    assert clinic.run("certify").code == 0
    before = clinic.model.read_bytes()
    assert "has a certificate; give --overwrite to replace it" in clinic.run("certify").error
    assert clinic.model.read_bytes() == before
    assert clinic.run("certify", "--overwrite", labels=False).code == 0
    assert all(case.truth is None and not case.dice for case in clinic.certificate().cases)


def test_without_a_certificate_there_is_nothing_to_compare_with(clinic: Clinic) -> None:
    before = clinic.model.read_bytes()
    done = clinic.run("verify")
    assert done.code == 0 and f"{clinic.model} has no certificate, so there is nothing to compare with" in done.out
    assert set(table(done)) == {"Dice, mean", "Dice, anterior", "Dice, posterior", "seconds a case", "peak memory"}
    assert clinic.model.read_bytes() == before


def test_speed_alone_fails_only_if_asked(clinic: Clinic) -> None:
    assert clinic.run("certify", repeats=2).code == 0
    certificate = clinic.certificate()
    cases = tuple(replace(case, seconds=tuple(time / 100 for time in case.seconds)) for case in certificate.cases)
    write_entry(clinic.model, KEY, to_json(replace(certificate, cases=cases)))
    done = clinic.run("verify", repeats=2)
    assert table(done)["seconds a case"][-1] == "differs" and done.code == 0 and done.err == ""
    assert clinic.run("verify", "--strict", repeats=2).code == 1


def test_cases_that_fail_stop_nothing_else(clinic: Clinic) -> None:
    write_image(clinic.images / "unlabelled_0000.nii.gz", 5)
    write_image(clinic.images / "two_0000.nii.gz", 6)
    write_image(clinic.images / "two_0001.nii.gz", 7)
    write_image(clinic.images / "larger_0000.nii.gz", 8)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8)), clinic.labels / "larger.nii.gz")
    (clinic.images / "broken_0000.nii.gz").write_bytes(b"no image")
    for name in ("two", "broken"):
        shutil.copyfile(clinic.labels / "mary_smith.nii.gz", clinic.labels / f"{name}.nii.gz")
    for command in ("certify", "verify"):
        done = clinic.run(command)
        assert done.code == 1
        head, *lines = done.err.splitlines()
        problems = dict(line.split(": ", 1) for line in lines)
        assert head == "failed:" and set(problems) == {"unlabelled", "two", "larger", "broken"}
        assert problems["unlabelled"] == f"there are no labels {clinic.labels / 'unlabelled.nii.gz'}"
        assert problems["two"].startswith("the network needs two_0000.nii.gz (MRI); there is two_0000.nii.gz, two_0001.nii.gz")
        assert problems["larger"] == f"{clinic.labels / 'larger.nii.gz'} has (6, 5, 4) voxels, its image (18, 26, 16)"
        assert "broken_0000.nii.gz cannot be read" in problems["broken"]
    assert len(clinic.certificate().cases) == 2


def test_without_any_case_nothing_is_written(clinic: Clinic, tmp_path: Path) -> None:
    before = clinic.model.read_bytes()
    (tmp_path / "empty").mkdir()
    words = ["certify", clinic.model, "--images"]
    assert "has no image named like case_0000.nii.gz" in prox(*words, tmp_path / "empty").error
    assert "there is no folder" in prox(*words, clinic.images, "--labels", tmp_path / "missing").error
    (clinic.images / "mary_smith_0000.nii.gz").unlink()
    (clinic.labels / "john_smith.nii.gz").unlink()
    done = clinic.run("certify")
    assert done.code == 1 and "none of 1 cases can be measured, e.g. john_smith: there are no labels" in done.err
    assert "there is no file" in prox("verify", tmp_path / "missing.onnx", "--images", clinic.images).error
    assert "is no model file" in prox("verify", tmp_path / "model.html", "--images", clinic.images).error
    assert "--step-size is a part of the patch" in prox(*words, clinic.images, "--step-size", 3).error
    assert clinic.model.read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"cases": []}, {"settings": {"step": 9}}, {"format": 99}, {"more": 1}, {"date": float("nan")}]
)
def test_a_crafted_certificate_is_refused_before_anything_is_measured(clinic: Clinic, change: dict[str, Any]) -> None:
    assert clinic.run("certify").code == 0
    data = json.loads(to_json(clinic.certificate()))
    write_entry(clinic.model, KEY, json.dumps(data | change))
    assert clinic.run("verify").error.startswith(f"{clinic.model}: its certificate ")
    assert clinic.run("certify", "--overwrite").code == 0 and clinic.run("verify").code == 0


def test_labels_that_are_regions(clinic: Clinic) -> None:
    """Of which one is within the other. Of three outputs the last two are written as one value."""
    model = onnx.load(clinic.model)
    (entry,) = model.metadata_props
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions": [1, 2, 2]}
    entry.value = json.dumps(json.loads(entry.value) | regions)
    onnx.save(model, clinic.model)
    assert clinic.run("certify").code == 0
    (first, _) = clinic.certificate().cases
    assert set(first.segments) == {"whole", "core"} and first.segments["whole"].voxels >= first.segments["core"].voxels > 0
    true = voxels_of(clinic.labels / "john_smith.nii.gz")
    assert first.segments["whole"].true_voxels == np.count_nonzero(true)
    done = clinic.run("verify")
    assert done.code == 0 and {"Dice, whole", "Dice, core"} <= set(table(done))


def test_voxels_to_be_ignored_are_not_scored(clinic: Clinic) -> None:
    assert clinic.run("certify").code == 0
    model = onnx.load(clinic.model)
    entry = next(entry for entry in model.metadata_props if entry.key == DESCRIPTION)
    entry.value = json.dumps(json.loads(entry.value) | {"labels": {"background": 0, **LABELS, "ignore": 3}})
    onnx.save(model, clinic.model)
    for path in clinic.labels.iterdir():
        array = voxels_of(path)
        array[array == 0] = 3  # all that is wrong with them, too
        sitk.WriteImage(sitk.GetImageFromArray(array), path)
    assert clinic.run("certify", "--overwrite").code == 0
    assert [case.mean_dice for case in clinic.certificate().cases] == [1, 1]


@pytest.mark.filterwarnings("ignore:the network's file does not say how")
def test_series_are_certified_without_names_of_patients(clinic: Clinic, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    write(headers(image_of()), folder)
    words = [clinic.model, "--images", folder, "--repeats", 1, "--threads", 1]
    assert "--labels is for cases that are image files" in prox("certify", *words, "--labels", clinic.labels).error
    done = prox("certify", *words)
    assert done.code == 0, done.err
    text = read_entry(clinic.model, KEY)
    assert text is not None and not [secret for secret in SECRETS if secret.lower() in text.lower()]
    done = prox("verify", *words)
    assert done.code == 0 and table(done)["segmentations"][1] == "1 the same"


def write_classifier(path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "weight")
    nodes = [
        onnx.helper.make_node("Conv", ["image", "weight"], ["features"]),
        onnx.helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", ["b", 1, 48, 48]), ("logits", ["b", 2]))
    ]
    graph = onnx.helper.make_graph(nodes, "network", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(model, {DESCRIPTION: write_description(SCANS)})
    onnx.save(model, path)


def test_classifiers_are_refused(tmp_path: Path) -> None:
    write_classifier(tmp_path / "scans.onnx")
    Model(tmp_path / "scans.onnx")
    for command in ("certify", "verify"):
        error = prox(command, tmp_path / "scans.onnx", "--images", tmp_path).error
        assert error == f"certificates are for members that segment; {tmp_path / 'scans.onnx'} classifies"


def test_a_network_that_cannot_run_is_refused_in_one_line(tmp_path: Path) -> None:
    """Its weights take 3 channels, which the check of the graph does not look at."""
    weight = onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1, 1), np.float32), "weight")
    shapes = {"image": ["b", "c", 8, 8, 8], "logits": ["b", 2, 8, 8, 8]}
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    node = onnx.helper.make_node("Conv", ["image", "weight"], ["logits"])
    graph = onnx.helper.make_graph([node], "network", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(model, {DESCRIPTION: write_description(DESCRIBED)})
    onnx.save(model, tmp_path / "model.onnx")
    write_image(tmp_path / "images" / "case_0000.nii.gz", 0)
    error = prox("verify", tmp_path / "model.onnx", "--images", tmp_path / "images").error
    assert error.startswith("the network smallest cannot be run: ")


def test_the_commands_work_where_there_is_no_torch(clinic: Clinic) -> None:
    """One after the other in a new Python."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({ONLY_ON_THE_WAY!r}))
from monai_prox.cli.app import main
words = sys.argv[1:]
for command in ("certify", "verify"):
    sys.argv[1:] = [command, *words]
    try:
        main()
    except SystemExit as end:
        print(command, "ended with", end.code or 0)
"""
    words = [clinic.model, "--images", clinic.images, "--labels", clinic.labels, "--threads", 1, "--repeats", 1]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ended = [line for line in done.stdout.splitlines() if " ended with " in line]
    assert ended == ["certify ended with 0", "verify ended with 0"]
    assert len(clinic.certificate().cases) == 2


def test_what_cannot_be_written_is_refused_before_anything_is_measured(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "measure_cases", lambda *_, **__: pytest.fail("a case was measured"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # to whom runs this as root, all is writable
        assert clinic.run("certify").error.startswith(f"{clinic.model} is read-only, so no certificate can be written")
    monkeypatch.setattr(model_entries, "MOST_BYTES", 500)
    assert re.search("a certificate of 2 cases would have about [0-9]{3} char.* up to 1 cases", clinic.run("certify").error)


def test_a_file_that_is_replaced_meanwhile_gets_no_certificate(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_cases = measurement.measure_cases

    def replaced(*words: Any, **keywords: Any) -> Any:
        change_weights(clinic.model, 0.03)
        return measure_cases(*words, **keywords)

    monkeypatch.setattr(measurement, "measure_cases", replaced)
    done = clinic.run("certify")
    assert done.code == 1 and f"{clinic.model} has changed while it was measured" in done.err
    assert not has_certificate(clinic.model)
