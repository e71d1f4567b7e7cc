"""A network that stock nnU-Net has trained becomes the start of a family: the files that ``ProXTrainerAdopt`` begins with.

The plans of the model, under a name of their own, and the weights of each fold are written beside the preprocessed data, where
nnU-Net's own commands find them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.core.supernet import without_weights
from monai_prox.errors import ProXError, refusing
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import read_json, replacing
from monai_prox.tensor_file import check_weights, read_tensors, write_tensors
from monai_prox.trained.nnunet_dataset import channels_of, labels_of, outputs_of
from monai_prox.trained.nnunet_files import check_trainable, read_dataset, read_plans
from monai_prox.trained.nnunet_folder import ALL, ModelFolder
from monai_prox.trained.nnunet_plans import PLAN_KEY, choices_of, intensities_of
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.typed import check_types

SUFFIX = "-adopt"  # of the plans' name
KIND = "start of ProXTrainerAdopt"
START = {"weights": Mapping, "held_out": tuple[str, ...] | None, "source": str}
# What preprocessed data depend on, of the plans and of a configuration
OF_PLANS = ("transpose_forward", "image_reader_writer")
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
OTHERS = ("dataset.json", "dataset_fingerprint.json", "splits_final.json")  # beside the plans


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
        ProXError: the network cannot be made elastic, the data in ``preprocessed`` are of another dataset or split otherwise,
            or there are such files already. Then nothing is written.
    """
    sources = {fold: TrainedNNUNet.of(model, fold) for fold in folds or model.folds}
    name, configuration, plans = str(model.plans["dataset_name"]), model.configuration_name, dict(model.plans)
    check_trainable(plans, configuration, "ProXTrainerAdopt")
    former = model.configuration.get(PLAN_KEY) or {}
    if not isinstance(former, dict):
        raise ProXError(f"{model.path / 'plans.json'}, {configuration!r}: {PLAN_KEY!r} must be an object, got {former!r:.80}")
    entry = {"space": "default", **former, "recipe": "adopt"}
    if space is not None:
        entry["space"] = space
        entry.pop("validate", None)  # names of members that another space may not have
    family = model.family_with(choices_of({PLAN_KEY: entry}, UNetChoices()))
    if family.space.size() == 1:
        raise ProXError(f"the search space {entry['space']!r:.80} has one member only, so there is nothing to adopt for")
    folder, plans_name = preprocessed / name, f"{plans['plans_name']}{SUFFIX}"
    _check_dataset(model, folder)
    own, own_data = model.configuration, f"{plans_name}_{configuration}"
    identifier = own.get("data_identifier")
    if identifier is None or not _is_of(plans, own, folder / identifier):  # its data must not be taken for those of others
        identifier = own_data
        if not _is_of(plans, own, folder / own_data, adopted=True) and any((folder / own_data).glob("*")):
            raise ProXError(
                f"{folder / own_data} has data that were preprocessed for the model of an earlier adoption, in another way; "
                "remove that folder, and adopt again"
            )
    plans["plans_name"] = plans_name
    adopted = {**plans["configurations"][configuration], PLAN_KEY: entry, "data_identifier": identifier}
    path, warnings, starts = folder / f"{plans_name}.json", list[str](), dict[Path, Any]()
    plans["configurations"] = _others(plans, path, configuration, adopted, overwrite=overwrite) | {configuration: adopted}
    for fold, source in sources.items():
        weights = _weights(source, family, entry["space"])
        held_out = _held_out(model, fold, folder, warnings)
        described = {"weights": weights, "held_out": held_out, "source": f"{model.path.name}, {fold}"}
        starts[start_file(folder, plans_name, configuration, fold.removeprefix("fold_"))] = described
        warnings += _of_mirroring(source, len(model.configuration["patch_size"]))
    if there := [str(file) for file in starts if file.exists() and not overwrite]:
        raise ProXError(f"{there[0]} exists; --overwrite replaces it")
    written = list[Path]()
    try:
        for file, described in starts.items():
            new = not file.exists()
            write_tensors(described, file)
            written += [file] if new else []
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(plans, indent=4), encoding="utf-8")
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise
    numbers = tuple(fold.removeprefix("fold_") for fold in sources)
    there_are_data = any((folder / identifier).glob("*"))
    return Adopted(
        plans_name, configuration, name, numbers, family.space.size(), there_are_data, tuple(dict.fromkeys(warnings))
    )


def _check_dataset(model: ModelFolder, folder: Path) -> None:
    path = folder / "dataset.json"
    for file in (path, folder / "dataset_fingerprint.json"):
        if not file.is_file():
            raise ProXError(
                f"there is no {file}; the training needs the dataset: put it into nnUNet_raw, and then "
                f"nnUNetv2_plan_and_preprocess -d {folder.name} --no_pp"
            )
    there = read_dataset(path)
    checks: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "channels": channels_of,
        "labels": labels_of,
        "outputs": outputs_of,  # the order of regions is that of the network's outputs
        "regions_class_order": lambda dataset: dataset.get("regions_class_order"),
    }
    for what, of in checks.items():
        given, known = of(model.dataset), of(there)
        if given != known:
            raise ProXError(f"the model's {what} are {given!s:.120}, those of {path} are {known!s:.120}; they must be the same")


def _is_of(plans: Mapping[str, Any], own: Mapping[str, Any], data: Path, *, adopted: bool = False) -> bool:
    """Whether preprocessed ``data`` are there, and can only have been made as the configuration ``own`` of ``plans`` asks.

    adopted: whether plans of adoptions may have made them, which is so for data that only these name.
    """
    if not data.is_dir():
        return False
    for path in sorted(data.parent.glob("*.json")):
        if path.name in OTHERS or (path.stem.endswith(SUFFIX) and not adopted):
            continue
        try:
            others = read_plans(path)
        except ProXError:  # a file of another kind
            continue
        for name in others["configurations"]:
            with suppress(ProXError), refusing(str(path)):  # a configuration that nnU-Net cannot read has made no data
                other = PlansManager(others).get_configuration(name).configuration
                if other.get("data_identifier") == data.name and not _alike(plans, own, others, other):
                    return False
    return True


def _alike(plans: Mapping[str, Any], own: Mapping[str, Any], others: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a configuration of each of two plans preprocesses as the other does."""
    same = all(plans.get(key) == others.get(key) for key in OF_PLANS)
    same = same and all(own.get(key) == other.get(key) for key in OF_CONFIGURATION)
    uses_intensities = "CTNormalization" in own.get("normalization_schemes", ())
    return same and (not uses_intensities or intensities_of(plans) == intensities_of(others))


def _others(plans: Mapping[str, Any], path: Path, name: str, own: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """The other configurations: those of an earlier adoption, if its plans are the same."""
    configurations = dict(plans["configurations"])
    if not path.is_file():
        return configurations
    try:
        known = read_plans(path)
    except ProXError:
        if not overwrite:
            raise
        return configurations
    before = known["configurations"]
    if _plain(known) == _plain(plans):
        if not overwrite and PLAN_KEY in before[name] and before[name][PLAN_KEY] != own[PLAN_KEY]:
            raise ProXError(f"{path} asks for {before[name][PLAN_KEY]!s:.120}; --overwrite replaces it")
        return dict(before)
    if not overwrite:
        raise ProXError(f"{path} exists and is of another model; --overwrite replaces it")
    return configurations


def _plain(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Plans without what an adoption changes."""
    changed = (PLAN_KEY, "data_identifier")
    of = plans["configurations"].items()
    configurations = {name: {key: entry[key] for key in entry if key not in changed} for name, entry in of}
    return {**plans, "configurations": configurations, "plans_name": None}


def _weights(source: TrainedNNUNet, family: UNetFamily, space: Any) -> dict[str, Any]:
    """Those of the largest member, which has to be the given network."""
    weights: dict[str, Any] = source.supernet.network.state_dict()
    if closed := source.checkpoint["prox"]["engine"].get("closed"):
        raise ProXError(
            f"the training of {source.path}, {source.fold}, has closed choices of {', '.join(closed)}, so its largest member "
            "has not the plan's network; monai-prox export --subnet largest makes a folder of it, which can be adopted"
        )
    try:
        check_weights(weights, without_weights(family).network, source.path)
    except ProXError as error:
        raise ProXError(f"the largest member of the space {space!s:.80} has to be the given network: {error}") from None
    return weights


def _of_mirroring(source: TrainedNNUNet, axes: int) -> list[str]:
    """A warning if the given network was trained with less mirroring than its family will be."""
    mirrored = source.checkpoint["inference_allowed_mirroring_axes"]
    if mirrored is not None and len(mirrored) == axes:
        return []
    which = "without mirroring" if not mirrored else f"with mirroring along the axes {', '.join(map(str, mirrored))} alone"
    return [
        f"the given network was trained {which}, ProXTrainerAdopt mirrors along all axes; train with a class that does not, "
        "such as class Mine(ProXTrainerAdopt, nnUNetTrainerNoMirroring)"
    ]


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
        number, known = int(fold.removeprefix("fold_")), read_json(splits)
        if not isinstance(known, list):
            raise ProXError(f"{splits} is no list of folds, got {known!r:.80}")
        if number < len(known):
            check_types(known[number], {"val": tuple[str, ...]}, f"{splits}, fold {number}")
            check_split(known[number]["val"], number, held_out)
    return held_out


def check_split(known: Sequence[str], fold: int | str, held_out: Sequence[str]) -> None:
    """Checks that a fold holds out no case that the given network was trained on.

    Args:
        known: names of the cases that the fold holds out.
        fold: number of the fold.
        held_out: names of the cases that the given network's training has held out.

    Raises:
        ProXError: it does.
    """
    if taught := sorted({*known} - {*held_out}):
        raise ProXError(
            f"fold {fold} holds out {len(taught)} cases that the given network was trained on, such as {taught[0]}, so scores "
            "would be too high; take the splits_final.json of its training"
        )


def read_start(
    folder: Path, plans: dict[str, Any], configuration: str, fold: int | str, held_out: Sequence[str]
) -> dict[str, Any]:
    """The weights that a training begins with.

    Args:
        folder: folder of the dataset in nnUNet_preprocessed.
        plans: those that an adoption has written.
        configuration: name of the configuration.
        fold: number of the fold, or "all".
        held_out: the cases that the training holds out.

    Raises:
        ProXError: there are none of this fold, the given network has held out other cases, or its data were replaced.
    """
    plans_name = plans["plans_name"]
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
        check_split(held_out, fold, known)
    own = PlansManager(plans).get_configuration(configuration).configuration
    data = folder / own["data_identifier"]
    if data.is_dir() and not _is_of(plans, own, data, adopted=data.name.startswith(plans_name)):
        raise ProXError(
            f"{data} may have been preprocessed in another way since the network was adopted, because other plans name it, "
            "too; adopt the network again"
        )
    return {name: value for name, value in start["weights"].items() if isinstance(value, torch.Tensor)}
