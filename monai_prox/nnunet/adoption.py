"""A network that stock nnU-Net has trained becomes the start of a family: the files that ``ProXTrainerAdopt`` begins with.

The plans of the model, under a name of their own, and the weights of each fold are written beside the preprocessed data, where
nnU-Net's own commands find them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monai_prox.core.supernet import without_weights
from monai_prox.errors import ProXError, refusing
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import read_json, replacing
from monai_prox.tensor_file import check_weights, read_tensors, write_tensors
from monai_prox.trained.nnunet_dataset import channels_of, labels_of
from monai_prox.trained.nnunet_files import check_trainable, read_dataset, read_plans
from monai_prox.trained.nnunet_folder import ALL, ModelFolder
from monai_prox.trained.nnunet_plans import PLAN_KEY
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.typed import check_types

SUFFIX = "-adopt"  # of the plans' name
KIND = "start of ProXTrainerAdopt"
START = {"weights": Mapping, "held_out": tuple[str, ...] | None, "source": str}
# What preprocessed data depend on, of the plans and of a configuration
OF_PLANS = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")
OF_CONFIGURATION = (
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "preprocessor_name",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)


@dataclass(frozen=True)
class Adopted:
    """What was written.

    Args:
        plans_name: name of the plans.
        configuration: name of the configuration.
        dataset: name of the dataset.
        folds: numbers of the folds, or "all".
        members: number of members of the family.
        preprocessed: whether the data are there that the plans ask for.
        warnings: what could not be checked, in lines.
    """

    plans_name: str
    configuration: str
    dataset: str
    folds: tuple[str, ...]
    members: int
    preprocessed: bool
    warnings: tuple[str, ...]


def start_file(folder: Path, plans_name: str, configuration: str, fold: int | str) -> Path:
    """The file of the weights that a fold's training begins with.

    Args:
        folder: folder of the dataset in nnUNet_preprocessed.
        plans_name: name of the plans.
        configuration: name of the configuration.
        fold: number of the fold, or "all".
    """
    return folder / f"{plans_name}__{configuration}__fold_{fold}.pt"


def adopt(
    model: ModelFolder, preprocessed: Path, *, folds: Sequence[str] = (), space: Any = None, overwrite: bool = False
) -> Adopted:
    """Writes what a training begins with that makes a family of a trained network.

    Args:
        model: the folder of the trained network, or of a family, whose largest member is taken.
        preprocessed: nnUNet_preprocessed.
        folds: such as "fold_0". None means all that have finished.
        space: see ``UNetChoices.from_json``. None means the default.
        overwrite: whether files of an earlier adoption are replaced.

    Raises:
        ProXError: the network cannot be made elastic, the data in ``preprocessed`` are of another dataset, of other plans or
            split otherwise, or there are such files already. Then nothing is written.
    """
    sources = {fold: TrainedNNUNet.of(model, fold) for fold in folds or model.folds}
    name, configuration, plans = str(model.plans["dataset_name"]), model.configuration_name, dict(model.plans)
    check_trainable(plans, configuration, "ProXTrainerAdopt")
    choices = UNetChoices.from_json({} if space is None else space)
    family = model.family_with(choices)
    if family.space.size() == 1:
        raise ProXError(f"the search space {space!r:.80} has one member only, so there is nothing to adopt for")
    folder, plans_name = preprocessed / name, f"{plans['plans_name']}{SUFFIX}"
    data = folder / str(model.configuration["data_identifier"])
    _check_dataset(model, folder)
    if data.is_dir():
        _check_plans(model, data)
    path, warnings, starts = folder / f"{plans_name}.json", list[str](), dict[Path, Any]()
    for fold, source in sources.items():
        weights = source.supernet.network.state_dict()
        check_weights(weights, without_weights(family).network, source.path)
        held_out = _held_out(model, fold, folder, warnings)
        number = fold.removeprefix("fold_")
        described = {"weights": weights, "held_out": held_out, "source": f"{model.path.name}, {fold}"}
        starts[start_file(folder, plans_name, configuration, number)] = described
    if there := [str(file) for file in (path, *starts) if file.exists() and not overwrite]:
        raise ProXError(f"{there[0]} exists; --overwrite replaces it")
    plans["plans_name"] = plans_name
    own = {key: value for key, value in plans["configurations"][configuration].items() if key != PLAN_KEY}
    own |= {} if space is None else {PLAN_KEY: {"space": space}}
    plans["configurations"] = plans["configurations"] | {configuration: own}
    for file, described in starts.items():
        write_tensors(described, file)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plans, indent=4), encoding="utf-8")
    numbers = tuple(fold.removeprefix("fold_") for fold in sources)
    return Adopted(plans_name, configuration, name, numbers, family.space.size(), data.is_dir(), tuple(warnings))


def _check_dataset(model: ModelFolder, folder: Path) -> None:
    path = folder / "dataset.json"
    for file in (path, folder / "dataset_fingerprint.json"):
        if not file.is_file():
            raise ProXError(
                f"there is no {file}; the training needs the dataset: put it into nnUNet_raw, and then "
                f"nnUNetv2_plan_and_preprocess -d {folder.name} --no_pp"
            )
    there = read_dataset(path)
    for what, of in (("channels", channels_of), ("labels", labels_of)):
        given, known = of(model.dataset), of(there)
        if given != known:
            raise ProXError(f"the model's {what} are {given!s:.120}, those of {path} are {known!s:.120}; they must be the same")


def _check_plans(model: ModelFolder, data: Path) -> None:
    """Refuses preprocessed ``data`` that other plans have made."""
    given = model.configuration
    for path in sorted(data.parent.glob("*Plans*.json")):
        plans = read_plans(path)
        for configuration in plans["configurations"].values():
            if path.stem.endswith(SUFFIX) or configuration.get("data_identifier") != data.name:
                continue
            unlike = [key for key in OF_PLANS if plans.get(key) != model.plans.get(key)]
            unlike += [key for key in OF_CONFIGURATION if configuration.get(key, given.get(key)) != given.get(key)]
            if unlike:
                raise ProXError(
                    f"{data} is preprocessed by {path.name}, whose {', '.join(unlike[:3])} differ from those of the model's "
                    "plans; a network that was trained on such data needs them again"
                )


def _held_out(model: ModelFolder, fold: str, folder: Path, warnings: list[str]) -> tuple[str, ...] | None:
    """The cases that a fold has held out, if that is known."""
    if fold == ALL:
        return ()
    try:
        held_out = tuple(sorted(model.held_out(fold)))
    except ProXError as unknown:
        warnings.append(f"whether {fold} will hold out the same cases cannot be known: {unknown}")
        return None
    splits = folder / "splits_final.json"
    if splits.is_file():
        check_split(read_json(splits), int(fold.removeprefix("fold_")), held_out, splits)
    return held_out


def check_split(splits: Any, fold: int, held_out: Sequence[str], path: Path) -> None:
    """Checks that a fold holds out the cases that the given network's training has held out.

    Args:
        splits: content of splits_final.json.
        fold: number of the fold.
        held_out: names of the cases.
        path: the file.

    Raises:
        ProXError: it does not.
    """
    with refusing(f"{path} cannot be used"):
        known = splits[fold]["val"] if fold < len(splits) else None
    if known is not None and sorted(known) != sorted(held_out):
        taught = sorted({*known} - {*held_out}) or sorted({*held_out} - {*known})
        raise ProXError(
            f"fold {fold} of {path} holds out {len(known)} cases, the given network has held out {len(held_out)} others, "
            f"unlike {taught[0]}: scores would be of cases that it was trained on; take the splits_final.json of its training"
        )


def read_start(folder: Path, plans_name: str, configuration: str, fold: int | str, held_out: Sequence[str]) -> dict[str, Any]:
    """The weights that a training begins with.

    Args:
        folder: folder of the dataset in nnUNet_preprocessed.
        plans_name: name of the plans.
        configuration: name of the configuration.
        fold: number of the fold, or "all".
        held_out: the cases that the training holds out.

    Raises:
        ProXError: there are none of this fold, or the given network has held out other cases.
    """
    path = start_file(folder, plans_name, configuration, fold)
    if not path.is_file():
        others = folder.glob(start_file(folder, plans_name, configuration, "*").name)
        there = sorted(file.stem.rpartition("fold_")[2] for file in others)
        have = f"there are those of the folds {', '.join(there)}" if there else "monai-prox adopt MODEL_FOLDER writes them"
        raise ProXError(f"there is no {path} with the weights that fold {fold} begins with; {have}")
    start = read_tensors(path, kind=KIND)
    check_types(start, START, path)
    known = start["held_out"]
    if fold != "all" and known is not None:
        check_split([{"val": list(held_out)}], 0, known, path)
    return {name: value for name, value in start["weights"].items() if isinstance(value, torch.Tensor)}
