"""Tasks of the Medical Segmentation Decathlon: what is read from their folders, and what is said of those that are broken."""

import gzip
import json
import shutil
import struct
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import monai.apps
import nibabel as nib
import numpy as np
import pytest
from helpers.orientations import stored
from helpers.refusals import refused
from monai.apps import DecathlonDataset
from monai.transforms import LoadImage

from monai_prox.data.decathlon import Case, DecathlonTask, Geometry, check_tree, download, find_task
from monai_prox.data.image_files import image_files
from monai_prox.data.phantom import TASK_NAME, write_phantom_task

SHAPE = (6, 5, 4)


def volume(path: Path, shape: tuple[int, ...] = SHAPE, spacing: tuple[float, ...] = (1.0, 1.5, 2.5)) -> None:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([*spacing, 1.0])), path)


def toy(folder: Path, *, cases: int = 3, image: tuple[int, ...] = SHAPE, **entries: Any) -> Path:
    """A task of empty volumes; ``entries`` stand for those of dataset.json, and None leaves one out."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    names = [f"toy_{number}.nii.gz" for number in range(cases)]
    for name in names:
        volume(folder / "imagesTr" / name, image)
        volume(folder / "labelsTr" / name)
    data = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "organ", "2": "tumour"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
    } | entries
    (folder / "dataset.json").write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return folder


# ---------------------------------------------------------------------- reading
def test_a_task_is_what_its_dataset_json_says(tmp_path: Path) -> None:
    folder = write_phantom_task(tmp_path, cases=2, test_cases=1)
    task = DecathlonTask.read(str(folder))
    assert task == DecathlonTask(
        folder=folder,
        name=TASK_NAME,
        channels=("MRI",),
        labels=("background", "anterior", "posterior"),
        cases=tuple(
            Case(folder / "imagesTr" / f"phantom_00{i}.nii.gz", folder / "labelsTr" / f"phantom_00{i}.nii.gz") for i in (1, 2)
        ),
        licence="CC0-1.0",
    )


def test_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Also past nine, where the order of the texts is another, and whatever the order in the file."""
    labels = {str(number): f"label {number}" for number in reversed(range(12))}
    task = DecathlonTask.read(toy(tmp_path, labels=labels, modality={"1": "T2", "0": "T1"}))
    assert task.labels == tuple(f"label {number}" for number in range(12))
    assert task.channels == ("T1", "T2")


@pytest.mark.parametrize(("entries", "licence"), [({}, ""), ({"licence": "A"}, "A"), ({"license": "B"}, "B")])
def test_the_licence_is_read_in_both_spellings(tmp_path: Path, entries: dict[str, str], licence: str) -> None:
    assert DecathlonTask.read(toy(tmp_path, **entries)).licence == licence


def test_a_task_is_named_after_its_folder_also_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy(tmp_path / "Task42_Toy"))
    assert DecathlonTask.read(".").name == "Task42_Toy"


# ---------------------------------------------------------------------- folders that are no task
def test_a_missing_folder_says_where_to_get_a_task(tmp_path: Path) -> None:
    message = refused(f"there is no folder {tmp_path / 'Task04'}", DecathlonTask.read, tmp_path / "Task04")
    assert "dataset_dir" in message and "http://medicaldecathlon.com" in message and "Task04_Hippocampus.tar" in message


@pytest.mark.parametrize("part", ["dataset.json", "imagesTr", "labelsTr"])
def test_a_missing_part_is_named(tmp_path: Path, part: str) -> None:
    path = toy(tmp_path) / part
    path.unlink() if path.is_file() else shutil.rmtree(path)
    refused(f"{tmp_path} has no {part}; a Decathlon task has dataset.json, imagesTr and labelsTr", check_tree, tmp_path)
    refused(f"has no {part}", DecathlonTask.read, tmp_path)


def test_a_whole_tree_passes(tmp_path: Path) -> None:
    check_tree(toy(tmp_path))


@pytest.mark.parametrize("text", ["[]", "3", '"a task"', "null", "{}"])
def test_a_dataset_json_of_something_else_lacks_both_entries(tmp_path: Path, text: str) -> None:
    (toy(tmp_path) / "dataset.json").write_text(text)
    refused(f"{tmp_path / 'dataset.json'} lacks labels, modality, which", check_tree, tmp_path)


@pytest.mark.parametrize("key", ["labels", "modality"])
def test_a_missing_entry_is_named(tmp_path: Path, key: str) -> None:
    refused(f"dataset.json lacks {key}, which", DecathlonTask.read, toy(tmp_path, **{key: None}))


def test_a_dataset_json_that_is_no_json_is_named(tmp_path: Path) -> None:
    (toy(tmp_path) / "dataset.json").write_text("{")
    refused(f"{tmp_path / 'dataset.json'} is not valid JSON", DecathlonTask.read, tmp_path)


@pytest.mark.parametrize("key", ["labels", "modality"])
@pytest.mark.parametrize(
    "wrong",
    [{"0": "a", "2": "b"}, {"1": "a", "2": "b"}, {"background": 0, "organ": 1}, {"00": "a"}, {}, [], ["a", "b"], "a"],
    ids=str,
)
def test_names_not_numbered_without_gaps_are_refused(tmp_path: Path, key: str, wrong: Any) -> None:
    message = refused("must be numbered without gaps", DecathlonTask.read, toy(tmp_path, **{key: wrong}))
    assert message.startswith(f"{tmp_path / 'dataset.json'}: {key} ") and message.endswith(f"got {wrong!r}")


def test_there_must_be_a_label_beside_the_background(tmp_path: Path) -> None:
    folder = toy(tmp_path, labels={"0": "background"})
    refused("dataset.json has the labels ['background']; there must be at least one beside", DecathlonTask.read, folder)


@pytest.mark.parametrize("training", [None, [], {}, 2, "cases"], ids=str)
def test_a_list_without_training_cases_is_refused(tmp_path: Path, training: Any) -> None:
    refused("dataset.json lists no training cases", DecathlonTask.read, toy(tmp_path, training=training))


@pytest.mark.parametrize("entry", ["./imagesTr/toy_0.nii.gz", {"image": "./imagesTr/toy_0.nii.gz"}, {}, None], ids=str)
def test_a_training_case_has_an_image_and_a_label(tmp_path: Path, entry: Any) -> None:
    message = refused("a training case has an image and a label", DecathlonTask.read, toy(tmp_path, training=[entry]))
    assert message.endswith(f"got {entry!r}")


def test_files_that_are_not_there_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    folder = toy(tmp_path)
    (folder / "labelsTr" / "toy_1.nii.gz").unlink()
    (folder / "imagesTr" / "toy_2.nii.gz").unlink()
    first = folder / "labelsTr" / "toy_1.nii.gz"
    refused(f"lists 2 files that are not there, the first is {first}", DecathlonTask.read, folder)


def test_an_image_that_is_listed_twice_is_named(tmp_path: Path) -> None:
    """It could be trained on, and held out as well."""
    listed = [{"image": f"{dot}imagesTr/toy_0.nii.gz", "label": "labelsTr/toy_0.nii.gz"} for dot in ("./", "")]
    message = refused("lists", DecathlonTask.read, toy(tmp_path, training=listed))
    assert message == f"{tmp_path / 'dataset.json'} lists imagesTr/toy_0.nii.gz 2 times; an image is one case"


# ---------------------------------------------------------------------- splitting
def named(cases: list[Case]) -> list[str]:
    return [case.image.name for case in cases]


@pytest.mark.parametrize("count", [2, 4, 5, 6, 10, 11])
def test_the_last_fifth_by_name_is_for_validation(tmp_path: Path, count: int) -> None:
    listed = [f"toy_{number}.nii.gz" for number in range(count)]
    training = [{"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"} for name in reversed(listed)]
    task = DecathlonTask.read(toy(tmp_path, cases=count, training=training))
    train, validation = task.split()
    assert named(train + validation) == sorted(listed)
    assert len(validation) == ceil(count / 5)
    assert all(case.image.name == case.label.name for case in train + validation)


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_as_many_cases_are_held_out_as_asked(tmp_path: Path, asked: int) -> None:
    train, validation = DecathlonTask.read(toy(tmp_path, cases=4)).split(asked)
    assert named(train) == [f"toy_{number}.nii.gz" for number in range(4 - asked)]
    assert named(validation) == [f"toy_{number}.nii.gz" for number in range(4 - asked, 4)]


@pytest.mark.parametrize("asked", [-1, 0, 4, 5])
def test_a_split_that_leaves_one_side_empty_is_refused(tmp_path: Path, asked: int) -> None:
    task = DecathlonTask.read(toy(tmp_path / "Task42_Toy", cases=4))
    refused(f"validation_cases is {asked}; Task42_Toy has 4 cases: allowed are 1 to 3", task.split, asked)


@pytest.mark.parametrize("asked", [None, 1])
def test_the_only_case_is_in_both(tmp_path: Path, asked: int | None) -> None:
    task = DecathlonTask.read(toy(tmp_path, cases=1))
    assert task.split(asked) == (list(task.cases), list(task.cases))


@pytest.mark.parametrize("asked", [0, 2])
def test_a_single_case_is_held_out_once(tmp_path: Path, asked: int) -> None:
    """What is allowed is what works: one, not "1 to 0"."""
    task = DecathlonTask.read(toy(tmp_path / "Task42_Toy", cases=1))
    message = refused(f"validation_cases is {asked}; Task42_Toy has 1 case", task.split, asked)
    assert "1 to 0" not in message


# ---------------------------------------------------------------------- headers
def test_shape_and_spacing_are_those_of_the_header(tmp_path: Path) -> None:
    task = DecathlonTask.read(toy(tmp_path))
    assert task.geometry(task.cases[0]) == Geometry((6, 5, 4), (1.0, 1.5, 2.5))


def test_the_spacing_is_the_one_that_monai_loads(tmp_path: Path) -> None:
    """Of public cardiac images: an sform that carries no spacing counts, by its code, and pixdim has the true one."""
    task = DecathlonTask.read(toy(tmp_path))
    for path in (task.cases[0].image, task.cases[0].label):
        image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None)
        image.header.set_zooms((1.316, 1.316, 4.0))
        image.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1, update_affine=False)
        image.header["qform_code"] = 1
        nib.save(image, path)
    spacing = tuple(LoadImage()(task.cases[0].image).pixdim.tolist())
    assert spacing == pytest.approx((1.316, 1.316, 4.0))
    assert task.geometry(task.cases[0]).spacing == pytest.approx(spacing)


@pytest.mark.parametrize("how", ["RAS", "SLP"])
@pytest.mark.parametrize("part", ["image", "label"])
def test_an_image_that_monai_would_turn_by_a_qform_that_is_not_set_is_named(tmp_path: Path, part: str, how: str) -> None:
    task = DecathlonTask.read(toy(tmp_path))
    path = getattr(task.cases[0], part)
    image = stored(nib.load(path), how)
    header = image.header.copy()
    header.set_sform(image.affine @ np.diag([1.00003] * 3 + [1]), code=1)
    for name in ("qform_code", "quatern_b", "quatern_c", "quatern_d"):
        header[name] = 0
    header["pixdim"][0] = 1
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), None, header), path)
    if how == "RAS":  # as it is read without a qform
        assert task.geometry(task.cases[0]) == Geometry((6, 5, 4), (1.0, 1.5, 2.5))
    else:
        refused(f"{path}: the voxel sizes of its sform and of pixdim differ, so MONAI takes", task.geometry, task.cases[0])


def test_shape_and_spacing_are_of_the_axes_that_are_meant(tmp_path: Path) -> None:
    task = DecathlonTask.read(toy(tmp_path))
    for path in (task.cases[0].image, task.cases[0].label):
        nib.save(stored(nib.load(path), "SLP"), path)
    assert task.geometry(task.cases[0]) == Geometry((4, 6, 5), (2.5, 1.0, 1.5))
    assert task.geometry(task.cases[0], "RAS") == Geometry(SHAPE, (1.0, 1.5, 2.5))


def test_channels_are_not_part_of_the_shape(tmp_path: Path) -> None:
    modality = {"0": "T1", "1": "T2"}
    task = DecathlonTask.read(toy(tmp_path, image=(*SHAPE, 2), modality=modality))
    assert task.geometry(task.cases[0]) == Geometry((6, 5, 4), (1.0, 1.5, 2.5))


@pytest.mark.parametrize(
    ("image", "modality", "message"),
    [
        ((*SHAPE, 2), {"0": "MRI"}, "has the shape (6, 5, 4, 2), so 2 channels; dataset.json of Task42_Toy has 1: MRI"),
        (SHAPE, {"0": "T1", "1": "T2"}, "has the shape (6, 5, 4), so 1 channels; dataset.json of Task42_Toy has 2: T1, T2"),
        (SHAPE[:2], {"0": "MRI"}, "has the shape (6, 5)"),
        ((*SHAPE, 1, 2), {"0": "MRI"}, "has the shape (6, 5, 4, 1, 2)"),
    ],
)
def test_the_channels_of_the_header_are_those_of_dataset_json(
    tmp_path: Path, image: tuple[int, ...], modality: Mapping[str, str], message: str
) -> None:
    task = DecathlonTask.read(toy(tmp_path / "Task42_Toy", image=image, modality=modality))
    refused(f"{task.cases[0].image} {message}", task.geometry, task.cases[0])


def test_image_and_label_have_one_shape(tmp_path: Path) -> None:
    task = DecathlonTask.read(toy(tmp_path))
    volume(task.cases[1].label, (6, 5, 3))
    message = refused(str(task.cases[1].label), task.geometry, task.cases[1])
    assert message.endswith("has the shape (6, 5, 3), its image toy_1.nii.gz (6, 5, 4)")
    task.geometry(task.cases[0])


def test_a_label_has_one_channel(tmp_path: Path) -> None:
    """Written as a fourth axis or not; a second channel would be a second label for the same voxels."""
    task = DecathlonTask.read(toy(tmp_path))
    volume(task.cases[0].label, (*SHAPE, 1))
    assert task.geometry(task.cases[0]).shape == SHAPE
    volume(task.cases[0].label, (*SHAPE, 2))
    refused(f"{task.cases[0].label} has the shape (6, 5, 4, 2)", task.geometry, task.cases[0])


@pytest.mark.parametrize("part", ["image", "label"])
@pytest.mark.parametrize("length", [0, 20, 60], ids=["empty", "cut in the gzip header", "cut in the NIfTI header"])
def test_a_file_that_is_no_nifti_is_named(tmp_path: Path, part: str, length: int) -> None:
    task = DecathlonTask.read(toy(tmp_path))
    path = getattr(task.cases[0], part)
    path.write_bytes(path.read_bytes()[:length])
    refused(f"{path} cannot be read: ", task.geometry, task.cases[0])


def test_a_text_instead_of_an_image_is_named(tmp_path: Path) -> None:
    """What a download from behind a login leaves."""
    task = DecathlonTask.read(toy(tmp_path))
    task.cases[0].image.write_text("<html>please log in</html>")
    refused(f"{task.cases[0].image} cannot be read: ", task.geometry, task.cases[0])


def test_a_header_that_says_more_than_its_file_holds_is_refused(tmp_path: Path) -> None:
    """Memory would be taken for what it says."""
    task = DecathlonTask.read(toy(tmp_path))
    for path in (task.cases[0].image, task.cases[0].label):
        header = bytearray(gzip.decompress(path.read_bytes()))
        header[42:48] = struct.pack("<3h", 30_000, 30_000, 30_000)  # voxels per axis
        path.write_bytes(gzip.compress(bytes(header)))
    refused(f"{task.cases[0].image} cannot be read: its header says (30000, 30000, 30000)", task.geometry, task.cases[0])


@pytest.mark.parametrize("size", [float("nan"), float("inf")])
def test_a_voxel_size_that_is_no_number_is_refused(tmp_path: Path, size: float) -> None:
    """Nibabel itself repairs those of zero and below, and MONAI those of the sform alone."""
    task = DecathlonTask.read(toy(tmp_path))
    for place in (280, 80):  # the first entry of the sform, and of pixdim
        if place == 80:
            assert task.geometry(task.cases[0]) == Geometry(SHAPE, (1.0, 1.5, 2.5))
        raw = bytearray(gzip.decompress(task.cases[0].image.read_bytes()))
        raw[place : place + 4] = struct.pack("<f", size)
        task.cases[0].image.write_bytes(gzip.compress(bytes(raw)))
    refused(f"{task.cases[0].image} has the voxel size ({size}, ", task.geometry, task.cases[0])


# ---------------------------------------------------------------------- finding and downloading
class Downloads:
    """Stands for MONAI's download: notes what was asked for and leaves a task, or fails as ``error``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.error = error

    def __call__(self, url: str, filepath: Path, output_dir: Path, hash_val: str, *, hash_type: str) -> None:
        self.asked.append((url, Path(filepath), Path(output_dir), hash_val, hash_type))
        if self.error is not None:
            raise self.error
        toy(Path(output_dir) / Path(filepath).name.removesuffix(".tar"))


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    fake = Downloads()
    monkeypatch.setattr(monai.apps, "download_and_extract", fake)
    return fake


@pytest.mark.parametrize("missing", [True, False])
def test_a_task_that_is_there_is_not_downloaded(tmp_path: Path, downloads: Downloads, missing: bool) -> None:
    """Whatever its folder is called."""
    folder = toy(tmp_path / "mine")
    assert find_task("Task04_Hippocampus", folder, download_missing=missing) == DecathlonTask.read(folder)
    assert downloads.asked == []


def test_a_missing_task_is_only_downloaded_where_asked(tmp_path: Path, downloads: Downloads) -> None:
    folder = tmp_path / "Task04_Hippocampus"
    refused(f"there is no folder {folder}", find_task, "Task04_Hippocampus", folder)
    assert downloads.asked == []
    assert find_task("Task04_Hippocampus", str(folder), download_missing=True) == DecathlonTask.read(folder)
    url, checksum = (getattr(DecathlonDataset, of)["Task04_Hippocampus"] for of in ("resource", "md5"))
    assert downloads.asked == [(url, tmp_path / "Task04_Hippocampus.tar", tmp_path, checksum, "md5")]


def test_what_is_downloaded_is_returned_and_not_fetched_twice(tmp_path: Path, downloads: Downloads) -> None:
    for _ in range(2):
        assert download("Task09_Spleen", tmp_path) == tmp_path / "Task09_Spleen"
    assert len(downloads.asked) == 1


def test_a_folder_of_another_name_cannot_be_downloaded_to(tmp_path: Path, downloads: Downloads) -> None:
    folder = tmp_path / "mine"
    message = f"dataset_dir is {folder}; to download Task04_Hippocampus it must end in Task04_Hippocampus"
    refused(message, find_task, "Task04_Hippocampus", folder, download_missing=True)
    assert downloads.asked == []


def test_an_unknown_task_is_refused_with_the_known_ones(tmp_path: Path, downloads: Downloads) -> None:
    message = refused(
        "Task99_Unknown is neither a folder nor a Decathlon task to download; known tasks: ",
        download,
        "Task99_Unknown",
        tmp_path,
    )
    assert all(task in message for task in DecathlonDataset.resource)
    refused("known tasks", find_task, "Task99_Unknown", tmp_path / "Task99_Unknown", download_missing=True)
    assert downloads.asked == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError("[Errno -3] Temporary failure in name resolution"),
            "OSError: [Errno -3] Temporary failure in name resolution",
        ),
        (RuntimeError("md5 check of downloaded file failed"), "RuntimeError: md5 check of downloaded file failed"),
    ],
)
def test_a_download_without_network_says_what_else_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr(monai.apps, "download_and_extract", Downloads(error))
    message = refused("Task04_Hippocampus cannot be downloaded", download, "Task04_Hippocampus", tmp_path)
    assert f"({said}); fetch {DecathlonDataset.resource['Task04_Hippocampus']} elsewhere, unpack it" in message


# ---------------------------------------------------------------------- images to predict
def test_images_to_predict_are_the_test_images_then_the_training_images_then_those_of_the_folder(tmp_path: Path) -> None:
    def touch(*names: str) -> list[str]:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return sorted(str(tmp_path / name) for name in names)

    own = touch("b.nii.gz", "a.nii.gz")
    assert image_files(tmp_path) == own
    (tmp_path / "imagesTr").mkdir()
    assert image_files(tmp_path) == own
    training = touch("imagesTr/d.nii.gz", "imagesTr/c.nii.gz")
    assert image_files(str(tmp_path)) == training
    test = touch("imagesTs/e.nii.gz")
    touch("imagesTs/._e.nii.gz", "imagesTs/notes.txt")  # a Mac's shadow files are in the Decathlon's own archives
    assert image_files(tmp_path) == test


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "._a.nii.gz").touch()
    refused(f"there is no image (*.nii.gz) in {tmp_path}, its imagesTs or its imagesTr", image_files, tmp_path)
    refused("there is no image", image_files, tmp_path / "nowhere")


@pytest.mark.parametrize("written", ["false", "true", None, 1])
def test_a_command_lines_false_is_not_taken_for_true(tmp_path: Path, written: Any) -> None:
    """MONAI's command line passes on what is not Python as text, which is true whatever it says."""
    refused(f"download is {written!r}; write True or False", find_task, "Task", tmp_path, download_missing=written)


@pytest.mark.parametrize("written", ["null", "2", 1.5])
def test_a_number_of_cases_is_a_whole_number(tmp_path: Path, written: Any) -> None:
    refused(f"validation_cases is {written!r}; ", DecathlonTask.read(toy(tmp_path)).split, written)
