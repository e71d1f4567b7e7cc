"""Plans of a bundle: nnU-Net's rules on tasks of known geometry and intensity, and networks that run."""

import json
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.refusals import refused
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from monai.transforms import Compose, CropForeground, EnsureChannelFirst, LoadImage, Orientation

from monai_prox.core.network import largest, prediction_graph
from monai_prox.data.decathlon import Case, DecathlonTask, Geometry
from monai_prox.data.decathlon_plan import Plan, make_plan
from monai_prox.data.foreground import foreground_geometries
from monai_prox.data.phantom import write_phantom_task
from monai_prox.errors import ProXError
from monai_prox.export.bundle_transforms import nonzero
from monai_prox.files import read_json, write_json

KINDS = ("PlainConvUNet", "ResidualEncoderUNet")


class Headers(DecathlonTask):
    """A task of headers alone, whose images have nothing around them that would be cropped."""

    headers: Sequence[Geometry]

    def geometry(self, case: Case, orientation: str | None = None) -> Geometry:
        return self.headers[self.cases.index(case)]


def headers(*geometries: Geometry, channels: Sequence[str] = ("MRI",)) -> Headers:
    cases = tuple(Case(Path(f"{number}.nii.gz"), Path(f"{number}.nii.gz")) for number in range(len(geometries)))
    task = Headers(Path("Task42"), "Task42", tuple(channels), ("background", "organ", "tumour"), cases)
    object.__setattr__(task, "headers", geometries)
    return task


def plan_of(*geometries: Geometry, **settings: Any) -> Plan:
    return planned(headers(*geometries), **settings)


def planned(task: Headers, **settings: Any) -> Plan:
    with patch("monai_prox.data.decathlon_plan.foreground_geometries", return_value=task.headers):
        return make_plan(task, task.cases, **settings)


def cube(size: int, spacing: float = 1.0) -> Geometry:
    return Geometry((size,) * 3, (spacing,) * 3)


def of(plan: Plan, key: str) -> Any:
    return plan.architecture["arch_kwargs"][key]


def divisor(plan: Plan) -> list[int]:
    return [prod(stride[axis] for stride in of(plan, "strides")) for axis in range(3)]


def written(folder: Path, cases: Sequence[tuple[np.ndarray, np.ndarray]], channels: Sequence[str] = ("CT",)) -> DecathlonTask:
    """A task on disk of these images and labels."""
    names = [f"case_{number}.nii.gz" for number in range(len(cases))]
    for part, index in (("imagesTr", 0), ("labelsTr", 1)):
        (folder / part).mkdir(parents=True)
        for name, case in zip(names, cases, strict=True):
            nib.save(nib.Nifti1Image(case[index], np.eye(4)), folder / part / name)
    write_json(
        {
            "modality": dict(enumerate(channels)),
            "labels": {"0": "background", "1": "organ", "2": "tumour"},
            "training": [{"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"} for name in names],
        },
        folder / "dataset.json",
    )
    return DecathlonTask.read(folder)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> DecathlonTask:
    return DecathlonTask.read(write_phantom_task(tmp_path_factory.mktemp("task"), cases=3, test_cases=0))


# ---------------------------------------------------------------------- geometry
def test_the_phantom_is_planned_as_one_would_by_hand(phantom: DecathlonTask) -> None:
    """About 36 x 48 x 36 voxels of 1 mm: three levels above the smallest feature map of 4, so multiples of 8."""
    plan = make_plan(phantom, phantom.cases)
    shapes = np.array([phantom.geometry(case).shape for case in phantom.cases])
    median = np.median(shapes, axis=0)
    assert plan.task == "Task990_Phantom"
    assert plan.channels == ("MRI",) and plan.labels == ("background", "anterior", "posterior")
    assert plan.licence == "CC0-1.0"
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert plan.patch_size == tuple(int(-(-size // 8) * 8) for size in median)
    assert plan.intensity == {"kind": "z-score"} and not plan.is_ct and plan.window == (None,) * 4
    assert plan.rotation == (0.5, 0.5, 0.5)
    assert of(plan, "n_stages") == 4
    assert of(plan, "strides") == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert of(plan, "kernel_sizes") == [[3, 3, 3]] * 4
    assert of(plan, "features_per_stage") == [32, 64, 128, 256]
    assert of(plan, "n_conv_per_stage") == [2] * 4 and of(plan, "n_conv_per_stage_decoder") == [2] * 3


def test_spacing_is_the_median_over_cases_and_sizes_are_those_after_resampling() -> None:
    plan = plan_of(cube(64, 1.0), cube(32, 2.0), cube(16, 4.0))
    assert plan.spacing == (2.0, 2.0, 2.0)
    assert plan.patch_size == (32, 32, 32)  # each is 64 mm wide


def test_features_double_from_level_to_level_up_to_ten_times_the_first() -> None:
    plan = plan_of(cube(256), features=6, patch_voxels=256**3)
    assert of(plan, "features_per_stage") == [6, 12, 24, 48, 60, 60, 60]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_neither_halved_nor_convolved_over_at_the_top(axis: int) -> None:
    """Slices of 5 mm, pixels of 1 mm: after two halvings within the plane, 4 mm and 5 mm are within a factor of two."""
    shape, spacing = [160, 160, 160], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = 24, 5.0
    plan = plan_of(Geometry(tuple(shape), tuple(spacing)))
    others = [other for other in range(3) if other != axis]
    assert plan.spacing == tuple(spacing)
    assert [kernel[axis] for kernel in of(plan, "kernel_sizes")[:3]] == [1, 1, 3]
    assert [stride[axis] for stride in of(plan, "strides")[:4]] == [1, 1, 1, 2]
    for other in others:
        assert {kernel[other] for kernel in of(plan, "kernel_sizes")} == {3}
        assert [stride[other] for stride in of(plan, "strides")[:4]] == [1, 2, 2, 2]
    # Turning out of the plane would mix slices, so only turns about the axis across them are left.
    assert plan.rotation == tuple(0.5 if each == axis else 0.0 for each in range(3))


@pytest.mark.parametrize(("thickness", "rotation"), [(3.0, (0.5, 0.5, 0.5)), (3.1, (0.0, 0.0, 0.5))])
def test_slices_are_thick_above_three_times_the_pixel(thickness: float, rotation: tuple[float, ...]) -> None:
    assert plan_of(Geometry((64, 64, 16), (1.0, 1.0, thickness))).rotation == rotation


def test_thick_slices_are_resampled_to_their_tenth_percentile() -> None:
    thicknesses = [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    plan = plan_of(*(Geometry((200, 200, 20), (1.0, 1.0, thickness)) for thickness in thicknesses))
    assert plan.spacing == (1.0, 1.0, 4.5)  # a tenth of the way from the first of six to the last: halfway to the second
    assert plan.spacing[2] == np.percentile(thicknesses, 10)


def test_the_tenth_percentile_is_not_finer_than_the_plane() -> None:
    """Among many thick ones, one with finer slices than pixels: nnU-Net keeps the axis the coarsest."""
    thin = [Geometry((200, 200, 40), (1.0, 1.0, 0.5))] * 2
    thick = [Geometry((200, 200, 40), (1.0, 1.0, 6.0))] * 8
    assert plan_of(*thin, *thick).spacing == (1.0, 1.0, 1.00001)


@pytest.mark.parametrize(
    ("shape", "thicknesses", "expected"),
    [
        ((200, 200, 20), (3.0, 3.0, 2.0), 3.0),  # not thicker than three times the pixel
        ((60, 60, 20), (6.0, 6.0, 5.0), 6.0),  # as many slices as a third of the pixels: not few
        ((61, 61, 20), (6.0, 6.0, 5.0), 5.2),  # thick and few
    ],
)
def test_the_median_holds_unless_slices_are_thick_and_few(
    shape: tuple[int, ...], thicknesses: Sequence[float], expected: float
) -> None:
    assert plan_of(*(Geometry(shape, (1.0, 1.0, thickness)) for thickness in thicknesses)).spacing == (1.0, 1.0, expected)


@pytest.mark.parametrize(("voxels", "patch"), [(64**3, (64, 64, 64)), (64**3 - 1, (64, 64, 32)), (32**3, (32, 32, 32))])
def test_a_patch_has_as_many_voxels_as_memory_allows(voxels: int, patch: tuple[int, ...]) -> None:
    plan = plan_of(cube(256), patch_voxels=voxels)
    assert prod(plan.patch_size) <= voxels
    # Axes are cut in turn, and which of equal ones is first is not of interest.
    assert prod(plan.patch_size) >= prod(patch)
    assert all(size % by == 0 for size, by in zip(plan.patch_size, divisor(plan), strict=True))


def test_a_patch_has_the_proportions_of_the_image() -> None:
    assert plan_of(Geometry((64, 128, 256), (1.0, 1.0, 1.0)), patch_voxels=32 * 64 * 128).patch_size == (32, 64, 128)


def test_spacing_and_patch_can_be_given() -> None:
    plan = plan_of(cube(64), spacing=[1, 2, 0.5], patch_size=[30, 17, 64], patch_voxels=4096)
    assert plan.spacing == (1.0, 2.0, 0.5)
    assert all(size % by == 0 for size, by in zip(plan.patch_size, divisor(plan), strict=True))
    assert all(0 <= size - asked < by for size, asked, by in zip(plan.patch_size, (30, 17, 64), divisor(plan), strict=True))
    assert plan_of(cube(64), spacing=(2.0, 2.0, 2.0)).patch_size == (32, 32, 32)


@st.composite
def scans(draw: st.DrawFn) -> Geometry:
    """Square pixels, slices as thick or thicker, in any order of axes."""
    pixel, times = draw(st.sampled_from((0.3, 0.7, 1.0, 2.0))), draw(st.sampled_from((1, 1.5, 2.5, 4, 8)))
    shape = [draw(st.integers(24, 400)), draw(st.integers(24, 400)), draw(st.integers(8, 200))]
    order = draw(st.permutations(range(3)))
    return Geometry(tuple(shape[axis] for axis in order), tuple((pixel, pixel, pixel * times)[axis] for axis in order))


def check_patch(plan: Plan, images: Sequence[Geometry], voxels: int) -> None:
    """It fits the memory, what the network halves, and the image."""
    assert prod(plan.patch_size) <= voxels
    sizes = [np.array(image.shape) * np.array(image.spacing) / np.array(plan.spacing) for image in images]
    median = np.maximum(np.median(sizes, axis=0).round(), 1)
    for size, by, length in zip(plan.patch_size, divisor(plan), median, strict=True):
        assert size >= 1 and size % by == 0
        # No larger than what the image needs. A fraction of a voxel may be rounded either way.
        assert size <= -(-(length + 1) // by) * by
        assert size // by >= min(4, size)
    assert of(plan, "n_stages") == len(of(plan, "strides")) == len(of(plan, "kernel_sizes")) >= 2
    assert of(plan, "strides")[0] == [1, 1, 1]


@given(st.lists(scans(), min_size=1, max_size=4), st.integers(15, 23), st.sampled_from(KINDS))
def test_a_patch_fits_memory_network_and_image(images: list[Geometry], log_voxels: int, network: str) -> None:
    check_patch(plan_of(*images, patch_voxels=2**log_voxels, network=network), images, 2**log_voxels)


@given(
    st.builds(
        Geometry,
        st.tuples(*[st.integers(1, 400)] * 3),
        st.tuples(*[st.sampled_from((0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.3, 5.0, 7.5))] * 3),
    ),
    st.integers(6, 23),
)
@example(Geometry((8, 96, 176), (0.3, 0.3, 0.3)), 8)  # a thin axis must not be cut to nothing
@example(Geometry((10, 124, 222), (0.3, 7.5, 1.0)), 21)  # the only axis fine enough to be halved is too short
def test_a_patch_of_any_image_fits_or_is_refused(image: Geometry, log_voxels: int) -> None:
    try:
        plan = plan_of(image, patch_voxels=2**log_voxels)
    except ProXError as error:
        assert "patch" in str(error)
    else:
        check_patch(plan, [image], 2**log_voxels)


# ---------------------------------------------------------------------- networks
@settings(max_examples=8)
@given(
    st.builds(
        Geometry,
        st.tuples(*[st.integers(8, 60)] * 3),
        st.tuples(*[st.sampled_from((0.5, 1.0, 2.0, 5.0))] * 3),
    ),
    st.integers(1, 2),
    st.sampled_from(KINDS),
)
def test_a_planned_network_runs_on_its_patch(image: Geometry, channels: int, network: str) -> None:
    task = headers(image, channels=["T1", "T2"][:channels])
    try:
        plan = planned(task, network=network, features=2, patch_voxels=16**3)
    except ProXError:
        reject()  # too few voxels, or nothing to halve
    # Large pixels in few voxels can leave nothing to halve at a lower resolution, which the family says by itself.
    family = plan.family({"width": [0.5, 1], "resolution": [1]})
    assert family.kind == network
    x = torch.randn(2, channels, *plan.patch_size)
    with torch.no_grad():
        for subnet in (family.space.smallest(), family.space.largest()):
            assert family.run(family.build(subnet), x, subnet).shape == (2, 3, *plan.patch_size)


@pytest.mark.parametrize("size", [4, 6, 7])
def test_a_patch_that_cannot_be_halved_is_refused(size: int) -> None:
    """A U-Net of one level is none: nothing would be decoded."""
    refused("patch", plan_of, cube(64), patch_size=(size,) * 3)
    refused("patch", plan_of, cube(size))


def test_voxels_too_few_for_a_patch_that_can_be_halved_are_refused() -> None:
    refused("patch_voxels is 64", plan_of, cube(64), patch_voxels=64)


def test_a_residual_plan_has_nnunets_numbers_of_blocks() -> None:
    plan = plan_of(cube(32), network="ResidualEncoderUNet", features=2)
    assert plan.architecture["network_class_name"].endswith(".ResidualEncoderUNet")
    assert of(plan, "n_blocks_per_stage") == [1, 3, 4, 6] and of(plan, "n_conv_per_stage_decoder") == [1, 1, 1]
    assert "n_conv_per_stage" not in plan.architecture["arch_kwargs"]
    network = largest(plan.family())
    assert [len(stage.blocks) for stage in network.encoder.stages] == [1, 3, 4, 6]
    with torch.no_grad():
        assert network(torch.randn(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_network_is_the_stock_one_and_its_graph_shares_its_weights(kind: str) -> None:
    network = largest(plan_of(cube(16), network=kind, features=2).family(), deep_supervision=True)
    graph = prediction_graph(network)
    assert network.decoder.deep_supervision  # tracing has to put it back
    x = torch.randn(1, 1, 16, 16, 16)
    own = network.state_dict()
    assert set(graph.state_dict()) < set(own)
    with torch.no_grad():
        outputs = network(x)
        assert isinstance(outputs, list) and torch.equal(graph(x), outputs[0])
    graph.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in graph.state_dict().items()})
    assert not network.decoder.seg_layers[-1].weight.any()


def test_a_space_with_one_member_is_refused() -> None:
    plan = plan_of(cube(32), features=4)
    alone = {"depth": "full", "width": [1.0], "levels": 0, "resolution": [1.0]}
    message = refused("has one member only, so there is nothing to expand; open at least one of depth", plan.family, alone)
    assert message.startswith(f"the search space {alone!r}")
    assert plan.family(alone | {"levels": 1}).space.size() == 2


def test_the_space_is_a_name_or_an_object() -> None:
    plan = plan_of(cube(64), features=4)
    spaces = [plan.family(space).space for space in (None, {}, "default")]
    assert spaces[0] == spaces[1] == spaces[2]
    assert plan_of(cube(24), features=4).family("paper").space.dimensions["kernel"][0].choices == (3, 5)
    refused("the search space 'nonsense' is not known", plan.family, "nonsense")


# ---------------------------------------------------------------------- what is cropped
def framed(shape: Sequence[int], *channels: Sequence[slice]) -> tuple[np.ndarray, np.ndarray]:
    """An image of 0 with, in each channel, a box that is not, and labels in all of it."""
    image = np.zeros((*shape, len(channels)), np.int16)
    for channel, box in enumerate(channels):
        image[(*box, channel)] = -7
    return image, np.ones(shape, np.uint8)


@pytest.mark.parametrize("orientation", [None, "RAS", "PIR"])
def test_the_foreground_is_what_monai_crops_to(tmp_path: Path, orientation: str | None) -> None:
    boxes = (slice(3, 9), slice(2, 11), slice(0, 7)), (slice(5, 13), slice(4, 8), slice(1, 9))
    image = nib.Nifti1Image(framed((16, 20, 12), *boxes)[0], np.diag([-1, 2, 3, 1])[[1, 0, 2, 3]])
    nib.save(image, file := tmp_path / "image.nii.gz")
    turned = [] if orientation is None else [Orientation(orientation, labels=None)]
    crop = CropForeground(select_fn=nonzero, allow_smaller=True)
    expected = Compose([LoadImage(), EnsureChannelFirst(channel_dim=-1), *turned, crop])(file)
    (found,) = foreground_geometries([file], orientation)
    assert sorted(found.shape) == [9, 9, 10]
    assert (found.shape, found.spacing) == (expected.shape[1:], pytest.approx(expected.pixdim.tolist()))


def test_an_image_of_nothing_is_taken_whole_and_few_of_many_are_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.uint8), np.eye(4)), empty := tmp_path / "empty.nii")
    assert {geometry.shape for geometry in foreground_geometries([empty] * 200, None)} == {(5, 6, 7)}
    assert len(foreground_geometries([empty] * 200, None)) == 64


def test_a_patch_is_planned_for_what_is_left_when_images_are_cropped(tmp_path: Path) -> None:
    """CT is not cropped: 0 is a tissue there."""
    cases = [framed((48, 48, 48), (slice(10, 10 + size), slice(8, 40), slice(12, 28))) for size in (20, 24, 28)]
    head = written(tmp_path / "MR", cases, ["T1"])
    assert make_plan(head, head.cases).patch_size == (24, 32, 16)
    body = written(tmp_path / "CT", cases, ["CT"])
    assert make_plan(body, body.cases).patch_size == (48, 48, 48)


def test_an_image_that_is_cut_short_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 1000, (32, 32, 32))
    task = written(tmp_path, [(noise.astype(np.int16), noise.astype(np.uint8))], ["T1"])
    path = task.cases[0].image
    path.write_bytes(path.read_bytes()[:-2000])
    refused(str(path), make_plan, task, task.cases)


# ---------------------------------------------------------------------- intensity
def blocks(*values: tuple[float, int], dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """An image of 16^3 of -1000 with, for every (value, count), so many labelled voxels of that value."""
    image, label = np.full(16**3, -1000, dtype), np.zeros(16**3, np.uint8)
    start = 0
    for number, (value, count) in enumerate(values):
        image[start : start + count], label[start : start + count] = value, 1 + number % 2
        start += count
    return image.reshape(16, 16, 16), label.reshape(16, 16, 16)


def test_ct_is_normalised_by_the_labelled_voxels_of_all_cases(tmp_path: Path) -> None:
    """One value per case, so a sample of its labelled voxels is what all of them are."""
    cases = [blocks((30, 600)), blocks((-70, 200)), blocks((130, 200)), blocks()]
    plan = make_plan(task := written(tmp_path, cases), task.cases)
    assert plan.is_ct
    mean, std = (600 * 30 + 200 * -70 + 200 * 130) / 1000, (0.2 * 100**2 + 0.2 * 100**2) ** 0.5
    assert mean == 30
    assert plan.intensity == {"kind": "ct", "lower": -70.0, "upper": 130.0, "mean": 30.0, "std": round(std, 4)}
    assert plan.window == pytest.approx((-70, 130, -100 / std, 100 / std), rel=1e-5)


def test_ct_bounds_are_the_half_percentiles_of_the_labelled_voxels(tmp_path: Path) -> None:
    """A thousandth of the voxels is metal and falls outside of the window, but counts in the mean as nnU-Net does."""
    cases = [blocks((0, 498), (50, 501), dtype=np.int16), blocks((20000, 1), dtype=np.int16)]
    plan = make_plan(task := written(tmp_path, cases), task.cases)
    assert (plan.intensity["lower"], plan.intensity["upper"]) == (0.0, 50.0)
    sample = np.random.default_rng(0).integers(999, size=999)  # as nnU-Net draws, with replacement
    values = np.append(np.where(sample < 498, 0, 50), 20000)
    assert plan.intensity["mean"] == round(values.mean(), 4)
    assert plan.intensity["std"] == round(values.std(), 4)


def test_ct_statistics_are_those_of_a_random_image(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    image, label = generator.normal(60, 25, (32, 32, 32)).astype(np.float32), generator.integers(3, size=(32, 32, 32))
    plan = make_plan(task := written(tmp_path, [(image, label.astype(np.uint8))]), task.cases)
    inside = image[label > 0].astype(float)
    lower, upper = np.percentile(inside, (0.5, 99.5))
    expected = {"lower": lower, "upper": upper, "mean": inside.mean(), "std": inside.std()}
    # 10,000 of the 22,000 voxels are drawn: a percentile of so many is known to about a tenth of the deviation.
    assert {key: plan.intensity[key] for key in expected} == pytest.approx(expected, abs=2.5)


def test_planning_ct_twice_gives_the_same_plan(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    task = written(tmp_path, [(image, np.ones(image.shape, np.uint8))] * 2)
    assert make_plan(task, task.cases) == make_plan(task, task.cases)


def test_ct_of_one_value_has_a_window(tmp_path: Path) -> None:
    """As labels of a contrast-filled vessel, saturated, can be: the deviation is taken for very small, not for nothing."""
    plan = make_plan(task := written(tmp_path, [blocks((40, 500))]), task.cases)
    assert plan.intensity["std"] > 0
    assert np.isfinite(plan.window).all()


def test_ct_is_recognised_by_its_name(tmp_path: Path) -> None:
    plan = make_plan(task := written(tmp_path, [blocks((1, 9), (2, 9))], [" ct "]), task.cases)
    assert plan.is_ct


def test_a_label_may_have_an_axis_for_its_channel(tmp_path: Path) -> None:
    """The header check lets it through, and so do MONAI's loaders."""
    image, label = blocks((10, 300), (20, 300))
    plain, with_axis = (written(tmp_path / name, [(image, of)]) for name, of in (("a", label), ("b", label[..., None])))
    plans = [make_plan(task, task.cases) for task in (plain, with_axis)]
    assert plans[0].intensity == plans[1].intensity


def test_ct_beside_other_modalities_is_refused(tmp_path: Path) -> None:
    image, label = blocks((10, 300))
    task = written(tmp_path / "Task42", [(np.stack([image, image], -1), label)], ["CT", "PET"])
    refused("Task42 has CT beside other modalities (CT, PET), which is not supported", make_plan, task, task.cases)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_ct_that_is_not_finite_where_labelled_is_refused(tmp_path: Path, value: float) -> None:
    task = written(tmp_path / "Task42", [blocks((10, 300), (value, 300))])
    refused("the images of Task42 have values that are not finite numbers (NaN or infinite)", make_plan, task, task.cases)
    image, label = blocks((10, 300), (20, 300))
    image[label == 0] = value
    outside = written(tmp_path / "outside", [(image, label)])
    assert make_plan(outside, outside.cases).intensity["mean"] == pytest.approx(15, abs=1)


def test_ct_without_a_labelled_voxel_is_refused(tmp_path: Path) -> None:
    task = written(tmp_path / "Task42", [blocks(), blocks()])
    refused("no training case of Task42 has a labelled voxel", make_plan, task, task.cases)


@pytest.mark.parametrize("part", ["image", "label"])
def test_ct_that_is_cut_short_is_named(tmp_path: Path, part: str) -> None:
    """An interrupted copy still has a whole header."""
    noise = np.random.default_rng(0).integers(1, 1000, (32, 32, 32))
    task = written(tmp_path, [(noise.astype(np.int16), noise.astype(np.uint8))])
    path = getattr(task.cases[0], part)
    path.write_bytes(path.read_bytes()[:-2000])
    task.geometry(task.cases[0])
    refused(str(path), make_plan, task, task.cases)


# ---------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "UNETR"}, "network is 'UNETR'; allowed: PlainConvUNet, ResidualEncoderUNet"),
        ({"features": 1}, "features is 1 and patch_voxels 2097152; at least 2 and 64"),
        ({"patch_voxels": 63}, "features is 32 and patch_voxels 63; at least 2 and 64"),
        ({"spacing": [1, 1]}, "spacing is [1, 1]; it must be three positive numbers, for the axes x, y, z"),
        ({"spacing": (1, 0, 1)}, "spacing is [1, 0, 1]; it must be three positive numbers"),
        ({"spacing": (1, -1, 1)}, "spacing is [1, -1, 1]; it must be three positive numbers"),
        ({"spacing": (1, float("nan"), 1)}, "spacing is [1, nan, 1]; it must be three positive numbers"),
        ({"spacing": (1, float("inf"), 1)}, "spacing is [1, inf, 1]; it must be three positive numbers"),
        ({"patch_size": [32, 32]}, "patch_size is [32, 32]; it must be three positive numbers, for the axes x, y, z"),
        ({"patch_size": (32, 32, 0)}, "patch_size is [32, 32, 0]; it must be three positive numbers"),
        ({"patch_size": (0.4, 32, 32)}, "patch_size is [0.4, 32, 32]"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    refused(message, plan_of, cube(32), **arguments)


def test_headers_that_contradict_dataset_json_are_refused(tmp_path: Path) -> None:
    task = written(tmp_path, [blocks((10, 300))], ["T1", "T2"])
    refused("so 1 channels; dataset.json", make_plan, task, task.cases)


# ---------------------------------------------------------------------- plans as data
@pytest.mark.parametrize("network", KINDS)
def test_a_plan_comes_back_from_its_file(tmp_path: Path, phantom: DecathlonTask, network: str) -> None:
    plan = make_plan(phantom, phantom.cases, network=network, patch_voxels=16**3)
    write_json(plan.to_json(), tmp_path / "plan.json")
    assert Plan.from_json(read_json(tmp_path / "plan.json")) == plan
    assert Plan.from_json(plan.to_json()) == plan


def test_a_ct_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    task = written(tmp_path, [(image, np.ones(image.shape, np.uint8))])
    plan = make_plan(task, task.cases)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan and again.window == plan.window


def test_a_plan_that_says_nothing_of_orientation_takes_images_as_stored() -> None:
    """Those of version 0.1.0, and those of its configurations."""
    plan = plan_of(cube(32), orientation="RAS")
    assert Plan.from_json(plan.to_json()) == plan
    older = {key: value for key, value in plan.to_json().items() if key != "orientation"}
    assert Plan.from_json(older) == replace(plan, orientation=None) == plan_of(cube(32))
    refused("orientation is 'LPS'; allowed: RAS, or None for images as stored", plan_of, cube(32), orientation="LPS")
    refused("orientation is RAS, or null for images as stored, got 'LPS'", Plan.from_json, changed(orientation="LPS"))


def changed(**entries: Any) -> dict[str, Any]:
    return plan_of(cube(32)).to_json() | entries


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "plan",
        {},
        changed(format=2),
        changed(more=1),
        {key: value for key, value in changed().items() if key != "licence"},
        {key: value for key, value in changed().items() if key != "format"},
        changed(channels=None),
        changed(patch_size=32),
    ],
    ids=["null", "list", "text", "empty", "format", "more", "no licence", "no format", "no channels", "flat patch"],
)
def test_data_that_is_no_plan_is_refused(data: Any) -> None:
    refused("not a plan of format 1 with architecture, channels, intensity, labels, licence,", Plan.from_json, data)


def test_every_label_is_a_region_unless_regions_are_given() -> None:
    plan = plan_of(cube(32))
    assert plan.regions() == {"organ": (1,), "tumour": (2,)}
    assert plan.regions({"all": ["organ", "tumour"], "lesion": ["tumour"]}) == {"all": (1, 2), "lesion": (2,)}
    assert list(plan.regions({"b": ["tumour"], "a": ["organ"]})) == ["b", "a"]


@pytest.mark.parametrize("name", ["vessel", "background"])
def test_a_region_of_no_foreground_label_is_refused(name: str) -> None:
    regions = {"all": ["organ", name]}
    refused(f"regions name ['{name}']; the labels of Task42 are organ, tumour", plan_of(cube(32)).regions, regions)


def test_a_plan_fits_tasks_of_its_channels_and_labels() -> None:
    own = headers(cube(32))
    plan = planned(own)
    plan.check_fits(own)
    other = headers(cube(32), channels=["T1", "T2"])
    refused("Task42 has the channels T1, T2; this was trained with MRI", plan.check_fits, other)
    other = DecathlonTask(Path("x"), "Task43", own.channels, ("background", "organ"), own.cases)
    refused("Task43 has the labels background, organ; this was trained with background, organ, tumour", plan.check_fits, other)
