"""A page that segments in a browser as ``monai-prox predict`` does, without a network of computers."""

from __future__ import annotations

import base64
import gzip
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from helpers.descriptions import DESCRIBED, SCANS
from helpers.in_process import prox
from helpers.made_once import made_once
from helpers.nnunet_task import TWO_LEVELS, bare_model, bare_plans
from helpers.refusals import refused
from nibabel.affines import from_matvec
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from playwright.sync_api import Browser, Page
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import nn

from monai_prox.errors import ProXError
from monai_prox.export import html_file, onnxruntime_web
from monai_prox.export.html_file import check_page, write_html
from monai_prox.export.onnx_file import write_onnx
from monai_prox.export.onnxruntime_web import DIGESTS, SCRIPT, WASM, Runtime, find_runtime
from monai_prox.runtime.cases import Case, read_case
from monai_prox.runtime.description import Description, Normalisation, Resampling
from monai_prox.runtime.model import Model
from monai_prox.runtime.nifti_images import read_labels
from monai_prox.runtime.prediction import predict

pytest_plugins = ["helpers.browser", "helpers.nnunet_fixtures"]

THREE = replace(
    DESCRIBED,
    outputs=3,
    labels={"background": 0, "<b>organ</b>": 1, "other": 2},
    task="<i>Task</i>",
    patch=(12, 16, 10),
)
TWO = replace(
    THREE,
    channels=("T1", "T2"),
    reader="NibabelIO",
    patch=THREE.patch[:2],
    spacing=(1.0, 1.0),
    images=Resampling(order=1),
    normalisation=(
        Normalisation(scheme="RescaleTo01Normalization"),
        Normalisation(scheme="CTNormalization", lower=0, upper=1400, mean=700, std=400),
    ),
    cropped=False,
)
MILLISECONDS = 60_000  # until a page has segmented: the machine may be busy
DONE = "#download[href], #problem:not(:empty)"


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """Of the folder of data, or downloaded once into the cache of whoever runs the tests."""
    folder = Path(os.environ.get("MONAI_PROX_DATA", "nowhere"), "onnxruntime-web")
    try:
        return find_runtime(folder if folder.is_dir() else None)
    except ProXError as error:
        pytest.skip(f"onnxruntime-web cannot be had: {error}")


@pytest.fixture(scope="module")
def networks() -> dict[int, Path]:
    """Of three axes, and of two: every voxel's neighbours decide, so that an axis in a wrong place shows."""

    def fill(folder: Path) -> None:
        torch.manual_seed(0)
        for axes, description, layer in ((3, THREE, nn.Conv3d), (2, TWO, nn.Conv2d)):
            inputs = len(description.channels)
            network = nn.Sequential(layer(inputs, 4, 3, padding=1), nn.ReLU(), layer(4, 3, 3, padding=1, bias=False))
            write_onnx(network, description, folder / f"{axes}.onnx")

    folder = made_once("networks_for_pages", fill)
    return {axes: folder / f"{axes}.onnx" for axes in (3, 2)}


# Of a good file: other bytes, by where they begin, as struct has them
Changes = list[tuple[int, str, Any]]
AXIS_OF_ONE: Changes = [(40, "<h", 5), (48, "<h", 1), (50, "<h", 1)]
ODD: dict[str, tuple[str, Any, Changes]] = {
    "no slope": ("SimpleITKIO", np.int16, [(112, "<f", 0), (116, "<f", 300)]),
    "a slope that is no number": ("SimpleITKIO", np.int16, [(112, "<f", np.nan), (116, "<f", 300)]),
    "an intercept that is no number": ("SimpleITKIO", np.int16, [(112, "<f", 0.5), (116, "<f", np.nan)]),
    "no slope, by nibabel": ("NibabelIO", np.int16, [(112, "<f", 0), (116, "<f", 300)]),
    "long numbers": ("NibabelIO", np.int64, [(112, "<f", 0.5), (116, "<f", -200)]),
    "an axis of one": ("SimpleITKIO", np.int64, AXIS_OF_ONE),
    "voxels that are no numbers": (
        "SimpleITKIO",
        np.float32,
        [(352 + 4 * 7_000, "<f", np.nan), (352 + 4 * 7_001, "<f", -np.inf)],
    ),
}


def image(
    path: Path, affine: Any, *, type: Any = np.int16, order: str = "<", seed: int = 0, changes: Changes | None = None
) -> Path:
    """Smooth, with 0 around it and in a hole."""
    voxels = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(23, 26, 20)), 1.5) * 2_000 + 700
    voxels[:3], voxels[:, -2:], voxels[9:12, 9:12, 9:12] = 0, 0, 0
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(type)
    whole = nib.Nifti1Image(voxels.astype(np.dtype(type).newbyteorder(order)), affine, header)
    content = bytearray(whole.to_bytes())
    for at, form, value in changes or []:
        struct.pack_into(form, content, at, value)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def segmented(page: Page, files: list[Path], to: Path) -> Path:
    """What the page offers, after it has segmented the files."""
    page.set_input_files("#files", files)
    page.wait_for_selector(DONE, timeout=MILLISECONDS)
    assert page.inner_text("#problem") == ""
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(to)
    return to


OBLIQUE = Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix()[:, [1, 2, 0]] @ np.diag([-0.8, 1.3, 0.9])
CASES: dict[str, tuple[Description, dict[str, Any]]] = {
    "in the file's axes": (
        replace(THREE, transpose=(1, 0, 2), normalisation=(Normalisation(scheme="ZScoreNormalization", masked=True),)),
        {"affine": np.diag([0.8, 1.3, 0.9, 1]), "type": np.int64, "changes": AXIS_OF_ONE},
    ),
    "reoriented, thick slices": (
        replace(
            THREE,
            reader="NibabelIOWithReorient",
            spacing=(3.9, 0.7, 1.1),
            transpose=(2, 1, 0),
            normalisation=(Normalisation(scheme="CTNormalization", lower=0, upper=900, mean=500, std=300),),
            labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3},
            regions=(1, 300, 2),
            postprocessing=((1, 300), (2,)),
        ),
        {"affine": from_matvec(OBLIQUE, [5, -7, 9]), "type": np.float32},
    ),
    "two axes and channels, of other bytes": (
        TWO,
        {"affine": np.diag([0.8, 1.3, 5, 1]), "type": np.float64, "order": ">"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_page_segments_as_predict_does(
    name: str, runtime: Runtime, networks: dict[int, Path], tmp_path: Path, opened: Callable[..., Page]
) -> None:
    description, made = CASES[name]
    model, channels = networks[len(description.patch)], range(len(description.channels))
    files = [image(tmp_path / f"case_000{number}.nii.gz", **made, seed=number) for number in channels]
    outcomes = list(predict(description, Model(model, threads=1), [Case("case", tuple(files))], tmp_path / "out"))
    assert [problem for _, problem in outcomes] == [None]
    write_html(model, description, runtime, tmp_path / "page.html")
    page = opened(tmp_path / "page.html", offline=True)
    found = nib.load(segmented(page, files[::-1], tmp_path / "case.nii.gz"))
    wanted = nib.load(tmp_path / "out" / "case.nii.gz")
    assert found.get_data_dtype() == wanted.get_data_dtype() and np.allclose(found.affine, wanted.affine, atol=1e-4)
    labels, expected = (np.asanyarray(one.dataobj) for one in (found, wanted))
    assert labels.shape == expected.shape and np.mean(labels == expected) >= 0.999
    shares = [np.mean(expected == value) for value in np.unique(expected)]
    assert len(shares) >= 3 and min(shares) > 0.005, shares
    assert "<i>Task</i>" in page.inner_text("h1") and page.locator("#labels tr").count() == len(description.labels) - 1
    if len(files) > 1:
        page.set_input_files("#files", [files[0], image(tmp_path / "case_0002.nii", np.eye(4))])
        page.wait_for_selector("#problem:not(:empty)", timeout=MILLISECONDS)
        assert page.inner_text("#problem") == "case_0002.nii has voxels of another number or size than case_0000.nii.gz."


READ = """async ([content, reader]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const image = await readNifti(new File([bytes], "case_0000.nii"), reader);
    return { ...image, voxels: Array.from(image.voxels) };
}"""


def test_odd_headers_mean_what_predict_takes_them_for(tmp_path: Path, browser: Browser) -> None:
    """Readers differ in what they make of numbers that are none."""
    page = browser.new_page()
    for script in ("preprocessing", "nifti"):
        page.add_script_tag(path=Path(html_file.__file__).with_name("browser") / f"{script}.js")
    for name, (reader, type, changes) in ODD.items():
        description = replace(THREE, reader=reader)
        file = image(tmp_path / f"{name}_0000.nii", np.diag([0.8, 1.3, 0.9, 1]), type=type, changes=changes)
        wanted = read_case(Case(name, (file,)), description)
        found = page.evaluate(READ, [base64.b64encode(file.read_bytes()).decode(), reader])
        assert tuple(found["shape"]) == wanted.voxels.shape[1:] and np.allclose(found["spacing"], wanted.spacing), name
        assert np.array_equal(found["voxels"], wanted.voxels.astype(np.float32).ravel()), name
    page.close()


def test_the_page_says_what_is_wrong_and_goes_on(
    runtime: Runtime, networks: dict[int, Path], tmp_path: Path, opened: Callable[..., Page]
) -> None:
    write_html(networks[3], THREE, runtime, tmp_path / "page.html")
    page = opened(tmp_path / "page.html", offline=True)
    good = image(tmp_path / "good.nii", np.eye(4))
    whole = good.read_bytes()

    def changed(name: str, at: int, form: str, *values: float) -> Path:
        path, part = tmp_path / f"{name}.nii", struct.pack(form, *values)
        path.write_bytes(whole[:at] + part + whole[at + len(part) :])
        return path

    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(gzip.compress(whole)[:-1000])
    for path, said in (
        (changed("other", 0, "<i", 7), "it is no NIfTI-1 file"),
        (changed("axes", 40, "<8h", 4, 23, 26, 20, 2, 1, 1, 1), "it has 4 axes; expected 3"),
        (changed("none", 42, "<h", -3), "its header says -3 x 26 x 20 voxels"),
        (changed("huge", 42, "<3h", 32767, 32767, 32767), "too many for a browser; use monai-prox predict"),
        (changed("longer", 42, "<h", 24), "it ends too early"),
        (changed("colours", 70, "<h", 128), "its voxels have the type 128"),
        (changed("flat", 80, "<f", 0), "its voxels have 0 x 1 x 1 mm"),
        (changed("metres", 123, "<B", 1), "its spacing is not in mm"),
        (changed("before", 108, "<f", -8), "its voxels begin at the byte -8"),
        (changed("fine", 80, "<3f", 200, 200, 200), "GB of memory, and a browser has about"),
        (changed("coarse", 80, "<f", 0.001), "it vanishes there"),
        (cut, "it is no whole gzip file of one part"),
    ):
        page.set_input_files("#files", path)
        page.wait_for_selector("#problem:not(:empty)", timeout=MILLISECONDS)
        assert said in page.inner_text("#problem"), path.name
        page.evaluate("say('')")
    page.set_input_files("#files", [good, cut])
    page.wait_for_selector("#problem:not(:empty)")
    assert page.inner_text("#problem") == "The network needs 1 file (MRI), got 2."
    page.set_input_files("#files", good)
    page.click("#cancel")
    assert page.inner_text("#status") == "Cancelled." and page.locator("#result").is_hidden()
    labels = read_labels(segmented(page, [good], tmp_path / "labels.nii.gz"), None)
    assert labels.shape == (20, 26, 23) and labels.any()


def test_the_page_may_connect_to_nothing(networks: dict[int, Path], tmp_path: Path, browser: Browser) -> None:
    """By its policy, whatever a script in it would try."""
    write_html(networks[3], THREE, Runtime(b"", b""), tmp_path / "page.html")
    page, asked = browser.new_page(), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    attempt = """() => new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
        fetch("http://localhost:9/").then(() => resolve("sent"), () => {});
    })"""
    assert page.evaluate(attempt) == "connect-src" and asked == [(tmp_path / "page.html").as_uri()]
    page.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reader": "LoadImage"}, "images are read by LoadImage; --format html allows SimpleITKIO, NibabelIO"),
        ({"reader": "NaturalImage2DIO", "file_ending": ".png"}, "images are read by NaturalImage2DIO"),
        ({"file_ending": ".nrrd"}, "images end in .nrrd; --format html allows .nii.gz, .nii"),
        ({"logits": Resampling(order=2)}, "splines are of the order 2; --format html allows 0, 1, 3"),
    ],
    ids=str,
)
def test_what_the_page_cannot_repeat_is_refused(changes: dict[str, Any], said: str) -> None:
    check_page(THREE)
    refused(said, check_page, replace(THREE, **changes))
    refused("--format html is for members that segment", check_page, SCANS)


def test_what_is_said_of_the_weights_is_text_on_the_page(tmp_path: Path) -> None:
    model, output = tmp_path / "model.onnx", tmp_path / "page.html"
    model.write_bytes(b"")
    write_html(model, replace(THREE, license="CC-BY 4.0, <b>Our Clinic</b>"), Runtime(b"", b""), output)
    assert "Said of the weights: CC-BY 4.0, &lt;b&gt;Our Clinic&lt;/b&gt;." in output.read_text()
    write_html(model, THREE, Runtime(b"", b""), output)
    assert "Said of the weights" not in output.read_text()


def test_a_model_that_no_browser_reads_is_refused(
    networks: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_file, "MOST_BYTES", 1000)
    runtime, output = Runtime(b"", b""), tmp_path / "page.html"
    refused("bytes, a page holds 1,000; take a smaller member", write_html, networks[3], THREE, runtime, output)
    assert not output.exists()


def test_the_command_writes_a_page(runtime: Runtime, bare: Path, tmp_path: Path) -> None:
    model = bare_model(bare_plans(patch=(16, 16), **TWO_LEVELS), cls=nnUNetTrainer).path
    output, web = tmp_path / "page.html", tmp_path / "dist"
    web.mkdir()
    for name, content in ((SCRIPT, runtime.script), (WASM, runtime.wasm)):
        (web / name).write_bytes(content)
    words = ("export", model, "-o", output, "--onnxruntime-web", web, "--format")
    assert prox(*words, "onnx").error == "--onnxruntime-web is for --format html, got onnx"
    assert "--any-patch is not for --format html" in prox(*words, "html", "--any-patch").error
    for option in ("--int8", "--half"):
        assert prox(*words, "html", option).error.endswith("for html; allowed: onnx, openvino")
    done = prox(*words, "html", "--portable")
    assert done.code == 0 and done.out.endswith(f"{output}\nOpen it in a browser.\n"), done.err
    page = output.read_text()
    (packed,) = re.findall(r'<script type="text/plain" id="model">(.*?)</script>', page)
    written = onnx.load_from_string(gzip.decompress(base64.b64decode(packed)))
    assert "ConvTranspose" not in {node.op_type for node in written.graph.node}
    assert "Microsoft Corporation, MIT License" in page and "default-src 'none'" in page


def test_only_the_known_onnx_runtime_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(f"cannot read {tmp_path / SCRIPT} of onnxruntime-web", find_runtime, tmp_path)
    for name in DIGESTS:
        (tmp_path / name).write_bytes(b"another")
    refused(f"{tmp_path / SCRIPT} is not that of onnxruntime-web", find_runtime, tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = tmp_path / "package.tgz"
    monkeypatch.setattr(onnxruntime_web, "ADDRESS", package.as_uri())
    refused("give --onnxruntime-web, the folder dist of the npm package", find_runtime)
    package.write_bytes(b"another")
    refused("its SHA-512 differs", find_runtime)
    assert not (tmp_path / "cache").exists()
