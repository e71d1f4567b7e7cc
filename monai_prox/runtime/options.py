"""What may be asked of a prediction beside its images, as nnU-Net's commands offer it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from monai_prox.errors import ProXError
from monai_prox.runtime.description import ALL_CHANNELS, ORIENTATIONS, Description, ScanDescription
from monai_prox.runtime.sliding_window import STEP

if TYPE_CHECKING:  # they need the networks that options are for
    from monai_prox.runtime.calibration import Calibration
    from monai_prox.runtime.locating import Locator
    from monai_prox.runtime.second_opinion import SecondOpinion

FORMATS = {"nifti": (".nii.gz",), "dicom-seg": (".dcm",), "both": (".dcm", ".nii.gz")}  # the endings of their files
SMALLEST_STEP = 0.01  # of patches that people use, about a voxel


@dataclass(frozen=True, kw_only=True)
class Options:
    """step: how far apart tiles are at most, as a part of the patch. mirror: whether tiles are also predicted mirrored along
    the axes that the training allows, and averaged. postprocess: whether only the largest component of some labels is kept,
    where the file says so. probabilities: whether they are saved, too, for nnU-Net's ensembling. locator: a small network that
    says where the network runs; None for everywhere. format: of the segmentations of DICOM series, one of ``FORMATS``; None for
    DICOM-SEG. orientation: axis codes that DICOM series are turned to; None for what the network's file says. second_opinions:
    networks whose agreement with this one is a score of each case. calibration: what Dice that score lets expect.
    """

    step: float = STEP
    mirror: bool = False
    postprocess: bool = True
    probabilities: bool = False
    locator: Locator | None = None
    format: str | None = None
    orientation: str | None = None
    second_opinions: tuple[SecondOpinion, ...] = ()
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if not SMALLEST_STEP <= self.step <= 1:
            raise ProXError(f"--step-size is a part of the patch, {SMALLEST_STEP} to 1, got {self.step:g}")
        if self.format is not None and self.format not in FORMATS:
            raise ProXError(f"--output-format is one of {', '.join(FORMATS)}, got {self.format!r:.80}")
        if self.orientation is not None and self.orientation not in ORIENTATIONS:
            raise ProXError(f"--orientation is three axis codes such as LPS, got {self.orientation!r:.80}")

    def check(self, description: Description | ScanDescription) -> None:
        """Raises ProXError for what a network of this description cannot do."""
        if isinstance(description, ScanDescription):
            if asked := [OPTIONS[of.name] for of in fields(self) if getattr(self, of.name) != of.default]:
                raise ProXError(f"{', '.join(asked)}: these are for networks that segment; leave them out, for this classifies")
            return
        if self.locator is not None:
            self.locator.check(description)
        if self.probabilities and description.reader == ALL_CHANNELS:
            raise ProXError("--save-probabilities is for networks of nnU-Net's, whose ensembles need them, not for a bundle's")
        if self.mirror and not description.mirroring:
            why = "was trained to be mirrored along no axis"
            if description.mirroring is None:
                why = "has no axes to mirror along in its file: it is a bundle's, or an earlier version has exported it"
            raise ProXError(f"the network {description.member} {why}; leave out --mirror")
        for second in self.second_opinions:
            second.check(description)
        self._check_calibration()

    def _check_calibration(self) -> None:
        """Raises ProXError for a calibration of other scores than these."""
        if self.calibration is None:
            return
        if not self.second_opinions:
            raise ProXError("--calibration is for the scores that --second-opinion gives; give it, too")
        if self.locator is not None:
            raise ProXError("--calibration is of the network everywhere; leave out --locate")
        for name, option in {"step": "--step-size", "mirror": "--mirror", "postprocess": "--postprocessing"}.items():
            if (found := getattr(self, name)) != (made := getattr(self.calibration, name)):
                raise ProXError(f"--calibration was made with {option} {made}, and here it is {found}; both must be alike")

    @property
    def of_second_opinion(self) -> Options:
        """With which second opinions predict."""
        return replace(self, probabilities=False, locator=None, second_opinions=(), calibration=None)

    def check_images(self, description: Description, *, dicom: bool) -> None:
        """Raises ProXError for what cannot be done with such images. dicom: whether they are DICOM series, and not files."""
        if not dicom:
            asked = {"--output-format dicom-seg or both": self.format not in (None, "nifti"), "--orientation": self.orientation}
            if wrong := [option for option, is_so in asked.items() if is_so]:
                raise ProXError(f"{' and '.join(wrong)}: for DICOM series alone, and the images are {description.file_ending}")
        elif self.probabilities:
            raise ProXError("--save-probabilities is for nnUNetv2_ensemble, which knows no DICOM series; convert them to NIfTI")
        elif self.orientation and description.turns_images:
            raise ProXError(f"--orientation: the network {description.member} turns images by itself; leave it out")


PLAIN = Options()
OPTIONS = {
    "step": "--step-size",
    "mirror": "--mirror",
    "postprocess": "--no-postprocessing",
    "probabilities": "--save-probabilities",
    "locator": "--locate",
    "format": "--output-format",
    "orientation": "--orientation",
    "second_opinions": "--second-opinion",
    "calibration": "--calibration",
}  # as commands name them
