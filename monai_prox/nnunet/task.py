"""Decathlon tasks on their way into nnU-Net."""

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
from monai_prox.files import read_json, remove_unfinished, temporary_folder, write_json

NOTE = "converted_from.json"  # in a converted dataset's folder, which nnU-Net does not look at
ENDINGS = (".nii.gz", ".nii")
BACKGROUND = "background"  # nnU-Net knows no other name for label 0


def task_id(task: Path) -> int:
    """4 for a folder named Task04_Hippocampus. Raises ProXError for other names."""
    head, _, name = task.name.partition("_")
    if not (head.startswith("Task") and head[4:].isdigit() and name.strip("_")):
        raise ProXError(f"{task} is not named like a Decathlon task; expected a folder such as Task04_Hippocampus")
    return int(head[4:])


def named_task(task: Path | str) -> Path:
    """The folder ``task`` under the name that says what it is: its own, or, of "." and of links, that of what they mean."""
    given = Path(task).absolute()  # not resolve, which replaces links
    try:
        task_id(given)
    except ProXError:
        return given.resolve()
    return given if ".." not in given.parts else given.resolve()


def check_task(task: Path) -> None:
    """Raises ProXError unless ``task`` is named and built like a Decathlon task with labelled training cases."""
    task_id(task)
    check_tree(task)


def convert_task(task: Path, *, replace: bool = False) -> tuple[int, str]:
    """Brings a Decathlon task into nnUNet_raw by nnU-Net's own converter; returns its id and name there.

    The cases are those that dataset.json lists, or, where it lists none, those whose images and labels lie there. A dataset
    that was converted from the same files before is left as it is.

    replace: one that was converted here from other files is replaced, and what was preprocessed of it removed.

    Raises ProXError for a folder that is no Decathlon task, and where the place is taken.
    """
    check_task(task)
    identifier, short = task_id(task), task.name.partition("_")[2].replace("_", "")  # the converter allows one underscore
    name = f"Dataset{identifier:03d}_{short}"
    raw, data = Path(os.environ["nnUNet_raw"], name), read_json(task / "dataset.json")
    _check_names(data, task / "dataset.json")
    cases = _cases(task, data)
    source = _source(task, data, cases)
    if raw.exists():
        ours = (raw / NOTE).is_file()
        if _is_of(raw, source, ours):
            return identifier, name
        if not (ours and replace):
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
        whole = temporary / f"Task{identifier:02d}_{short}"
        _gather(whole, task, data, cases)
        _convert(whole, temporary, task)
        converted = temporary / name
        write_json(source, converted / NOTE)
        if raw.exists():
            shutil.rmtree(raw)
            shutil.rmtree(Path(os.environ["nnUNet_preprocessed"], name), ignore_errors=True)
        converted.rename(raw)
    return identifier, name


def _check_names(data: Mapping[str, Any], path: Path) -> None:
    """Raises ProXError unless labels, the background among them, and channels are numbered and named as nnU-Net needs it."""
    for key in ("labels", "modality"):
        names = data[key]
        if not (isinstance(names, Mapping) and "0" in names and all(number.isdecimal() for number in names)):
            raise ProXError(f'{path}: {key} must be numbered from 0 on, {{"0": name, "1": name, ...}}, got {names!r:.160}')
    named = Counter(BACKGROUND if number == "0" else str(name) for number, name in data["labels"].items())
    (name, count), *_ = named.most_common()
    if count > 1:
        raise ProXError(f"{path}: {count} labels are named {name!r:.80}, of which nnU-Net would know one")


def _source(task: Path, data: Mapping[str, Any], cases: Mapping[str, Case]) -> dict[str, Any]:
    """What tells one state of a task from another, without reading its images."""
    files = [file for case in cases.values() for file in (case.image, case.label)]
    about = {os.path.relpath(file, task): f"{file.stat().st_size} bytes, {file.stat().st_mtime_ns} ns" for file in files}
    return {"dataset": data, "files": about}


def _is_of(raw: Path, source: Mapping[str, Any], ours: bool) -> bool:
    """Whether a converted dataset is of ``source``; of one that tells not where it is from, whether the cases are the same."""
    if ours:
        return bool(read_json(raw / NOTE) == source)
    if not (raw / "dataset.json").is_file():
        return False
    converted = {path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").glob("*.nii.gz")}
    images = [name for name in source["files"] if name.startswith("images")]
    return converted == {_stem(Path(name)) for name in images}


def _cases(task: Path, data: Mapping[str, Any]) -> dict[str, Case]:
    """By name. Raises ProXError for a case that is not whole, or of another format."""
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


def _gather(whole: Path, task: Path, data: Mapping[str, Any], cases: Mapping[str, Case]) -> None:
    """The task as nnU-Net's converter wants it: the cases alone, gzipped, with a folder of test images and the two lists."""
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (whole / part).mkdir(parents=True)
    tests = sorted((task / "imagesTs").glob("[!._]*.nii.gz"))
    placed = [(file, "imagesTs", _stem(file)) for file in tests]
    for name, case in cases.items():
        placed += [(case.image, "imagesTr", name), (case.label, "labelsTr", name)]
    for file, part, name in placed:
        target = whole / part / f"{name}.nii.gz"
        if file.name.endswith(".gz"):
            target.symlink_to(file.resolve())
        else:
            with file.open("rb") as plain, gzip.open(target, "wb", compresslevel=1) as packed:
                shutil.copyfileobj(plain, packed)
    labels = {key: BACKGROUND if str(key) == "0" else name for key, name in data["labels"].items()}
    lists = {"training": [], "test": [], "numTraining": len(cases)}
    write_json({**data, **lists, "labels": labels}, whole / "dataset.json")


def _convert(whole: Path, target: Path, task: Path) -> None:
    """Into the folder ``target``, which stands for all of nnU-Net's meanwhile. task: that ``whole`` is of."""
    from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset

    with _variables({name: str(target) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}):
        try:
            convert_msd_dataset(str(whole), num_processes=2)
        except (AssertionError, RuntimeError, ValueError) as error:  # what the converter, and SimpleITK, raise of images
            said = " ".join(str(error).split()).replace(str(whole), str(task))
            raise ProXError(f"nnU-Net cannot convert {whole.name}: {said}") from None


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
    """Raises ProXError where another dataset has the id."""
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    others = [str(other) for other in find_candidate_datasets(identifier) if other != name]
    if others:
        raise ProXError(
            f"the id {identifier} is taken by {', '.join(others)}; rename the task's folder, e.g. Task{identifier + 500}_..."
        )


def is_preprocessed(dataset: str, data_identifier: str) -> bool:
    """Whether all cases of a dataset in nnUNet_raw are preprocessed; not so after an interrupted preprocessing."""
    cases = read_json(Path(os.environ["nnUNet_raw"]) / dataset / "dataset.json")["numTraining"]
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset / data_identifier
    return len(list(folder.glob("*.pkl"))) >= int(cases)


def split(cases: Sequence[str]) -> list[dict[str, list[str]]] | None:
    """Folds for fewer cases than nnU-Net splits by itself, five: each holds out one, the only case of a task itself."""
    if len(cases) >= 5:
        return None
    return [{"train": [other for other in cases if other != one] or [one], "val": [one]} for one in cases]
