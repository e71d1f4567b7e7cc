"""Segmentations by a network, image by image, and case by case into files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import isnan
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.files import make_folder, remove_unfinished, replacing, to_disk
from monai_prox.runtime.cases import Case
from monai_prox.runtime.description import Description
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.labels import labels
from monai_prox.runtime.mirroring import mirrored
from monai_prox.runtime.model import Network
from monai_prox.runtime.options import FORMATS, PLAIN, Options
from monai_prox.runtime.postprocessing import keep_largest
from monai_prox.runtime.probabilities import ENDINGS, probabilities, save_for_ensembling, save_probabilities
from monai_prox.runtime.quality_table import QualityTable, outdate
from monai_prox.runtime.read_ahead import ReadAhead, Ready, make_ready
from monai_prox.runtime.resampling import Array
from monai_prox.runtime.second_opinion import agreement
from monai_prox.runtime.sliding_window import sliding_window


def label(
    prepared: Array,
    grid: Grid,
    description: Description,
    network: Network,
    options: Options = PLAIN,
    *,
    done: Callable[[int], object] | None = None,
    keep: Callable[[Array], object] | None = None,
    name: str = "the image",
) -> NDArray[np.integer]:
    """What ``prepare`` gives -> labels, (z, y, x) of the image.

    done: called with the number of tiles at every one. keep: called with the probabilities, see there, if the options ask for
    them. name: of the case, for warnings.
    """
    if options.mirror:
        network = mirrored(network, description.mirroring or ())
    if options.locator is not None:
        logits = options.locator.logits(prepared, grid.spacing, network, description, options.step, done, name=name)
    else:
        logits = sliding_window(prepared, description.patch, description.outputs, network, step=options.step, done=done)
    if options.probabilities and keep is not None:
        keep(probabilities(logits, grid, description))
    result = labels(logits, grid, description)
    del logits
    if options.postprocess:
        keep_largest(result, description.postprocessing)
    return result


def score(segmented: NDArray[np.integer], case: Case, ready: Ready, description: Description, options: Options) -> float:
    """The mean agreement of the labels of a case with what second opinions say of it; NaN where nothing is found, or asked.

    ready: as the network of ``description`` has seen the case. Raises ProXError if another one cannot predict it.
    """
    alone, scores = options.of_second_opinion, []
    for second in options.second_opinions:
        theirs = replace(second.description, stored_orientation=description.stored_orientation)
        seen = ready if second.shares_images(description) else make_ready(case, theirs, alone)
        other = label(seen.prepared, seen.grid, theirs, second.network, alone, name=case.name)
        scores.append(agreement(segmented, other, description.labels))
    found = [score for score in scores if not isnan(score)]
    return fmean(found) if found else float("nan")


def predict(
    description: Description,
    network: Network,
    cases: Sequence[Case],
    output: Path,
    options: Options = PLAIN,
    *,
    overwrite: bool = True,
    done: Callable[[str, int], object] | None = None,
) -> Iterator[tuple[Case, str | None]]:
    """Writes a segmentation per case into the folder ``output``; yields each case, and what was wrong with it or None.

    With second opinions also the table ``quality.csv``. A case that fails stops none of the others. done: called with the
    case's name and its number of tiles at every one.
    Raises ProXError where the folder cannot be made, where a segmentation would take the place of an image, and for options
    that the network has not.
    """
    options.check(description)
    dicom = any(case.series for case in cases)
    options.check_images(description, dicom=dicom)
    endings = [description.file_ending]
    if dicom:
        endings, description = for_series(description, options)
    paths = {case: [output / f"{case.name}{ending}" for ending in endings] for case in cases}
    outputs = {path.resolve() for of in paths.values() for path in of}
    if mixed := outputs & {file.resolve() for case in cases for file in case.files}:
        raise ProXError(f"the segmentation would replace the image {min(mixed)}; give another output folder")
    make_folder(output)
    remove_unfinished(output)
    if options.probabilities:
        save_for_ensembling(description, output)
    table = QualityTable(output, options.calibration, keep=not overwrite) if options.second_opinions else None
    return _predictions(description, network, paths, options, table, overwrite=overwrite, done=done)


def for_series(description: Description, options: Options) -> tuple[list[str], Description]:
    """-> the endings of what is written of DICOM series, and the description with what the options say of them."""
    endings = list(FORMATS[options.format or "dicom-seg"])
    if ".dcm" in endings:
        from monai_prox.runtime import dicom_seg  # highdicom: whether it is there, and what it takes, before hours of work

        dicom_seg.segments(description)
    description = replace(description, stored_orientation=options.orientation or description.stored_orientation)
    if description.orientation_of_series is None:
        warnings.warn(
            "the network's file does not say how the training's images were stored, so DICOM series are taken with the axes "
            "that they have; if the training's had others, masks are wrong: give theirs, such as --orientation LPS",
            stacklevel=2,
        )
    return endings, description


def _predictions(
    description: Description,
    network: Network,
    paths: Mapping[Case, list[Path]],
    options: Options,
    table: QualityTable | None,
    *,
    overwrite: bool,
    done: Callable[[str, int], object] | None,
) -> Iterator[tuple[Case, str | None]]:
    finished = {
        case
        for case, of in paths.items()
        if not overwrite
        and all(file.exists() for file in _outputs(of, case, options))
        and (table is None or case.name in table)
    }
    asked = [case for case in paths if case not in finished]
    names = [case.name for case in asked]
    if table is not None:
        table.forget(names)
    elif asked:
        outdate(paths[asked[0]][0].parent, names)
    reader = ReadAhead(asked, description, options)

    def succeeded(case: Case) -> bool:
        """False if it was short of memory that it has now: what had been read ahead is gone."""
        try:
            _predict_one(case, reader, description, network, paths[case], options, table, done)
        except MemoryError:
            if not reader.give_up():
                raise
            return False
        return True

    for case in paths:
        try:
            if case not in finished and not succeeded(case):
                succeeded(case)  # with the memory to itself
        except ModuleNotFoundError:  # the command says which library is missing
            raise
        except Exception as error:  # the runtimes' own have no common class, and a device may run out of memory
            yield case, problem(error)
        else:
            yield case, None


def _outputs(paths: Sequence[Path], case: Case, options: Options) -> list[Path]:
    return [*paths, *(paths[0].parent / f"{case.name}{ending}" for ending in ENDINGS if options.probabilities)]


def _predict_one(
    case: Case,
    reader: ReadAhead,
    description: Description,
    network: Network,
    paths: Sequence[Path],
    options: Options,
    table: QualityTable | None,
    done: Callable[[str, int], object] | None,
) -> None:
    """What it holds of the case is gone before the next one, which may be as large."""
    ready = reader.ready(case)
    if ready.empty:
        warnings.warn(f"{case} is 0 everywhere; nothing can be seen in it", stacklevel=2)
    with ExitStack() as written:  # all of the case's files or none
        stem = paths[0].parent / case.name
        segmented = label(
            ready.prepared,
            ready.grid,
            description,
            network,
            options,
            done=partial(done, case.name) if done else None,
            keep=partial(save_probabilities, properties=ready.properties, stem=stem, written=written),
            name=case.name,
        )
        quality = score(segmented, case, ready, description, options)
        for path in paths:
            temporary = written.enter_context(replacing(path))
            ready.save(segmented, temporary)
            _move_beside(temporary, path)
    if table is not None:
        table.add(case.name, quality)


def _move_beside(temporary: Path, path: Path) -> None:
    """What ``temporary`` refers to in its folder, of formats that have voxels in a second file: beside ``path``."""
    for other in [other for other in temporary.parent.iterdir() if other != temporary]:
        to_disk(other)
        other.replace(path.parent / other.name)


def problem(error: Exception) -> str:
    """What was wrong, in a line."""
    return " ".join(str(error).split()) or type(error).__name__
