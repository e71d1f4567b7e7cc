"""Conversion of Decathlon tasks into datasets of nnU-Net."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_prox.data.decathlon import Case, check_tree, listed_cases
from monai_prox.errors import ProXError
from monai_prox.files import link, read_json, remove_unfinished, temporary_folder, write_json

NOTE = "converted_from.json"  # a file in a converted dataset's folder, which nnU-Net ignores
ENDINGS = (".nii.gz", ".nii")
BACKGROUND = "background"  # the only name of label 0 that nnU-Net accepts


def task_id(task: Path) -> int:
    """The number of a task.

    Args:
        task: folder of the task.

    Raises:
        ProXError: the name of the folder is not like Task04_Hippocampus.

    >>> task_id(Path("Task04_Hippocampus"))
    4
    """
    head, _, name = task.name.partition("_")
    if not (head.startswith("Task") and head[4:].isdigit() and name.strip("_")):
        raise ProXError(f"{task} is not named like a Decathlon task; expected a folder such as Task04_Hippocampus")
    return int(head[4:])


def named_task(task: Path | str) -> Path:
    """The path of a task's folder that ends in the name of the task. "." and links with other names are resolved.

    Args:
        task: folder of the task.
    """
    folder = Path(task).absolute()  # not resolve, which replaces links
    try:
        task_id(folder)
    except ProXError:
        return folder.resolve()
    return folder if ".." not in folder.parts else folder.resolve()


def check_task(task: Path) -> None:
    """Checks that a folder has the name and the files of a Decathlon task with labelled training cases.

    Args:
        task: folder of the task.

    Raises:
        ProXError: the name is not that of a task, or something is missing.
    """
    task_id(task)
    check_tree(task)


def convert_task(task: Path, *, replace: bool = False) -> tuple[int, str]:
    """Converts a Decathlon task into a dataset in nnUNet_raw, by nnU-Net's own converter.

    The cases are those that dataset.json lists. If it lists none, they are the images in imagesTr with their labels in
    labelsTr. A dataset that was converted from the same files before is not changed.

    Args:
        task: folder of the task.
        replace: whether a dataset that this function converted from other files is replaced, and its preprocessed data removed.

    Returns:
        The id and the name of the dataset.

    Raises:
        ProXError: the folder is not a Decathlon task, or another dataset has the id or the name.
    """
    check_task(task)
    identifier, short = task_id(task), task.name.partition("_")[2].replace("_", "")  # the converter allows one underscore
    name = f"Dataset{identifier:03d}_{short}"
    raw, data = Path(os.environ["nnUNet_raw"], name), read_json(task / "dataset.json")
    _check_names(data, task / "dataset.json")
    cases = _cases(task, data)
    source = _source(task, data, cases)
    if raw.exists():
        has_note = (raw / NOTE).is_file()
        if _has_source(raw, source, has_note):
            return identifier, name
        if not (has_note and replace):
            wrong = f"was converted from other files than those of {task}"
            if not (raw / "dataset.json").is_file():
                wrong = "is there but not whole, from a conversion that was interrupted"
            raise ProXError(f"{raw} {wrong}; remove it and start again")
    if not cases:
        raise ProXError(f"{task} has no training cases: dataset.json lists none, and there are no images in imagesTr")
    _check_free(identifier, name)
    raw.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(raw.parent, name)
    with temporary_folder(raw) as temporary:
        complete = temporary / f"Task{identifier:02d}_{short}"
        _gather(complete, task, data, cases)
        _convert(complete, temporary, task)
        converted = temporary / name
        write_json(source, converted / NOTE)
        if raw.exists():
            shutil.rmtree(raw)
            shutil.rmtree(Path(os.environ["nnUNet_preprocessed"], name), ignore_errors=True)
        converted.rename(raw)
    return identifier, name


def _check_names(data: Mapping[str, Any], path: Path) -> None:
    """Raises ProXError if channels or labels have no numbers, labels have no background, or labels have the same name."""
    for key in ("labels", "modality"):
        names = data[key]
        if not (isinstance(names, Mapping) and "0" in names and all(number.isdecimal() for number in names)):
            raise ProXError(f'{path}: {key} must be numbered from 0 on, {{"0": name, "1": name, ...}}, got {names!r:.160}')
    named = Counter(BACKGROUND if number == "0" else str(name) for number, name in data["labels"].items())
    (name, count), *_ = named.most_common()
    if count > 1:
        raise ProXError(f"{path}: {count} labels are named {name!r:.80}, of which nnU-Net would know one")


def _source(task: Path, data: Mapping[str, Any], cases: Mapping[str, Case]) -> dict[str, Any]:
    """An identification of a task and its files, without reading the images."""
    files = [file for case in cases.values() for file in (case.image, case.label)]
    about = {os.path.relpath(file, task): f"{file.stat().st_size} bytes, {file.stat().st_mtime_ns} ns" for file in files}
    return {"dataset": data, "files": about}


def _has_source(raw: Path, source: Mapping[str, Any], has_note: bool) -> bool:
    """Whether a dataset was converted from ``source``. A dataset without a note is identified by the names of its cases."""
    if has_note:
        return bool(read_json(raw / NOTE) == source)
    if not (raw / "dataset.json").is_file():
        return False
    converted = {path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").glob("*.nii.gz")}
    images = [name for name in source["files"] if name.startswith("images")]
    return converted == {_stem(Path(name)) for name in images}


def _cases(task: Path, data: Mapping[str, Any]) -> dict[str, Case]:
    """The cases by name. Raises ProXError if a case has no label or another format."""
    if data.get("training"):
        cases = list(listed_cases(dict(data), task))
    else:
        images = [file for ending in ENDINGS for file in sorted((task / "imagesTr").glob(f"[!._]*{ending}"))]
        labels = {_stem(file): file for ending in ENDINGS for file in (task / "labelsTr").glob(f"[!._]*{ending}")}
        if lacking := [image for image in images if _stem(image) not in labels]:
            raise ProXError(f"{lacking[0]} has no label in labelsTr; {len(lacking)} of {len(images)} images have none")
        cases = [Case(image, labels[_stem(image)]) for image in images]
    for case in cases:
        for file in (case.image, case.label):
            if not file.name.endswith(ENDINGS):
                raise ProXError(f"{file} is no {' or '.join(ENDINGS)} file, which a Decathlon task has")
    named = {_stem(case.image): case for case in cases}
    if len(named) < len(cases):
        raise ProXError(
            f"{task / 'dataset.json'} lists {len(cases)} training cases, of which {len(named)} have names of their own"
        )
    return named


def _stem(file: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", file.name)


def _gather(folder: Path, task: Path, data: Mapping[str, Any], cases: Mapping[str, Case]) -> None:
    """Makes a folder for nnU-Net's converter: the cases, gzipped, a folder of test images, and dataset.json with both lists."""
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    tests = sorted((task / "imagesTs").glob("[!._]*.nii.gz"))
    placed = [(file, "imagesTs", _stem(file)) for file in tests]
    for name, case in cases.items():
        placed += [(case.image, "imagesTr", name), (case.label, "labelsTr", name)]
    for file, part, name in placed:
        target = folder / part / f"{name}.nii.gz"
        if file.name.endswith(".gz"):
            link(target, file)
        else:
            with file.open("rb") as plain, gzip.open(target, "wb", compresslevel=1) as packed:
                shutil.copyfileobj(plain, packed)
    labels = {key: BACKGROUND if str(key) == "0" else name for key, name in data["labels"].items()}
    lists = {"training": [], "test": [], "numTraining": len(cases)}
    write_json({**data, **lists, "labels": labels}, folder / "dataset.json")


def _convert(folder: Path, target: Path, task: Path) -> None:
    """Converts ``folder``, made from ``task``, into the folder ``target``, which takes the place of nnU-Net's folders."""
    from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset

    with _variables({name: str(target) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}):
        try:
            convert_msd_dataset(str(folder), num_processes=2)
        except (AssertionError, RuntimeError, ValueError) as error:  # errors of the converter and of SimpleITK
            message = " ".join(str(error).split()).replace(str(folder), str(task))
            raise ProXError(f"nnU-Net cannot convert {folder.name}: {message}") from None


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_free(identifier: int, name: str) -> None:
    """Raises ProXError if another dataset has the id."""
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    others = [str(other) for other in find_candidate_datasets(identifier) if other != name]
    if others:
        raise ProXError(
            f"the id {identifier} is taken by {', '.join(others)}; rename the task's folder, e.g. Task{identifier + 500}_..."
        )


def is_preprocessed(dataset: str, data_identifier: str) -> bool:
    """Whether all cases of a dataset are preprocessed. They are not after an interruption.

    Args:
        dataset: name of the dataset in nnUNet_raw.
        data_identifier: name of the folder of the preprocessed cases.
    """
    cases = read_json(Path(os.environ["nnUNet_raw"]) / dataset / "dataset.json")["numTraining"]
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset / data_identifier
    return len(list(folder.glob("*.pkl"))) >= int(cases)


def split(cases: Sequence[str]) -> list[dict[str, list[str]]] | None:
    """Folds of fewer than five cases, which nnU-Net does not split. Each fold holds out one case.

    Args:
        cases: names of the cases.

    Returns:
        {"train": ..., "val": ...} for each fold, or None for five cases and more. A single case is in both.

    >>> split(["a", "b"])
    [{'train': ['b'], 'val': ['a']}, {'train': ['a'], 'val': ['b']}]
    """
    if len(cases) >= 5:
        return None
    return [{"train": [name for name in cases if name != held_out] or [held_out], "val": [held_out]} for held_out in cases]
