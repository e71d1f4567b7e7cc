"""The trained model that a command works on: a folder, or what nnU-Net's own commands call it."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from monai_prox.cli.completion import CONFIGURATIONS, complete_dataset, one_of
from monai_prox.errors import ProXError

CONFIGURATION, TRAINER, PLANS = "3d_fullres", "ProXTrainer", "nnUNetPlans"  # that are taken if none is named
FOLD = ("-f", "--fold")
FOLDS = re.compile(r"([0-9]{1,4}|all|every)(,([0-9]{1,4}|all|every))*")  # of which nnU-Net's commands take several words
MODEL = Annotated[
    Path | None,
    typer.Argument(
        help="The trained folder: .../ProXTrainer__nnUNetPlans__3d_fullres, one of stock nnU-Net, or a MONAI bundle. In its "
        "place -d takes nnU-Net's name of a dataset."
    ),
]
OPTIONS = {
    "dataset_id": Annotated[
        str | None,
        typer.Option(
            "-d",
            help="The dataset of a model in nnUNet_results, in the place of MODEL: a number such as 4, or "
            "Dataset004_Hippocampus.",
            autocompletion=complete_dataset("nnUNet_results"),
        ),
    ],
    "configuration": Annotated[
        str | None,
        typer.Option(
            "-c", help=f"The configuration, with -d. By default it is {CONFIGURATION}.", autocompletion=one_of(CONFIGURATIONS)
        ),
    ],
    "trainer": Annotated[str | None, typer.Option("-tr", help=f"The trainer, with -d. By default it is {TRAINER}.")],
    "plans": Annotated[str | None, typer.Option("-p", help=f"The plans' name, with -d. By default it is {PLANS}.")],
}


def on_model(command: Callable[..., None]) -> Callable[..., None]:
    """Makes the parameter ``model`` of a command one that users give as a folder, or as nnU-Net's commands name it.

    Args:
        command: takes ``model``, a folder, and ``fold``, before which the command line has nnU-Net's options. If its signature
            has ``untrained``, ``model`` may be a plan, too.
    """

    @wraps(command)
    def resolved(*, model: Path | None, **given: Any) -> None:
        named = {name: given.pop(name) for name in OPTIONS}
        found = plan_of(model, **named) if given.pop("untrained", False) else model_folder(model, **named)
        command(model=found, **given)

    signature, shown = inspect.signature(command, eval_str=True), list[inspect.Parameter]()
    for name, parameter in signature.parameters.items():
        if name == "fold":
            shown += [_optional(option, annotation) for option, annotation in OPTIONS.items()]
        shown.append(_optional(name, MODEL) if name == "model" else parameter.replace(kind=parameter.KEYWORD_ONLY))
    resolved.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    resolved.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}  # typer reads these, too
    return resolved


class ModelCommand(TyperCommand):
    """A command of ``on_model``, which takes several folds after one -f, as nnU-Net's commands do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the command line."""
        return super().parse_args(ctx, folds_together(args))


def folds_together(words: list[str]) -> list[str]:
    """A command line in which the folds that follow -f or --fold are one word.

    Args:
        words: the command line.

    >>> folds_together(["-f", "0", "1", "2", "model"])
    ['-f', '0,1,2', 'model']
    """
    together: list[str] = []
    for word in words:
        if FOLDS.fullmatch(word) and len(together) > 1 and together[-2] in FOLD and FOLDS.fullmatch(together[-1]):
            together[-1] += f",{word}"
        else:
            together.append(word)
    return together


def _optional(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def model_folder(
    model: Path | None, dataset_id: str | None, configuration: str | None, trainer: str | None, plans: str | None
) -> Path:
    """The folder of the model that a command was given.

    Args:
        model: the folder, or None.
        dataset_id: number or name of an nnU-Net dataset, or None.
        configuration: its configuration, None for the default.
        trainer: the trainer's name, None for the default.
        plans: the plans' name, None for the default.

    Raises:
        ProXError: there are both a folder and a dataset or none of them, or nnU-Net does not know the dataset, or the model is
            not there.
    """
    if model is None and dataset_id is None:
        raise ProXError("no model is given; give the trained folder MODEL, or -d DATASET of a model in nnUNet_results")
    if model is not None and dataset_id is not None:
        raise ProXError(f"give the folder MODEL or -d DATASET, not both, got {str(model)!r:.80} and -d {dataset_id!s:.80}")
    given = {"-c": configuration, "-tr": trainer, "-p": plans}
    if model is not None:
        if named := [option for option, value in given.items() if value is not None]:
            raise ProXError(f"{', '.join(named)} is for -d DATASET; the folder {model} names configuration, trainer and plans")
        return model
    assert dataset_id is not None
    results = variable("nnUNet_results")
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    name = dataset_name(dataset_id)
    folder = Path(get_output_folder(name, trainer or TRAINER, plans or PLANS, configuration or CONFIGURATION))
    if not folder.is_dir():
        trained = sorted(path.name for path in (results / name).glob("*__*__*") if path.is_dir())
        there = f"of {name} there are {', '.join(trained)}" if trained else f"there is no model of {name}"
        raise ProXError(f"there is no folder {folder}; {there}: choose by -c, -tr and -p")
    return folder


@dataclass(frozen=True)
class Plan:
    """A configuration of the plans of a dataset in nnUNet_preprocessed, and the trainer that would train it."""

    dataset: str
    configuration: str
    trainer: str
    plans: str

    @property
    def folder(self) -> Path:
        """The folder of the dataset in nnUNet_preprocessed."""
        return variable("nnUNet_preprocessed") / self.dataset


def plan_of(
    model: Path | None, dataset_id: str | None, configuration: str | None, trainer: str | None, plans: str | None
) -> Plan:
    """The plan that a command was given with --untrained. Arguments are those of ``model_folder``.

    Raises:
        ProXError: there is a folder or no dataset, or nnU-Net does not know the dataset.
    """
    if model is not None or dataset_id is None:
        given = "" if model is None else f", got {str(model)!r:.80}"
        raise ProXError(f"--untrained is for -d DATASET, which nnU-Net has planned, not for a folder{given}")
    return Plan(dataset_name(dataset_id), configuration or CONFIGURATION, trainer or TRAINER, plans or PLANS)


def dataset_name(dataset: str) -> str:
    """The whole name of a dataset, by nnU-Net's own rules.

    Args:
        dataset: a number, or the name.

    Raises:
        ProXError: it is neither, or nnU-Net finds no dataset or several with the number.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets, maybe_convert_to_dataset_name

    try:
        number = None if dataset.startswith("Dataset") else int(dataset)
    except ValueError:
        raise ProXError(
            f"the dataset is {dataset!r:.80}; it must be a number such as 4, or a name such as Dataset004_Hippocampus"
        ) from None
    found = [] if number is None else [str(name) for name in find_candidate_datasets(number)]
    if number is not None and len(found) != 1:
        what = f"{', '.join(found)}: give the name" if found else "no dataset with this number"
        raise ProXError(f"the dataset is {dataset}; in nnUNet_raw, nnUNet_preprocessed and nnUNet_results nnU-Net finds {what}")
    name = str(maybe_convert_to_dataset_name(dataset))
    if Path(name).name != name:
        raise ProXError(f"the dataset is {dataset!r:.80}; a name such as Dataset004_Hippocampus has no folders in it")
    return name


def variable(name: str) -> Path:
    """The folder that one of nnU-Net's variables names.

    Args:
        name: name of the variable.

    Raises:
        ProXError: it is not set.
    """
    folder = os.environ.get(name)
    if not folder:
        raise ProXError(f"{name} is not set, the folder in which nnU-Net has the dataset; export {name}=/a/folder")
    return Path(folder)
