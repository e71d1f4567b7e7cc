"""What networks do with images, a kind of them each: what commands ask about, and how images are found and predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from monai_prox.runtime.description import Description, ScanDescription
from monai_prox.runtime.model import Network
from monai_prox.runtime.options import Options

Done = Callable[[str, int], object]
Outcome = tuple[str, "str | None"]  # a name, and what was wrong or None


class Kind(Protocol):
    """A kind of networks.

    name: as in descriptions and plans. counted: what images are counted as. scored: in words, what a bundle's training scores
    its members on. any_patch: whether inputs may have any size, for networks that work on patches. calibrated: whether the
    members' norms have statistics of their own, for which images of the training are needed where it has kept none.
    """

    name: str
    counted: str
    scored: str
    any_patch: bool
    calibrated: bool

    def find(self, images: Path, description: Any) -> Sequence[Any]:
        """The images of a folder, or the one that is a file. Raises ProXError where there is none."""

    def predict(
        self,
        description: Any,
        network: Network,
        images: Sequence[Any],
        output: Path,
        options: Options,
        *,
        overwrite: bool,
        done: Done,
    ) -> Iterator[Outcome]:
        """Writes what ``network`` says of ``images``, see ``find``, into the folder ``output``.

        Yields each image's name, and what was wrong with it or None; one that fails stops none of the others. done: called with
        an image's name and its number of tiles at every one, of networks that work on patches.
        Raises ProXError where the folder cannot be made, and for options that are not for the network.
        """


class Segmentation:
    """Of cases. See ``monai_prox.runtime.prediction``."""

    name = Description.kind
    counted = "cases"
    scored = "whole cases that training held out, without mirroring"
    any_patch = True
    calibrated = False

    def find(self, images: Path, description: Description) -> Sequence[Any]:
        from monai_prox.runtime.cases import find_cases

        return find_cases(images, description)

    def predict(
        self,
        description: Description,
        network: Network,
        images: Sequence[Any],
        output: Path,
        options: Options,
        *,
        overwrite: bool,
        done: Done,
    ) -> Iterator[Outcome]:
        from monai_prox.runtime.prediction import predict

        predicted = predict(description, network, images, output, options, overwrite=overwrite, done=done)
        return ((case.name, problem) for case, problem in predicted)


class Classification:
    """Of retinal scans. See ``monai_prox.runtime.classification``."""

    name = ScanDescription.kind
    counted = "scans"
    scored = "scans that training held out"
    any_patch = False  # scans of any size are resized
    calibrated = True

    def find(self, images: Path, description: ScanDescription) -> Sequence[Any]:
        from monai_prox.runtime.classification import find_scans

        return find_scans(images)

    def predict(
        self,
        description: ScanDescription,
        network: Network,
        images: Sequence[Any],
        output: Path,
        options: Options,
        *,
        overwrite: bool,
        done: Done,
    ) -> Iterator[Outcome]:
        from monai_prox.runtime.classification import classify

        options.check(description)
        classified = classify(description, network, images, output, overwrite=overwrite)
        return ((str(scan), problem) for scan, problem in classified)


SEGMENTATION, CLASSIFICATION = Segmentation(), Classification()
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (SEGMENTATION, CLASSIFICATION)}
