"""Scores of a network on cases that its training has not seen, as it would do on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from monai_prox.errors import ProXError
from monai_prox.files import digest_of
from monai_prox.runtime.cases import Case, find_cases, read_case, read_truth
from monai_prox.runtime.classification import prepare_scan, read_scan
from monai_prox.runtime.description import Description, ScanDescription
from monai_prox.runtime.dice import class_dice, foreground, mean_score
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.model import Network
from monai_prox.runtime.options import Options
from monai_prox.runtime.prediction import label, problem
from monai_prox.runtime.preprocessing import prepare
from monai_prox.runtime.resampling import Array
from monai_prox.runtime.sliding_window import sliding_window, tiles

KEPT = 1 << 30  # bytes of prepared images, and of labels, at most
TOGETHER = 32  # scans
AS_VALIDATED = Options(postprocess=False)  # nnU-Net finds postprocessing by what its validations have written
SCORING = 2  # counts what changes a case's score; other scores are not comparable


@dataclass(frozen=True)
class Labelled:
    """A case, and the image of its labels."""

    case: Case
    labels: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.case.files, self.labels)


@dataclass(frozen=True)
class Measure:
    """What cases are scored by instead of Dice.

    name: scores of another name are not comparable. score: of labels (z, y, x) that were predicted and that are true, of the
    names and values of labels, and of mm per axis; by name of the classes that occur or are predicted.
    """

    name: str
    score: Callable[[NDArray[Any], NDArray[Any], Mapping[str, Any], Sequence[float]], dict[str, float]]


@dataclass(frozen=True)
class LabelledScan:
    """scan: a file, or (rows, columns) of 0 to 255; label: index of its class."""

    name: str
    scan: Path | NDArray[np.uint8]
    label: int


class HeldOut(Protocol):
    """Cases with their labels. Members of the same resolution share what is prepared of them."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def left_out(self) -> Mapping[str, str]:
        """Of the cases that ``usable`` has found wanting, what is wrong by name."""

    def usable(self, which: Sequence[int], description: Any) -> list[int]:
        """Those of the cases ``which`` that can be read and fit the network and their labels. Raises ProXError if none does."""

    def scores(self, which: Sequence[int], description: Any, network: Network) -> list[float]:
        """Of each of the cases ``which``, NaN where there is nothing to score: the mean of ``class_scores``.

        Raises ProXError for files that cannot be read or do not fit each other.
        """

    def class_scores(self, which: Sequence[int], description: Any, network: Network) -> list[dict[str, float]]:
        """Of each of the cases ``which``, by those of ``classes`` that the case has something to score of. Errors as above."""

    def classes(self, description: Any) -> list[str]:
        """Names of what is scored, in the order of the task's labels."""

    def inputs(self, which: Sequence[int], description: Any, most: int) -> Iterator[Array]:
        """What the network sees of the cases ``which``, (1, C, *patch), ``most`` of each, spread over it."""

    def shapes(self, which: Sequence[int], description: Any) -> list[tuple[int, ...]]:
        """Voxels per axis of the cases ``which`` on the network's grid."""

    def fingerprint(self) -> str:
        """Another one where names, labels or images are. Files are read whole, which is little beside scoring them."""


class _Kept:
    """Results whose first part is an array, as many as fit into ``most`` bytes; the others are made again every time."""

    def __init__(self, most: int) -> None:
        self._left, self._kept = most, dict[Any, Any]()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        if key in self._kept:
            return self._kept[key]
        made = make()
        if made[0].nbytes <= self._left:
            self._left -= made[0].nbytes
            self._kept[key] = made
        return made


class _LeavesOut:
    """Cases that are looked at once, and left out if anything is wrong with them."""

    names: Sequence[str]

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}
        self._sound: set[int] = set()

    def _check(self, index: int, description: Any) -> object:
        """Raises where a case cannot be used."""
        raise NotImplementedError

    def usable(self, which: Sequence[int], description: Any) -> list[int]:
        for index in which:
            if index not in self._sound and self.names[index] not in self.left_out:
                try:
                    self._check(index, description)
                except (ProXError, MemoryError, OSError) as error:
                    self.left_out[self.names[index]] = problem(error)
                else:
                    self._sound.add(index)
        found = [index for index in which if index in self._sound]
        if not found:
            name, reason = next(iter(self.left_out.items()), ("", "there is none"))
            raise ProXError(f"none of {len(which)} held-out cases can be used, e.g. {name}: {reason}")
        return found


class SegmentedCases(_LeavesOut):
    """Scores are Dice, see ``class_dice``, at the images' own resolution, unless another ``measure`` is given.

    regions: names and values of what is measured; the network's labels if None.
    """

    def __init__(
        self, labelled: Sequence[Labelled], regions: Mapping[str, Any] | None = None, measure: Measure | None = None
    ) -> None:
        super().__init__()
        self.measure = measure
        self.labelled, self.names = labelled, [one.case.name for one in labelled]
        self.regions = regions
        self._images, self._truths = _Kept(KEPT), _Kept(KEPT)

    def scores(self, which: Sequence[int], description: Description, network: Network) -> list[float]:
        return [mean_score(by_class) for by_class in self.class_scores(which, description, network)]

    def class_scores(self, which: Sequence[int], description: Description, network: Network) -> list[dict[str, float]]:
        return [self._class_scores(index, description, network) for index in which]

    def classes(self, description: Description) -> list[str]:
        return list(foreground(self.regions or description.labels))

    def inputs(self, which: Sequence[int], description: Description, most: int) -> Iterator[Array]:
        for index in which:
            prepared, _ = self._prepared(index, description)
            sides = (1, *description.patch)[-3:]
            padded = [max(pair) for pair in zip(prepared.shape[1:], sides, strict=True)]
            count = len(list(tiles(padded, sides)))
            step = max(1, count // most)
            watcher = _Watcher(set(range(count)[step // 2 :: step][:most]), description.outputs)
            sliding_window(prepared, description.patch, description.outputs, watcher)
            yield from watcher.seen

    def fingerprint(self) -> str:
        digest = sha256(repr((SCORING, self.regions)).encode())
        if self.measure is not None:
            digest.update(self.measure.name.encode())
        for one in self.labelled:
            digest.update(f"{one.case.name} {[_digest(file) for file in (*one.case.files, one.labels)]}".encode())
        return digest.hexdigest()

    def shapes(self, which: Sequence[int], description: Description) -> list[tuple[int, ...]]:
        return [self._prepared(index, description)[1].shape for index in which]

    def _class_scores(self, index: int, description: Description, network: Network) -> dict[str, float]:
        prepared, grid = self._prepared(index, description)
        truth = self._truth(index, description, grid)
        predicted, labels = label(prepared, grid, description, network, AS_VALIDATED), self.regions or description.labels
        if self.measure is None:
            return class_dice(predicted, truth, labels)
        spacing = [grid.image_spacing[axis] for axis in np.argsort(description.transpose)]
        return self.measure.score(predicted, truth, labels, spacing)

    def _check(self, index: int, description: Description) -> None:
        self._truth(index, description, self._prepared(index, description)[1])

    def _truth(self, index: int, description: Description, grid: Grid) -> NDArray[Any]:
        """(z, y, x)."""
        labelled = self.labelled[index]
        whole = tuple(grid.whole[axis] for axis in np.argsort(description.transpose))
        known = index in self._sound  # a warning by Python's own count is repeated after any ``catch_warnings``
        (truth,) = self._truths.get(
            index, lambda: (read_truth(labelled.labels, labelled.case, description, whole, known=known),)
        )
        return truth  # type: ignore[no-any-return]

    def _prepared(self, index: int, description: Description) -> tuple[Array, Grid]:
        case = self.labelled[index].case
        made: tuple[Array, Grid] = self._images.get(
            (index, description.grid), lambda: prepare(read_case(case, description), description)
        )
        return made


class LabelledScans(_LeavesOut):
    """Scores are 1 for the right class and 0 for others: their mean is the accuracy."""

    def __init__(self, scans: Sequence[LabelledScan]) -> None:
        super().__init__()
        self.scans, self.names = scans, [one.name for one in scans]
        self._images = _Kept(KEPT)

    def scores(self, which: Sequence[int], description: ScanDescription, network: Network) -> list[float]:
        return [mean_score(by_class) for by_class in self.class_scores(which, description, network)]

    def class_scores(self, which: Sequence[int], description: ScanDescription, network: Network) -> list[dict[str, float]]:
        right: list[dict[str, float]] = []
        for start in range(0, len(which), TOGETHER):
            batch = which[start : start + TOGETHER]
            classes = network(np.stack([self._prepared(index, description) for index in batch])).argmax(1)
            for found, index in zip(classes, batch, strict=True):
                truth = self.scans[index].label
                right.append({description.classes[truth]: float(found == truth)})
        return right

    def classes(self, description: ScanDescription) -> list[str]:
        return list(description.classes)

    def inputs(self, which: Sequence[int], description: ScanDescription, most: int) -> Iterator[Array]:
        for index in which:
            yield self._prepared(index, description)[None]

    def fingerprint(self) -> str:
        digest = sha256()
        for one in self.scans:
            image = _digest(one.scan) if isinstance(one.scan, Path) else sha256(one.scan.tobytes()).hexdigest()
            digest.update(f"{one.name} {one.label} {image}".encode())
        return digest.hexdigest()

    def shapes(self, which: Sequence[int], description: ScanDescription) -> list[tuple[int, ...]]:
        return [description.working_size for _ in which]

    def _check(self, index: int, description: ScanDescription) -> None:
        self._prepared(index, description)

    def _prepared(self, index: int, description: ScanDescription) -> Array:
        scan = self.scans[index].scan
        (image,) = self._images.get((index, description.grid), lambda: (prepare_scan(read_scan(scan), description),))
        return image  # type: ignore[no-any-return]


def find_labelled(
    folder: Path, description: Description, names: Sequence[str], listed: Mapping[str, Labelled] | None = None
) -> list[Labelled]:
    """The cases ``names`` of a folder with imagesTr and labelsTr, as nnU-Net's raw datasets are, or those it says it has.

    Raises ProXError where one is missing.
    """
    cases = _in_folders(folder, description) if listed is None else listed
    if missing := [name for name in names if name not in cases or not all(file.is_file() for file in cases[name].files)]:
        raise ProXError(
            f"{folder} lacks {len(missing)} of the {len(names)} cases, with labels, that were held out in training, "
            f"the first is {missing[0]}"
        )
    return [cases[name] for name in names]


def _in_folders(folder: Path, description: Description) -> dict[str, Labelled]:
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise ProXError(f"{folder} has no {part}; give a dataset as in nnUNet_raw, with images and labels")
    ending = description.file_ending
    cases = find_cases(folder / "imagesTr", description)
    return {case.name: Labelled(case, folder / "labelsTr" / f"{case.name}{ending}") for case in cases}


def _digest(path: Path) -> str | None:
    try:
        return digest_of(path)
    except OSError:  # the case is left out, see ``_LeavesOut``
        return None


class _Watcher:
    """Stands where a network would, and keeps the patches of the numbers ``wanted``."""

    def __init__(self, wanted: set[int], outputs: int) -> None:
        self.wanted, self.outputs = wanted, outputs
        self.seen: list[Array] = []
        self._number = 0

    def __call__(self, x: Array) -> Array:
        if self._number in self.wanted:
            self.seen.append(x)
        self._number += 1
        return np.zeros((len(x), self.outputs, *x.shape[2:]), np.float32)
