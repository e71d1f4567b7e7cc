"""The synthetic task: equal bytes every time, a folder that nnU-Net accepts, a target that intensity does not find."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.commands import call
from helpers.nnunet_task import environment, folders
from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from scipy import ndimage

from monai_prox.data import phantom
from monai_prox.data.phantom import write_phantom_task
from monai_prox.errors import ProXError

CASES = 3


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom_task(tmp_path_factory.mktemp("phantom"), cases=CASES, test_cases=2)


@pytest.fixture(scope="module")
def volumes(task: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(image, label) of every training case, each (X, Y, Z)."""
    pairs = json.loads((task / "dataset.json").read_text())["training"]
    return [tuple(np.asarray(nib.load(task / pair[k]).dataobj) for k in ("image", "label")) for pair in pairs]


def _contents(task: Path) -> dict[str, bytes]:
    return {str(file.relative_to(task)): file.read_bytes() for file in sorted(task.rglob("*")) if file.is_file()}


def test_equal_arguments_give_equal_bytes(task: Path, tmp_path: Path) -> None:
    again = write_phantom_task(tmp_path, cases=CASES, seed=0, test_cases=2)
    assert _contents(again) == _contents(task)


def test_compressed_files_carry_no_time(task: Path) -> None:
    # Two writes within one second would agree even with a time in the gzip header, bytes 4 to 7.
    assert {file.read_bytes()[4:8] for file in task.rglob("*.nii.gz")} == {bytes(4)}


def test_a_case_does_not_depend_on_the_number_of_cases(task: Path, tmp_path: Path) -> None:
    fewer = _contents(write_phantom_task(tmp_path, cases=2, test_cases=1))
    images = {name: content for name, content in fewer.items() if name.endswith(".nii.gz")}
    assert len(images) == 2 + 2 + 1
    more = _contents(task)
    assert all(more[name] == content for name, content in images.items())


def test_every_image_is_another_one_and_the_seed_matters(task: Path, tmp_path: Path) -> None:
    other = write_phantom_task(tmp_path, cases=CASES, seed=1, test_cases=2)
    images = [content for t in (task, other) for name, content in _contents(t).items() if "images" in name]
    assert len(set(images)) == len(images) == 2 * (CASES + 2)


def test_folder_is_in_decathlon_format(task: Path) -> None:
    assert task.name == "Task990_Phantom"
    dataset = json.loads((task / "dataset.json").read_text())
    assert list(dataset) == [
        *("name", "description", "reference", "licence", "release", "tensorImageSize", "modality", "labels"),
        *("numTraining", "numTest", "training", "test"),
    ]
    assert dataset["labels"] == {"0": "background", "1": "anterior", "2": "posterior"}
    assert dataset["modality"] == {"0": "MRI"} and dataset["tensorImageSize"] == "3D"
    assert "synthetic" in dataset["description"].lower()
    assert dataset["numTraining"] == len(dataset["training"]) == CASES
    assert dataset["numTest"] == len(dataset["test"]) == 2
    assert dataset["training"][0] == {
        "image": "./imagesTr/phantom_001.nii.gz",
        "label": "./labelsTr/phantom_001.nii.gz",
    }
    named = {path for pair in dataset["training"] for path in pair.values()} | set(dataset["test"])
    assert {f"./{name}" for name in _contents(task) if name.endswith(".nii.gz")} == named


def test_image_and_label_share_their_grid(task: Path) -> None:
    shapes = set()
    for pair in json.loads((task / "dataset.json").read_text())["training"]:
        image, label = nib.load(task / pair["image"]), nib.load(task / pair["label"])
        assert image.shape == label.shape and len(image.shape) == 3
        assert np.array_equal(image.affine, label.affine)
        assert image.header.get_zooms() == label.header.get_zooms() == (1.0, 1.0, 1.0)
        assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
        assert all(abs(n - m) <= 3 for n, m in zip(image.shape, (36, 48, 36), strict=True))
        shapes.add(image.shape)
    assert len(shapes) > 1  # a task whose cases all have one size would hide mistakes in padding


def test_two_whole_parts_abut_inside_the_volume(volumes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    touching_corners = np.ones((3, 3, 3))
    for _, label in volumes:
        assert set(np.unique(label)) == {0, 1, 2}
        for part in (label > 0, label == 1, label == 2):
            assert ndimage.label(part, touching_corners)[1] == 1
            assert part.sum() > 300
        border = ndimage.binary_dilation(label == 1) & (label == 2)  # dilated by faces, not corners
        assert border.sum() >= 10
        assert (label[1:-1, 1:-1, 1:-1] > 0).sum() == (label > 0).sum()
        # The second axis runs from posterior to anterior in NIfTI's RAS+ convention.
        assert ndimage.center_of_mass(label == 1)[1] > ndimage.center_of_mass(label == 2)[1] + 5


def test_no_intensity_band_finds_the_target(volumes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for image, label in volumes:
        target = label > 0
        levels = np.quantile(image[target], np.linspace(0, 1, 51))
        # Voxels up to each level; the band from level i to level j holds the difference.
        inside = np.searchsorted(np.sort(image[target]), levels, side="right")
        everywhere = np.searchsorted(np.sort(image, axis=None), levels, side="right")
        overlap, size = inside[None] - inside[:, None], everywhere[None] - everywhere[:, None]
        assert (2 * overlap / (np.abs(size) + target.sum())).max() < 0.6  # Dice of the best band


def test_distractors_have_the_targets_intensity(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []
    draw = phantom._distractors

    def recorded(*arguments: np.ndarray) -> list[np.ndarray]:
        drawn[:] = draw(*arguments)
        return drawn

    monkeypatch.setattr(phantom, "_distractors", recorded)
    for seed in range(4):
        image, label = phantom._make_case(np.random.default_rng(seed))
        # Interiors only: partial volume mixes the rest with what lies beside it, and the target's capsule covers some.
        apart = ndimage.distance_transform_edt(label == 0) > 3
        interior = ndimage.binary_erosion(np.any(drawn, axis=0) & apart)
        assert interior.sum() > 300  # against about 2000 voxels of the target
        target = image[label > 0].mean()
        difference = np.abs(image - target)
        assert difference[interior].mean() < 0.6 * difference[~interior & apart].mean()


def test_no_intensity_threshold_tells_the_parts_apart(volumes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    accuracies = []
    for image, label in volumes:
        anterior, posterior = image[label == 1], image[label == 2]
        thresholds = np.quantile(image[label > 0], np.linspace(0, 1, 51))
        balanced = [((anterior >= v).mean() + (posterior < v).mean()) / 2 for v in thresholds]
        accuracies.append(max(max(balanced), 1 - min(balanced)))
    assert np.mean(accuracies) < 0.85  # 0.5 is chance, 1 is told by intensity


def test_the_border_is_where_the_tube_narrows() -> None:
    borders = set()
    for seed in range(20):
        _, radius, border = phantom._target_curve(np.random.default_rng(seed))
        neck = radius[border - 2 : border + 3].min()
        assert neck < radius[:border].max() - 0.5 and neck < radius[border:].max() - 0.2
        assert radius[:border].max() > radius[border:].max()
        borders.add(border)
    assert len(borders) > 5  # a border at one place of the axis could be told without looking


def test_distance_to_a_straight_curve() -> None:
    curve = np.stack([np.zeros(5), np.arange(5.0), np.zeros(5)], axis=1)
    points = np.array([[[0.0, 1.0, 0.0], [3.0, 2.0, 4.0]], [[0.0, 6.0, 0.0], [-1.0, -1.0, 0.0]]])  # (2, 2, 3)
    ratio, nearest = phantom._distance_to_curve(points, curve, np.full(5, 2.0))
    np.testing.assert_allclose(ratio, [[0.0, 2.5], [1.0, np.sqrt(0.5)]])
    np.testing.assert_array_equal(nearest, [[1, 2], [4, 0]])


def test_rotation_keeps_lengths_and_handedness() -> None:
    matrix = phantom._rotation(np.random.default_rng(0), 180)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_a_complete_task_is_reused(tmp_path: Path) -> None:
    first = write_phantom_task(tmp_path, cases=1, test_cases=1)
    before = {file: file.stat().st_mtime_ns for file in first.rglob("*")}
    assert write_phantom_task(str(tmp_path), cases=1, test_cases=1) == first
    assert {file: file.stat().st_mtime_ns for file in first.rglob("*")} == before


@pytest.mark.parametrize("changed", [{"cases": 2}, {"seed": 1}, {"test_cases": 2}])
def test_a_task_of_other_arguments_is_refused_and_kept(tmp_path: Path, changed: dict[str, int]) -> None:
    first = write_phantom_task(tmp_path, cases=1, test_cases=1)
    before = _contents(first)
    with pytest.raises(ProXError, match="Task990_Phantom exists with other parameters"):
        write_phantom_task(tmp_path, **{"cases": 1, "test_cases": 1, **changed})
    assert _contents(first) == before


def test_a_task_of_another_generator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_phantom_task(tmp_path, cases=1, test_cases=1)
    monkeypatch.setattr(phantom, "GENERATOR_VERSION", phantom.GENERATOR_VERSION + 1)
    with pytest.raises(ProXError, match="generator_version"):
        write_phantom_task(tmp_path, cases=1, test_cases=1)


@pytest.mark.parametrize("lost", ["labelsTr/phantom_001.nii.gz", "imagesTs/phantom_test_001.nii.gz", "dataset.json"])
def test_an_incomplete_task_is_refused(tmp_path: Path, lost: str) -> None:
    (write_phantom_task(tmp_path, cases=1, test_cases=1) / lost).unlink()
    with pytest.raises(ProXError, match=f"lacks {lost}"):
        write_phantom_task(tmp_path, cases=1, test_cases=1)


def test_a_foreign_folder_is_refused_and_kept(tmp_path: Path) -> None:
    foreign = tmp_path / "Task990_Phantom" / "notes.txt"
    foreign.parent.mkdir()
    foreign.write_text("mine")
    with pytest.raises(ProXError, match=r"no readable phantom\.json"):
        write_phantom_task(tmp_path, cases=1, test_cases=1)
    assert _contents(foreign.parent) == {"notes.txt": b"mine"}


def test_an_interrupted_call_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def fail_on_the_third(path: Path, volume: np.ndarray) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError("disk full")
        path.write_bytes(b"")

    monkeypatch.setattr(phantom, "_write_nifti", fail_on_the_third)
    with pytest.raises(OSError, match="disk full"):
        write_phantom_task(tmp_path, cases=2)
    assert len(written) == 3 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": 0}, "cases must be an integer of at least 1, got 0"),
        ({"cases": 2.0}, "cases must be an integer of at least 1, got 2.0"),
        ({"cases": True}, "cases must be an integer of at least 1, got True"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": "0"}, "seed must be an integer of at least 0, got '0'"),
        ({"test_cases": -1}, "test_cases must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ProXError, match=message):
        write_phantom_task(tmp_path / "never", **arguments)
    assert not (tmp_path / "never").exists()


def convert(task: Path) -> None:
    convert_msd_dataset(str(task), num_processes=1)
    verify_dataset_integrity(str(Path(os.environ["nnUNet_raw"], "Dataset990_Phantom")), num_processes=1)


def test_nnunet_converts_and_accepts_the_task(task: Path, tmp_path: Path) -> None:
    call(convert, task, environment=environment(**folders(tmp_path)))
    converted = tmp_path / "nnUNet_raw" / "Dataset990_Phantom"
    assert sorted(file.name for file in (converted / "imagesTr").iterdir()) == [
        f"phantom_{i:03d}_0000.nii.gz" for i in range(1, CASES + 1)
    ]
    assert len(list((converted / "imagesTs").iterdir())) == 2
    dataset = json.loads((converted / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "anterior": 1, "posterior": 2}
    assert dataset["numTraining"] == CASES
