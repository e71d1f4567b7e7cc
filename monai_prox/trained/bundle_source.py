"""What a bundle's training has left, for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.data.decathlon import DecathlonTask
from monai_prox.data.image_files import image_names, is_called
from monai_prox.data.oct import OctScans, Scan, read_scan, read_scans
from monai_prox.errors import ProXError, refusing
from monai_prox.runtime.cases import Case
from monai_prox.runtime.classification import prepare_scan
from monai_prox.runtime.description import ALL_CHANNELS, Description, Normalisation, Resampling, ScanDescription
from monai_prox.runtime.evaluation import Labelled, LabelledScan, LabelledScans, SegmentedCases
from monai_prox.runtime.grid import ImageSize
from monai_prox.runtime.kinds import Kind
from monai_prox.surface_dice import default_tolerance
from monai_prox.trained.bundle_folder import UNUSABLE, TrainedBundle
from monai_prox.trained.family_file import SURFACE, FamilyFile, NamedMember
from monai_prox.trained.source import RUN_BY_PREDICT, UNNAMED, Measured, check_metric, named, plot_of, surface_measure
from monai_prox.training.calibrated_members import CalibratedMembers

ENDING = ".nii.gz"


@dataclass(frozen=True)
class TrainedInBundle:
    """What the families in bundles have in common. See ``monai_prox.trained.source``."""

    bundle: TrainedBundle
    dataset: Path | None = None
    note: str | None = None
    by_surface: bool = False

    @property
    def path(self) -> Path:
        return self.bundle.path

    @property
    def measure(self) -> Measured:
        return "surface Dice" if self.by_surface else self.bundle.measure

    @property
    def kind(self) -> Kind:
        return self.bundle.kind

    @property
    def size(self) -> Sequence[int]:
        patch: Sequence[int] = self.bundle.plan.patch_size
        return patch

    @property
    def median_image(self) -> ImageSize | None:
        return None  # a bundle's plan does not tell it

    @cached_property
    def supernet(self) -> SuperNet:
        return self.bundle.supernet()

    @property
    def formats(self) -> tuple[str, ...]:
        return ("bundle", *RUN_BY_PREDICT)  # a page does not repeat MONAI's transforms

    @property
    def arguments(self) -> list[str]:
        return ["--dataset", str(self.dataset.resolve())] if self.kind.calibrated and self.dataset is not None else []

    def family(self) -> FamilyFile:
        return self.bundle.family()

    def members(self) -> tuple[NamedMember, ...]:
        return self.family().members

    @property
    def progress(self) -> Path | None:
        root = self.path.parent if self.path.name == "models" else self.path
        return plot_of([self.path / "eval", root / "eval"], root)

    @property
    def scored(self) -> str:
        return self.bundle.scored

    def origins(self, *, every: bool = False) -> list[str]:
        return []  # a bundle's model is what a training leaves in the end

    def member(self, which: str) -> tuple[str, Subnet]:
        name, subnet = self.bundle.member(which)
        return name, self.supernet.family.space.check(subnet)

    def check_all_trained(self) -> None:
        pass

    def _data(self, what: str) -> Path:
        if self.dataset is None:
            raise ProXError(f"give --dataset, {what}")
        return self.dataset


class TrainedSegmenter(TrainedInBundle):
    """A family that segments. See ``monai_prox.trained.source``."""

    def network(self, which: str | Subnet) -> nn.Module:
        return self.supernet.extract(named(self, which)[1])

    @refusing(UNUSABLE)
    def describe(self, which: str | Subnet, *, name: str = UNNAMED) -> Description:
        name, subnet = named(self, which, name)
        plan, family = self.bundle.plan, self.bundle.network_family
        patch = family.input_size(plan.patch_size, subnet["resolution"][0])
        spacing = tuple(mm * (full / small) for mm, full, small in zip(plan.spacing, plan.patch_size, patch, strict=True))
        # The training's Spacing keeps the first voxel in place; at lower resolutions the family resizes, which keeps the faces
        resampling = Resampling(order=1, separate_z=False, keeps="centre" if patch == plan.patch_size else "faces")
        intensity = {key: value for key, value in plan.intensity.items() if key != "kind"}
        scheme = "CTNormalization" if plan.is_ct else "NormalizeIntensity"
        return Description(
            member=name,
            subnet=subnet.to_json(),
            task=plan.task,
            source=self.bundle.origin,
            channels=plan.channels,
            labels=plan.values if plan.written is None else {plan.labels[0]: 0, **plan.trained_regions},
            regions=plan.written,
            outputs=len(plan.outputs),
            patch=patch,
            spacing=spacing,
            transpose=(2, 1, 0),
            normalisation=(Normalisation(scheme=scheme, masked=not plan.is_ct, **intensity),) * len(plan.channels),
            images=resampling,
            logits=resampling,
            cropped=not plan.is_ct,
            normalised_first=False,
            reader=ALL_CHANNELS,
            file_ending=ENDING,
            orientation=plan.orientation,
            license=self.bundle.file.license or "",
        )

    def held_out(self) -> SegmentedCases:
        task = DecathlonTask.read(self._data("the Decathlon task's folder that the bundle was trained on"))
        self.bundle.plan.check_fits(task)
        cases = self.bundle.validation_cases(task)
        named = zip([name.removesuffix(ENDING) for name in image_names([case.image for case in cases])], cases, strict=True)
        labelled = [Labelled(Case(name, (case.image,)), case.label) for name, case in named]
        return SegmentedCases(
            labelled, self.bundle.regions, surface_measure(self._surface_tolerance) if self.by_surface else None
        )

    @property
    def _surface_tolerance(self) -> float:
        """mm."""
        return default_tolerance(self.bundle.plan.spacing)

    def scored_by(self, metric: str) -> TrainedSegmenter:
        if check_metric(metric, "dice", SURFACE) != SURFACE:
            return self
        return replace(self, by_surface=True, note=f"Surface Dice within {self._surface_tolerance:g} mm")


class TrainedClassifier(TrainedInBundle):
    """A family that classifies. See ``monai_prox.trained.source``."""

    def network(self, which: str | Subnet) -> nn.Module:
        """Norms' statistics are those that the training has kept, else taken from images of ``dataset`` that it trained on."""
        _, subnet = named(self, which)
        kept = str(subnet) in self.bundle.statistics()
        return (self.bundle.extract(self.supernet, subnet) if kept else self._calibrated.extract(subnet)).eval()

    @refusing(UNUSABLE)
    def describe(self, which: str | Subnet, *, name: str = UNNAMED) -> ScanDescription:
        name, subnet = named(self, which, name)
        plan, family = self.bundle.plan, self.bundle.network_family
        rows, columns = family.input_size(plan.image_size, subnet["resolution"][0])
        return ScanDescription(
            member=name,
            subnet=subnet.to_json(),
            task=plan.task,
            source=self.bundle.origin,
            classes=plan.classes,
            image_size=plan.image_size,
            working_size=(rows, columns),
            license=self.bundle.file.license or "",
        )

    def held_out(self) -> LabelledScans:
        numbered = enumerate(self._scans.val)  # files of two classes may have one name
        return LabelledScans([LabelledScan(f"{number} {scan.name}", scan.image, scan.label) for number, scan in numbered])

    def scored_by(self, metric: str) -> TrainedClassifier:
        check_metric(metric, "accuracy")
        return self

    @cached_property
    def _scans(self) -> OctScans:
        """Split as in the training, by the names that it has noted. Raises ProXError where they do not tell."""
        data = self._data("the folder of scans, or the .npz, that the bundle was trained on")
        scans, noted = read_scans(data, classes=self.bundle.plan.classes), Counter(self.bundle.held_out())
        if Counter(scan.name for scan in scans.val) == noted:
            return scans
        every = [*scans.train, *scans.val]  # it was told to split otherwise
        of_file: dict[str, list[str]] = {}
        for name in noted:
            of_file.setdefault(name.rpartition("/")[2], []).append(name)
        val = [scan for scan in every if any(_is_called(scan, name) for name in of_file.get(scan.name, ()))]
        if len(val) != noted.total():
            raise ProXError(
                f"{data}: of {noted.total()} scans that were held out in training, {len(val)} are found by their names"
            )
        patients = {scan.patient for scan in val} - {None}
        held_out = {id(scan) for scan in val}
        train = [scan for scan in every if id(scan) not in held_out and scan.patient not in patients]
        return replace(scans, train=tuple(train), val=tuple(val))

    @cached_property
    def _calibrated(self) -> CalibratedMembers:
        largest = self.describe(self.supernet.family.space.largest())

        def prepare(item: dict[str, Any]) -> dict[str, Any]:
            image = prepare_scan(read_scan(item["image"])[0], largest)
            return {"image": torch.from_numpy(image)}

        return CalibratedMembers(self.supernet, [{"image": scan.image} for scan in self._scans.train], prepare)


def _is_called(scan: Scan, name: str) -> bool:
    return is_called(scan.image, name) if isinstance(scan.image, Path) else scan.name == name
