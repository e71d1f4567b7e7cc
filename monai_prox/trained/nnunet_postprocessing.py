"""The postprocessing that nnUNetv2_find_best_configuration has found for a model, read without executing anything."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError
from monai_prox.files import check_inside, read_json
from monai_prox.runtime.description import MOST_LABEL, MOST_STEPS
from monai_prox.typed import check_types

FOLDER = "crossval_results_folds_"  # and the folds' numbers
LISTED, PICKLED = "postprocessing.json", "postprocessing.pkl"
FUNCTION = "remove_all_but_largest_component_from_segmentation"
ARGUMENT = "labels_or_regions"
Labels = int | tuple[int | tuple[int, ...], ...]
ENTRIES = {"postprocessing_fns": tuple[str, ...], "postprocessing_kwargs": tuple[Mapping[str, Any], ...]}


def postprocessing_of(model: Path, folds: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Groups of labels of which only the largest component is kept, see ``monai_prox.runtime.postprocessing``.

    folds: folders' names. Of several results of cross-validations it is that of these folds, else that of most folds. Warns
    where nnU-Net has left what cannot be read. Raises ProXError for a file that is not nnU-Net's.
    """
    found = [path.parent for path in sorted(model.glob(f"{FOLDER}*/postprocessing.*")) if path.name in (LISTED, PICKLED)]
    if not found:
        return ()
    same = FOLDER + "_".join(fold.removeprefix("fold_") for fold in folds)
    folder = max(found, key=lambda path: (path.name == same, path.name.count("_")))
    path = folder / LISTED
    if not path.is_file():
        warnings.warn(
            f"{folder / PICKLED} is not applied, for it is a program; nnUNetv2_determine_postprocessing writes {LISTED}, too",
            stacklevel=2,
        )
        return ()
    return _read(check_inside(path, model))


def _read(path: Path) -> tuple[tuple[int, ...], ...]:
    data = read_json(path)
    check_types(data, ENTRIES, path)
    functions, arguments = data["postprocessing_fns"], data["postprocessing_kwargs"]
    if any(name != FUNCTION for name in functions) or any(set(given) != {ARGUMENT} for given in arguments):
        warnings.warn(f"{path} is not applied, for it has more than nnU-Net's {FUNCTION}", stacklevel=3)
        return ()
    for given in arguments:
        check_types(given, {ARGUMENT: Labels}, path)
    steps = tuple(_values(given[ARGUMENT]) for given in arguments)
    if len(functions) != len(steps) or len(steps) > MOST_STEPS or not all(map(_are_labels, steps)):
        raise ProXError(f"{path} has {len(functions)} functions for {len(steps)} groups of labels, {steps!s:.80}")
    return steps


def _values(given: int | list[int | list[int]]) -> tuple[int, ...]:
    """A label, a region, or several of both: their labels."""
    if isinstance(given, int):
        return (given,)
    return tuple(dict.fromkeys(value for one in given for value in _values(one)))  # type: ignore[arg-type]


def _are_labels(step: Sequence[int]) -> bool:
    return bool(step) and all(0 < value <= MOST_LABEL for value in step)
