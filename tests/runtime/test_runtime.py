"""Prediction without torch against nnU-Net's own code: each step, and the whole on files."""

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from helpers.nnunet_task import (
    BARE_DATASET,
    SHALLOW,
    TWO_LEVELS,
    TWO_MEMBERS,
    bare_model,
    bare_plans,
    device_file,
    stock_predictor,
)
from helpers.orientations import stored
from helpers.refusals import refused
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from monai_prox.export.nnunet import export_nnunet
from monai_prox.runtime.cases import Case, find_cases
from monai_prox.runtime.description import KEY, Description, Resampling, read_description, write_description
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.images import Image
from monai_prox.runtime.labels import labels
from monai_prox.runtime.mirroring import mirrored
from monai_prox.runtime.model import Model, Network
from monai_prox.runtime.prediction import predict
from monai_prox.runtime.preprocessing import prepare, preprocess
from monai_prox.runtime.resampling import resample
from monai_prox.runtime.sliding_window import sliding_window
from monai_prox.search.torch_runner import runnable
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet, describe

pytest_plugins = ["helpers.nnunet_fixtures"]

CT = {"mean": 40.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 300.0}
SHAPE, SPACING = (20, 34, 27), (1.3, 0.9, 0.8)
RESAMPLED = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
ONLY_ON_THE_WAY = (
    "torch",
    "torchvision",
    "nnunetv2",
    "batchgenerators",
    "monai",
    "nibabel",
    "skimage",
    "pandas",
    "matplotlib",
    "onnx",
)
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2]},
    "regions_class_order": [1, 2],
}


def plans_of(**changes: Any) -> dict[str, Any]:
    """Plans with the entries of ``changes``, wherever they belong."""
    plans = bare_plans(patch=changes.pop("patch", (16, 24, 16)), spacing=changes.pop("spacing", (1.0, 1.0, 1.0)), **SHALLOW)
    (configuration,) = plans["configurations"].values()
    for key, value in changes.items():
        (configuration if key in configuration else plans)[key] = value
    return plans


def description_of(plans: dict[str, Any], dataset: dict[str, Any] = BARE_DATASET) -> Description:
    return describe(plans, next(iter(plans["configurations"])), dataset, member="largest", subnet={}, source="a test")


def image_of(channels: int = 1, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Noise of about 480 in a box within zeros, with a hole of zeros in it."""
    image = np.random.default_rng(seed).normal(480, 130, (channels, *shape)).astype(np.float32)
    image[:, :3], image[:, :, -5:] = 0, 0
    image[:, 9:11, 12:15, 8:12] = 0
    return image


def by_nnunet(image: np.ndarray, plans: dict[str, Any], dataset: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    manager = PlansManager(deepcopy(plans))
    configuration = manager.get_configuration(next(iter(plans["configurations"])))
    properties = {"spacing": list(SPACING)}
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image, None, properties, manager, configuration, dataset
    )
    return data, properties


# ---------------------------------------------------------------------- steps
sizes = st.tuples(*[st.integers(2, 24)] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5, 5.0])] * 3)


@given(
    sizes, sizes, spacings, spacings, st.sampled_from([0, 1, 3]), st.sampled_from([0, 1]), st.sampled_from([None, True, False])
)
def test_resampling_is_nnunets(
    old: tuple[int, ...],
    new: tuple[int, ...],
    before: tuple[float, ...],
    after: tuple[float, ...],
    order: int,
    order_z: int,
    separate: bool | None,
) -> None:
    image = np.random.default_rng(0).normal(size=old).astype(np.float32)
    expected = resample_data_or_seg_to_shape(
        image[None], new, before, after, order=order, order_z=order_z, force_separate_z=separate
    )[0]
    found = resample(image, new, before, after, Resampling(order=order, order_z=order_z, separate_z=separate))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


PREPROCESSING: dict[str, dict[str, Any]] = {
    "z-score": {},
    "z-score within a mask": {"use_mask_for_norm": [True]},
    "CT": {"normalization_schemes": ["CTNormalization"], "foreground_intensity_properties_per_channel": {"0": CT}},
    "to 0 and 1": {"normalization_schemes": ["RescaleTo01Normalization"]},
    "none": {"normalization_schemes": ["NoNormalization"]},
    "two channels": {
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, True],
        "foreground_intensity_properties_per_channel": {"0": CT, "1": CT},
    },
    "turned": {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2], "spacing": (0.7, 1.1, 1.0)},
    "turned around": {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0], "spacing": (0.7, 1.1, 1.0)},
    "thick slices": {"spacing": (5.0, 0.9, 1.1)},
    "2d": {"patch": (24, 32), "spacing": (1.0, 0.7, 0.9)},
}


@pytest.mark.parametrize("kind", PREPROCESSING)
def test_preprocessing_and_its_way_back_are_nnunets(kind: str) -> None:
    changes = dict(PREPROCESSING[kind])
    channels = len(changes.get("normalization_schemes", "1"))
    dataset = BARE_DATASET | {"channel_names": {str(index): f"channel {index}" for index in range(channels)}}
    plans = plans_of(**changes)
    description = description_of(plans, dataset)
    image = image_of(channels)
    expected, properties = by_nnunet(image, plans, dataset)
    found, grid = preprocess(image.copy(), SPACING, description)
    np.testing.assert_allclose(found, expected, atol=2e-3 if "none" in kind else 1e-4, rtol=1e-5)

    manager = PlansManager(deepcopy(plans))
    configuration = manager.get_configuration(next(iter(plans["configurations"])))
    for of in (dataset, dataset | REGIONS):
        described, label_manager = description_of(plans, of), manager.get_label_manager(of)
        logits = np.random.default_rng(1).normal(size=(described.outputs, *grid.shape)).astype(np.float32)
        wanted = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.copy(), manager, configuration, label_manager, properties
        )
        segmented = labels(logits, grid, described)
        assert segmented.shape == SHAPE and segmented.dtype == np.uint8
        assert np.mean(segmented == wanted) > 0.9999
        assert set(np.unique(segmented)) == ({0, 1, 2})


@pytest.mark.parametrize(
    ("patch", "shape", "step", "axes"),
    [
        ((16, 24, 16), (40, 29, 33), 0.5, ()),
        ((16, 24, 16), (11, 50, 16), 0.5, (0, 1, 2)),
        ((15, 9, 7), (40, 20, 23), 0.7, ()),
        ((16, 24, 16), (40, 29, 33), 1.0, (0, 2)),
        ((24, 32), (5, 61, 30), 0.5, ()),
        ((24, 32), (3, 61, 30), 0.3, (0, 1)),
    ],
)
def test_tiles_are_laid_mirrored_and_weighed_as_nnunets(
    patch: tuple[int, ...], shape: tuple[int, ...], step: float, axes: tuple[int, ...]
) -> None:
    """With a network whose outputs tell where in its tile a voxel lies."""

    class Where(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ramp = torch.linspace(0, 1, x.shape[-1]).expand_as(x)
            return torch.cat([x, x * ramp, ramp], 1)

    plans = plans_of(patch=patch)
    predictor = nnUNetPredictor(step, use_mirroring=bool(axes), device=torch.device("cpu"), allow_tqdm=False)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(next(iter(plans["configurations"])))
    predictor.manual_initialization(Where(), manager, configuration, None, BARE_DATASET, "nnUNetTrainer", axes)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    expected = predictor.predict_sliding_window_return_logits(torch.from_numpy(image)).float().numpy()
    calls: list[int] = []
    network = mirrored(lambda x: Where()(torch.from_numpy(x)).numpy(), axes)
    found = sliding_window(image, patch, 3, network, step=step, done=calls.append)
    assert found.shape == expected.shape and len(calls) > 1 and set(calls) == {len(calls)}
    # In the outermost corners nnU-Net's weights underflow; elsewhere both sum halves, in another order.
    assert np.mean(np.abs(found.astype(np.float32) - expected) < 0.02) > 0.99
    np.testing.assert_allclose(found[0].astype(np.float32), image[0], atol=0.01)  # the weights of all tiles add up to 1


@pytest.mark.parametrize(("patch", "step"), [((3, 3, 3), 0.3), ((4, 8, 8), 0.2), ((4, 4, 4), 0.1)])
def test_weights_add_up_to_one_where_several_tiles_begin_at_one_voxel(patch: tuple[int, ...], step: float) -> None:
    image = np.full((1, 9, 12, 10), 7, np.float32)
    onto = np.zeros(image.shape, np.float16), np.ones(image.shape[1:], bool)
    for some in (None, onto):
        np.testing.assert_allclose(sliding_window(image, patch, 1, lambda x: x, step=step, onto=some), image, rtol=0.05)


def test_of_an_odd_border_one_voxel_more_lies_behind() -> None:
    """As nnU-Net pads, on every axis: 3 voxels are missing on the first, 2 on the second and 1 on the third."""
    image, seen = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 2, 2), list[np.ndarray]()
    found = sliding_window(image, (5, 4, 3), 1, lambda x: seen.append(x) or x)
    (tile,) = seen
    np.testing.assert_array_equal(tile, np.pad(image[None], [(0, 0), (0, 0), (1, 2), (1, 1), (0, 1)]))
    np.testing.assert_array_equal(tile[0], pad_nd_image(image, (5, 4, 3)))
    np.testing.assert_array_equal(found, image)


# ---------------------------------------------------------------------- the file
def test_an_older_dataset_calls_its_channels_modality() -> None:
    dataset = {key: value for key, value in BARE_DATASET.items() if key != "channel_names"} | {"modality": {"0": "CT"}}
    assert description_of(plans_of(), dataset).channels == ("CT",)


@pytest.fixture
def smallest(two_members: Path) -> Model:
    return Model(two_members / "smallest.onnx", threads=1)


def test_the_file_of_two_axes_computes_what_the_member_does(bare: Path, tmp_path: Path) -> None:
    """For any number of images in a batch."""
    folder = bare_model(bare_plans(patch=(24, 32), **TWO_LEVELS))
    path = device_file(folder, "smallest", tmp_path / "new" / "model.onnx")
    computes_what_the_member_does(Model(path, threads=1), folder, "smallest")


def test_the_file_for_any_patch_computes_what_the_member_does(any_patch: Path) -> None:
    """Of a residual network, for patches of any size, too."""
    opened, folder = Model(any_patch / "largest.onnx", threads=1), ModelFolder.open(any_patch / "model")
    computes_what_the_member_does(opened, folder, "largest", any_patch=True)


def test_the_smaller_file_computes_what_the_smaller_member_does(smallest: Model, two_members: Path) -> None:
    computes_what_the_member_does(smallest, ModelFolder.open(two_members / "model"), "smallest")


def computes_what_the_member_does(opened: Model, folder: ModelFolder, which: str, *, any_patch: bool = False) -> None:
    name, subnet = folder.member(which)
    network = folder.supernet(folder.checkpoint("fold_0")).extract(subnet)
    description = description_in(opened)
    assert description.member == name and description.subnet == subnet.to_json()
    patch = description.patch
    shapes = [(1, *patch), (3, *patch)] + ([(1, *(2 * side for side in patch))] if any_patch else [])
    for batch, *size in shapes:
        x = torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            np.testing.assert_allclose(opened(x.numpy()), network(x).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("format", "ending"), [pytest.param("openvino", ".xml", marks=pytest.mark.alone), ("torchscript", ".ts")]
)
def test_files_of_other_formats_compute_what_the_member_does(format: str, ending: str, bare: Path, tmp_path: Path) -> None:
    model = bare_model(bare_plans(**TWO_LEVELS))
    _, subnet = model.member("largest")
    network = model.supernet(model.checkpoint("fold_0")).extract(subnet)
    path = device_file(model, "largest", tmp_path / f"model{ending}", format, any_patch=True)
    opened = Model(path, threads=1)
    assert description_in(opened).member == "largest"
    patch = description_in(opened).patch
    for batch, *size in [(1, *patch), (3, *(2 * side for side in patch))]:
        x = torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            # logits of some ten: OpenVINO chooses its convolutions by the processor
            np.testing.assert_allclose(opened(x.numpy()), network(x).numpy(), rtol=1e-4, atol=5e-4)


def test_the_description_travels_in_the_file(two_members: Path, smallest: Model, tmp_path: Path) -> None:
    written = onnx.load(two_members / "smallest.onnx")
    onnx.checker.check_model(written)
    assert [one.version for one in written.opset_import if one.domain == ""] == [18]
    described = description_in(smallest)
    family = TrainedNNUNet.open(two_members / "model")
    plans = json.loads((export_nnunet(family, "smallest", tmp_path / "plain") / "plans.json").read_text())
    (configuration,) = plans["configurations"].values()
    assert list(described.patch) == configuration["patch_size"] and list(described.spacing) == configuration["spacing"]
    assert described.channels == ("MRI",) and described.labels == BARE_DATASET["labels"] and described.outputs == 3
    assert read_description(write_description(described), "a test") == described


# ---------------------------------------------------------------------- from files to files
def write_image(path: Path, seed: int, spacing: tuple[float, ...] = SPACING, array: np.ndarray | None = None) -> None:
    image = sitk.GetImageFromArray(image_of(seed=seed)[0] if array is None else array)
    image.SetSpacing([float(mm) for mm in spacing[::-1]])
    image.SetOrigin((5.0, -3.0, 8.0))
    image.SetDirection((0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(2):
        write_image(folder / f"case_{index}_0000.nii.gz", index)
    return folder


def description_in(model: Model) -> Description:
    assert isinstance(model.description, Description)
    return model.description


def predicted(model: Model, cases: list[Case], output: Path) -> dict[str, Any]:
    return predicted_by(model, description_in(model), cases, output)


def predicted_by(network: Network, description: Description, cases: list[Case], output: Path) -> dict[str, Any]:
    return {case.name: problem for case, problem in predict(description, network, cases, output)}


def in_torch(model: ModelFolder, which: str = "largest") -> tuple[Description, Network]:
    """A member without a file: that one computes the same is shown above, and the exporter takes seconds."""
    source = TrainedNNUNet.of(model)
    name, subnet = source.member(which)
    return source.describe(subnet, name=name), runnable(source.network(subnet))


def compared_with_nnunets(cases: list[Case], predictor: nnUNetPredictor, output: Path) -> None:
    """On noise and random weights, which show every difference, that of nnU-Net's halves in the outermost corners, too."""
    theirs = predictor.predict_from_files_sequential([[str(case.files[0])] for case in cases], None)
    for case, wanted in zip(cases, theirs, strict=True):
        found, original = sitk.ReadImage(output / f"{case.name}.nii.gz"), sitk.ReadImage(case.files[0])
        array = sitk.GetArrayFromImage(found)
        assert np.mean(array == wanted) >= 0.997 and len(np.unique(array)) > 1
        assert found.GetSpacing() == original.GetSpacing() and found.GetOrigin() == original.GetOrigin()
        assert found.GetDirection() == original.GetDirection()


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_files_become_what_nnunet_makes_of_them(which: str, two_members: Path, images: Path, tmp_path: Path) -> None:
    opened = Model(two_members / f"{which}.onnx", threads=1)
    cases = find_cases(images, description_in(opened))
    assert predicted(opened, cases, tmp_path / "ours") == {"case_0": None, "case_1": None}
    predictor = stock_predictor(ModelFolder.open(two_members / "model"), which, tmp_path / "plain")
    compared_with_nnunets(cases, predictor, tmp_path / "ours")


def test_files_whose_axes_a_plan_turns_become_what_nnunet_makes_of_them(bare: Path, images: Path, tmp_path: Path) -> None:
    turned = {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0], "spacing": (0.7, 1.1, 1.0)}
    model = bare_model(plans_of(**turned, prox={"space": TWO_MEMBERS}))
    description, network = in_torch(model)
    cases = find_cases(images, description)
    assert predicted_by(network, description, cases, tmp_path / "ours") == {"case_0": None, "case_1": None}
    compared_with_nnunets(cases, stock_predictor(model), tmp_path / "ours")


def test_cases_are_found_by_name(images: Path, tmp_path: Path) -> None:
    path, description = images / "case_0_0000.nii.gz", description_of(plans_of())
    assert find_cases(path, description) == [Case("case_0", (path,))]
    refused("no image named like case_0000.nii.gz", find_cases, images.parent, description)
    refused("there is no folder and no image", find_cases, images / "missing", description)
    words = "is not an image of the kind that the network is for, *.nrrd"
    refused(words, find_cases, path, replace(description, file_ending=".nrrd"))
    for name in ("a_0000", "a_0001", "a_0000_0000", "a_0000_0001"):
        (tmp_path / f"{name}.nii.gz").touch()
    assert [(case.name, len(case.files)) for case in find_cases(tmp_path, description)] == [("a", 2), ("a_0000", 2)]


def test_what_cannot_be_predicted_stops_nothing_else(
    smallest: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "broken_0000.nii.gz").write_bytes(b"no image")
    write_image(images / "tiny_0000.nii.gz", 0, spacing=(0.001, 1, 1))
    write_image(images / "two_0000.nii.gz", 0)
    write_image(images / "two_0001.nii.gz", 1)
    write_image(images / "huge_0000.nii.gz", 0, array=np.ones((4, 4, 4), np.float32))

    def limited(image: Image, *arguments: Any, **keywords: Any) -> tuple[np.ndarray, Grid]:
        if image.voxels.shape == (1, 4, 4, 4):
            raise MemoryError
        return prepare(image, *arguments, **keywords)

    monkeypatch.setattr("monai_prox.runtime.read_ahead.prepare", limited)
    problems = predicted(smallest, find_cases(images, description_in(smallest)), tmp_path / "output")
    assert [name for name, problem in problems.items() if problem is None] == ["case_0", "case_1"]
    assert "broken_0000.nii.gz cannot be read" in problems["broken"]
    assert problems["huge"] == "MemoryError"
    assert "vanishes at the network's spacing" in problems["tiny"]
    assert problems["two"] == "the network needs two_0000.nii.gz (MRI); there is two_0000.nii.gz, two_0001.nii.gz"
    written = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert written == ["case_0.nii.gz", "case_1.nii.gz"]


def test_outputs_that_are_no_numbers_are_seen() -> None:
    image = np.zeros((1, 8, 8, 8), np.float32)
    for value in (np.nan, 1e6):
        refused("beyond what half precision holds", sliding_window, image, (8, 8, 8), 1, lambda x, value=value: x + value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_seen(value: float) -> None:
    """SimpleITK makes them 0 in NIfTI files, in other formats it leaves them."""
    image = image_of()
    image[0, 7, 7, 7] = value
    words = "the channel MRI has voxels that are no numbers, or infinite"
    refused(words, preprocess, image, SPACING, description_of(plans_of()))


def test_values_beyond_those_of_an_rgb_image_are_refused() -> None:
    plans = plans_of(normalization_schemes=["RGBTo01Normalization"])
    refused("values from -1.0 to 300.0; allowed: 0 to 255", preprocess, *rgb(-1, 300), description_of(plans))
    found, _ = preprocess(*rgb(0, 255), description_of(plans | {"spacing": (1.0, 1.0, 1.0)}))
    assert found.min() == 0 and found.max() == 1


def rgb(low: float, high: float) -> tuple[np.ndarray, tuple[float, ...]]:
    return np.stack([np.linspace(low, high, 64, dtype=np.float32).reshape(4, 4, 4)]), (1.0, 1.0, 1.0)


@pytest.mark.parametrize("ending", [".mhd", ".hdr", ".img", ".nhdr"])
def test_masks_of_formats_of_two_files_are_whole(ending: str, tmp_path: Path) -> None:
    """The header, and the voxels beside it."""
    description = description_of(plans_of(), BARE_DATASET | {"file_ending": ending})
    (tmp_path / "images").mkdir()
    image = image_of()[0]
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "images" / f"case_0000{ending}")
    cases = find_cases(tmp_path / "images", description)

    def network(tile: np.ndarray) -> np.ndarray:
        return np.concatenate([-tile, tile, np.zeros_like(tile)], 1)

    for _ in range(2):
        assert [problem for _, problem in predict(description, network, cases, tmp_path / "masks")] == [None]
        mask = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "masks" / f"case{ending}"))
        assert mask.shape == image.shape and len(np.unique(mask)) > 1
        assert len(list((tmp_path / "masks").iterdir())) == 2


def test_an_image_is_never_replaced(smallest: Model, images: Path) -> None:
    (images / "case_0_0000.nii.gz").rename(images / "scan.nii.gz")
    before = (images / "scan.nii.gz").read_bytes()
    cases = find_cases(images / "scan.nii.gz", description_in(smallest))
    refused("would replace the image", predicted, smallest, cases, images)
    assert (images / "scan.nii.gz").read_bytes() == before


def test_channels_have_voxels_of_one_size(bare: Path, tmp_path: Path) -> None:
    dataset = BARE_DATASET | {"channel_names": {"0": "T1", "1": "T2"}}
    plans = plans_of(normalization_schemes=["ZScoreNormalization"] * 2, use_mask_for_norm=[False] * 2)
    description, network = in_torch(bare_model(plans, dataset=dataset), "smallest")
    for name in ("same", "coarser", "larger", "turned", "moved"):
        write_image(tmp_path / f"{name}_0000.nii.gz", 0)
        write_image(tmp_path / f"{name}_0001.nii.gz", 1, (1.0, 1.0, 1.0) if name == "coarser" else SPACING)
    other = sitk.ReadImage(tmp_path / "moved_0001.nii.gz")
    other.SetOrigin((9.0, -3.0, 8.0))
    sitk.WriteImage(other, tmp_path / "moved_0001.nii.gz")
    other.SetOrigin((5.0, -3.0, 8.0))
    other.SetDirection(np.eye(3).ravel().tolist())
    sitk.WriteImage(other, tmp_path / "turned_0001.nii.gz")
    larger = sitk.ConstantPad(sitk.ReadImage(tmp_path / "larger_0001.nii.gz"), (0, 0, 1))
    sitk.WriteImage(larger, tmp_path / "larger_0001.nii.gz")
    write_image(tmp_path / "alone_0001.nii.gz", 0)
    with pytest.warns(UserWarning, match=r"(turned|moved)_0001\.nii\.gz lies elsewhere than the first channel") as warned:
        problems = predicted_by(network, description, find_cases(tmp_path, description), tmp_path / "output")
    assert len(warned) == 2
    assert [problems.pop(name) for name in ("same", "turned", "moved")] == [None] * 3
    assert problems.pop("alone") == (
        "the network needs alone_0000.nii.gz (T1), alone_0001.nii.gz (T2); there is alone_0001.nii.gz"
    )
    assert set(problems) == {"coarser", "larger"}
    assert all(problem.startswith("the channels lie on different grids: ") for problem in problems.values())
    one = Image(image_of(), SPACING, lambda *_: None)
    refused("the network needs 2 channels (T1, T2), got 1", prepare, one, description)


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient"])
def test_files_by_nibabel_become_what_nnunet_makes_of_them(reader: str, bare: Path, tmp_path: Path) -> None:
    """Odd ones, too, and the others if one cannot be done: SimpleITK would refuse a sheared one, and take NaN for 0."""
    plans = plans_of(image_reader_writer=reader, prox={"space": TWO_MEMBERS})
    model, images = bare_model(plans), tmp_path / "images"
    affine = np.diag([-0.8, 0.9, 1.3, 1.0])
    sheared = nib.Nifti1Image(image_of()[0].T, affine + np.diag([0.2, 0, 0], 1))
    sheared.set_qform(None, code=0)
    micron = nib.Nifti1Image(image_of(seed=1)[0].T, affine)
    micron.header.set_xyzt_units("micron")
    images.mkdir()
    for name, image in {"sheared": sheared, "micron": micron, "turned": stored(micron, "SRA")}.items():
        nib.save(image, images / f"{name}_0000.nii.gz")
    array = image_of()[0]
    array[7, 7, 7] = np.nan
    nib.save(nib.Nifti1Image(array, affine), images / "unknown_0000.nii.gz")
    description, network = in_torch(model)
    cases = find_cases(images, description)
    problems = predicted_by(network, description, cases, tmp_path / "ours")
    assert problems.pop("unknown") == "the channel MRI has voxels that are no numbers, or infinite"
    assert problems == {"micron": None, "sheared": None, "turned": None}
    predictor = stock_predictor(model)
    for case in cases[:3]:
        predictor.predict_from_files_sequential([list(map(str, case.files))], [str(tmp_path / case.name)])
        found, wanted = (nib.load(folder / f"{case.name}.nii.gz") for folder in (tmp_path / "ours", tmp_path))
        assert np.mean(np.asarray(found.dataobj) == np.asarray(wanted.dataobj)) >= 0.997
        np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-6)


@pytest.mark.parametrize("ending", [".mha", ".png"])
def test_images_of_two_axes_become_what_nnunet_makes_of_them(ending: str, bare: Path, tmp_path: Path) -> None:
    picture = ending == ".png"
    plans = plans_of(patch=(24, 32), image_reader_writer="NaturalImage2DIO" if picture else "SimpleITKIO")
    model = bare_model(plans, dataset=BARE_DATASET | {"file_ending": ending})
    image = sitk.GetImageFromArray(image_of(shape=(20, 50, 40))[0, 10].clip(0).astype(np.uint8 if picture else np.float32))
    image.SetSpacing((1.0, 1.0) if picture else (0.8, 1.1))
    (tmp_path / "images").mkdir()
    sitk.WriteImage(image, tmp_path / "images" / f"a.b_0000{ending}")
    description, network = in_torch(model)
    cases = find_cases(tmp_path / "images", description)
    assert predicted_by(network, description, cases, tmp_path / "ours") == {"a.b": None}
    stock_predictor(model).predict_from_files_sequential([list(map(str, cases[0].files))], [str(tmp_path / "a.b")])
    found, wanted = (sitk.ReadImage(folder / f"a.b{ending}") for folder in (tmp_path / "ours", tmp_path))
    arrays = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(wanted)
    assert arrays[0].shape == (50, 40) and len(np.unique(arrays[0])) > 1
    assert np.mean(arrays[0] == arrays[1]) >= 0.997
    assert found.GetSpacing() == wanted.GetSpacing()


def test_an_image_of_zeros_is_predicted_as_by_nnunet_with_a_warning(two_members: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty_0000.nii.gz"
    write_image(path, 0, array=np.zeros(SHAPE, np.float32))
    opened, model = Model(two_members / "largest.onnx", threads=1), ModelFolder.open(two_members / "model")
    with pytest.warns(UserWarning, match=r"empty_0000\.nii\.gz is 0 everywhere"):
        assert predicted(opened, find_cases(path, description_in(opened)), tmp_path / "ours") == {"empty": None}
    (wanted,) = stock_predictor(model, output=tmp_path / "plain").predict_from_files_sequential([[str(path)]], None)
    found = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "ours" / "empty.nii.gz"))
    assert np.mean(found == wanted) >= 0.99


def test_a_folder_that_cannot_be_written_is_named(smallest: Model, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases = find_cases(images, description_in(smallest))
    refused(f"cannot write to {tmp_path / 'file'}", predicted, smallest, cases, tmp_path / "file")


# ---------------------------------------------------------------------- files that are not ours
def test_other_files_are_refused(two_members: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    refused("cannot be read as a model", Model, path)
    refused("there is no file", Model, tmp_path / "missing.onnx")
    refused("is no model file; known are files that end in .onnx, .xml, .ts", Model, tmp_path / "model.pdf")
    written = onnx.load(two_members / "smallest.onnx")
    described = json.loads(written.metadata_props[0].value)
    for change, words in [
        ({"format": 99}, "has format and kind (99, 'segmentation'); this version reads the formats 1, 2, 3, segmentation and"),
        ({"patch": None}, "is malformed"),
        ({"normalisation": [{"scheme": "Mystery"}]}, "the normalisation 'Mystery' is not known"),
    ]:
        onnx.helper.set_model_props(written, {KEY: json.dumps(described | change)})
        onnx.save(written, path)
        refused(words, Model, path)
    onnx.helper.set_model_props(written, {KEY: "{"})
    onnx.save(written, path)
    assert refused("its description is not valid JSON", Model, path).startswith(f"{path}: "), "it is a model, and is named once"
    del described["spacing"]
    onnx.helper.set_model_props(written, {KEY: json.dumps(described)})
    onnx.save(written, path)
    refused("its description lacks spacing", Model, path)
    del written.metadata_props[:]
    onnx.save(written, path)
    refused("it was not written by monai-prox export", Model, path)


def test_nothing_is_overwritten_or_half_written(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **TWO_LEVELS))
    path = tmp_path / "model.ts"
    path.write_text("mine")
    to_it = device_file, model, "smallest", path, "torchscript"
    refused(f"{path} exists", *to_it)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.jit, "save", full)
    refused("No space left on device; nothing was left behind", *to_it, overwrite=True)
    assert path.read_text() == "mine" and [entry.name for entry in tmp_path.glob("*.ts*")] == ["model.ts"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalization_schemes": ["MyNormalization"]}, "'MyNormalization' is not nnU-Net's own"),
        ({"resampling_fn_data": "resample_torch"}, "resampling_fn_data is resample_torch"),
        ({"resampling_fn_data_kwargs": RESAMPLED | {"separate_z_anisotropy_threshold": 5}}, "resampling_fn_data_kwargs are"),
        ({"resampling_fn_probabilities_kwargs": RESAMPLED | {"order": 3}}, "order 0 to 1"),
        ({"label_manager": "MyLabels"}, "label_manager is MyLabels"),
        ({"preprocessor_name": "MyPreprocessor"}, "preprocessor_name is MyPreprocessor"),
        ({"image_reader_writer": "Tiff3DIO"}, "image_reader_writer is Tiff3DIO"),
    ],
)
def test_plans_that_the_runtime_cannot_repeat_are_refused(change: dict[str, Any], words: str) -> None:
    refused(words, description_of, plans_of(**change))


# ---------------------------------------------------------------------- without torch
def test_the_command_predicts_where_there_is_no_torch(two_members: Path, images: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(two_members / "smallest.onnx", tmp_path / "model.onnx"))
    (images / "broken_0000.nii.gz").write_bytes(b"no image")
    write_image(images / "empty_0000.nii.gz", 0, array=np.zeros(SHAPE, np.float32))
    block = f"import sys\nsys.modules.update(dict.fromkeys({ONLY_ON_THE_WAY!r}))\n"
    code = block + "from monai_prox.cli.app import main\nmain()"
    command = [sys.executable, "-c", code, "predict", path, "-i", images, "-o", tmp_path / "output", "--threads", 1]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{tmp_path / 'output'}: 3 of 4 cases" in done.stdout
    assert "broken: " in done.stderr and "cannot be read" in done.stderr
    assert f"warning: {images / 'empty_0000.nii.gz'} is 0 everywhere; nothing can be seen in it" in done.stderr.splitlines()
    assert {entry.name for entry in (tmp_path / "output").iterdir()} == {f"{n}.nii.gz" for n in ("case_0", "case_1", "empty")}
    written = onnx.load(path)  # as if the plan named nibabel's reader
    described = json.loads(written.metadata_props[0].value) | {"reader": "NibabelIO"}
    onnx.helper.set_model_props(written, {KEY: json.dumps(described)})
    onnx.save(written, path)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    said = "error: this command needs a package: nibabel is not installed: pip install 'nibabel>="
    assert done.returncode == 1 and done.stderr.startswith(said) and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "arguments"), [("onnxruntime", ["predict", "m.onnx", "-i", ".", "-o", "."]), ("torch", ["family", "."])]
)
def test_a_library_that_is_not_there_is_named(missing: str, arguments: list[str], tmp_path: Path) -> None:
    code = f"import sys\nsys.modules[{missing!r}] = None\nfrom monai_prox.cli.app import main\nmain()"
    command = [sys.executable, "-c", code, *arguments]
    (tmp_path / "m.onnx").touch()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: this command needs a package: {missing} is not installed: pip install ")
