"""How the agreement of networks and the true Dice go together in cases with labels, which no network was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.runtime.cases import find_cases, read_truth
from monai_prox.runtime.description import Description
from monai_prox.runtime.dice import dice_of
from monai_prox.runtime.evaluation import Labelled
from monai_prox.runtime.model import Network
from monai_prox.runtime.options import Options
from monai_prox.runtime.prediction import label, problem, score
from monai_prox.runtime.read_ahead import make_ready


def labelled_cases(images: Path, labels: Path, description: Description) -> list[Labelled]:
    """The cases of the folder ``images`` whose labels are in the folder ``labels``, named as segmentations are.

    Raises ProXError if there is none, and for DICOM series.
    """
    cases, ending = find_cases(images, description), description.file_ending
    if any(case.series for case in cases):
        raise ProXError(f"{images} has DICOM series; a calibration takes images as the training's, {ending}")
    if not labels.is_dir():
        raise ProXError(f"there is no folder {labels}")
    found = [Labelled(case, labels / f"{case.name}{ending}") for case in cases]
    found = [labelled for labelled in found if labelled.labels.is_file()]
    if not found:
        raise ProXError(f"{labels} has labels of none of the {len(cases)} cases, such as {cases[0].name}{ending}")
    return found


def scores_and_dice(
    description: Description, network: Network, cases: Sequence[Labelled], options: Options
) -> Iterator[tuple[str, tuple[float, float] | str]]:
    """Yields each case's name, and its score and Dice, or what was wrong with it; one that fails stops none of the others.

    Raises ProXError for options that the network has not.
    """
    options.check(description)
    return ((labelled.case.name, _of_case(description, network, labelled, options)) for labelled in cases)


def _of_case(description: Description, network: Network, labelled: Labelled, options: Options) -> tuple[float, float] | str:
    case = labelled.case
    try:
        ready = make_ready(case, description, options)
        segmented = label(ready.prepared, ready.grid, description, network, options, name=case.name)
        truth = read_truth(labelled.labels, case, description, segmented.shape)
        agreed, dice = score(segmented, case, ready, description, options), dice_of(segmented, truth, description.labels)
    except ModuleNotFoundError:  # the command says which library is missing
        raise
    except Exception as error:  # the runtimes' own have no common class
        return problem(error)
    if isnan(agreed):
        return "there is nothing to score, because no network finds anything"
    return "it has no labels to score" if isnan(dice) else (agreed, dice)
