"""What ProXTrainer, or another trainer of nnU-Net, has trained, for the device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError, refusing
from monai_prox.runtime.cases import Case
from monai_prox.runtime.description import AS_STORED, ORIENTATIONS, READERS, SCHEMES, Description, Normalisation, Resampling
from monai_prox.runtime.evaluation import Labelled, SegmentedCases, find_labelled
from monai_prox.runtime.grid import ImageSize
from monai_prox.runtime.kinds import SEGMENTATION, Kind
from monai_prox.trained.family_file import SURFACE, FamilyFile, NamedMember
from monai_prox.trained.mean_logits import MeanLogits
from monai_prox.trained.nnunet_dataset import channels_of
from monai_prox.trained.nnunet_files import listed_files
from monai_prox.trained.nnunet_folder import FINAL, UNUSABLE, ModelFolder
from monai_prox.trained.nnunet_member import member_plans
from monai_prox.trained.nnunet_orientation import stored_orientations
from monai_prox.trained.nnunet_plans import intensities_of, median_image_of, surface_tolerance_of
from monai_prox.trained.nnunet_postprocessing import postprocessing_of
from monai_prox.trained.source import FILES, FOLDERS, UNNAMED, Measured, check_metric, named, plot_of, surface_measure

REPEATED = {  # what of a plan the runtime does, too
    "image_reader_writer": READERS[:-1],
    "label_manager": ("LabelManager",),
    "preprocessor_name": ("DefaultPreprocessor",),
    "resampling_fn_data": ("resample_data_or_seg_to_shape",),
    "resampling_fn_probabilities": ("resample_data_or_seg_to_shape",),
}
NOTE = "Dice without mirroring, as monai-prox predict computes labels; monai-prox family lists those of nnU-Net's validation"
# For CT: by what the runtime calls them, how plans name them
INTENSITIES = {"lower": "percentile_00_5", "upper": "percentile_99_5", "mean": "mean", "std": "std"}
RESAMPLING = ("is_seg", "order", "order_z", "force_separate_z")


@dataclass(frozen=True)
class TrainedNNUNet:
    """Folds of a model folder. See ``monai_prox.trained.source``.

    averaged: whether networks are those of all folds, their logits averaged. If not, they are those of the first.
    """

    model: ModelFolder
    folds: tuple[str, ...]
    dataset: Path | None = None
    averaged: bool = False
    measure: Measured = "dice"
    kind: Kind = SEGMENTATION
    note: str | None = NOTE

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        fold: str | Sequence[str] | None = None,
        dataset: Path | None = None,
        checkpoint: str = "final",
    ) -> TrainedNNUNet:
        """fold: one or several, which are averaged then, or EVERY; all that have finished if None, of which networks are the
        first's. checkpoint: "final", "best" or "latest".

        Raises ProXError where ``path`` is no model folder that has such a checkpoint, or has no such fold.
        """
        return cls.of(ModelFolder.open(path, checkpoint), fold, dataset)

    @classmethod
    def of(cls, model: ModelFolder, fold: str | Sequence[str] | None = None, dataset: Path | None = None) -> TrainedNNUNet:
        """As ``open``."""
        given = [fold] if isinstance(fold, str) else fold
        return cls(model, model.chosen(given or model.folds), dataset, averaged=bool(given))

    @property
    def fold(self) -> str:
        return self.folds[0]

    @property
    def used(self) -> tuple[str, ...]:
        """The folds whose networks are used."""
        return self.folds if self.averaged else self.folds[:1]

    @property
    def path(self) -> Path:
        return self.model.path

    @property
    def formats(self) -> tuple[str, ...]:
        return (*FOLDERS, *FILES)

    @property
    def arguments(self) -> list[str]:
        # without --fold nnunet takes all folds, others the first that is finished
        return ["--fold", *(fold.removeprefix("fold_") for fold in self.used), *self.model.checkpoint_option]

    @property
    def size(self) -> Sequence[int]:
        patch: Sequence[int] = self.model.configuration["patch_size"]
        return patch

    @property
    @refusing(UNUSABLE)
    def median_image(self) -> ImageSize | None:
        return median_image_of(self.model.plans)

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The fold's. Raises ProXError where it is truncated or of another trainer."""
        return self.model.checkpoint(self.fold)

    @cached_property
    def supernet(self) -> SuperNet:
        return self.model.supernet(self.checkpoint)

    def family(self) -> FamilyFile:
        """That of the first fold, with what is said of the weights of any fold: a member may be exported with all of them."""
        said = [self.model.family_of(fold).license for fold in self.folds]
        return replace(self.model.family_of(self.fold), license="; ".join(dict.fromkeys(filter(None, said))) or None)

    def members(self) -> tuple[NamedMember, ...]:
        return self.model.family(self.folds).members

    @property
    def progress(self) -> Path | None:
        return plot_of([self.path / self.fold], self.path)

    @property
    def scored(self) -> str:
        return self.model.scored(self.folds)

    def origins(self, *, every: bool = False) -> list[str]:
        if self.model.file == FINAL:
            return []
        return [self.model.origin(self.model.checkpoint(fold)) for fold in (self.folds if every else self.used)]

    def member(self, which: str) -> tuple[str, Subnet]:
        name, subnet = self.model.member(which)
        return name, self.model.check(subnet, self.supernet, self.checkpoint)

    def network(self, which: str | Subnet) -> nn.Module:
        subnet = named(self, which)[1]
        networks = [self.supernet.extract(subnet)]
        for fold in self.used[1:]:
            networks.append(self.model.supernet_with(subnet, self.model.checkpoint(fold))[0].extract(subnet))
        return networks[0] if len(networks) == 1 else MeanLogits(networks).eval()

    @refusing(UNUSABLE)
    def describe(self, which: str | Subnet, *, name: str = UNNAMED) -> Description:
        name, subnet = named(self, which, name)
        trained = f"{self.fold}, {self.model.epochs(self.checkpoint)}"
        mirroring = self.checkpoint["inference_allowed_mirroring_axes"]  # of several folds nnU-Net takes the first one's
        if len(self.used) > 1:
            trained = f"the mean of {', '.join(self.used)}"
        return describe(
            member_plans(self.model, self.supernet, name, subnet),
            self.model.configuration_name,
            self.model.dataset,
            member=name,
            subnet=subnet.to_json(),
            source=f"{self.checkpoint['trainer_name']}, {self.model.configuration_name}, {trained}",
            mirroring=tuple(mirroring or ()),
            postprocessing=self._postprocessing,
            orientations=self.orientations,
            license=self.family().license or "",
        )

    @cached_property
    def orientations(self) -> Mapping[str, int]:
        """Number of the training's images by their axis codes as stored, {} if nothing tells it.

        They are in the fold's family.json, in its checkpoint, or found in the raw dataset.
        """
        found = self.family().orientations or stored_orientations(self.model.plans["dataset_name"])
        if not isinstance(found, Mapping) or not set(found) <= ORIENTATIONS:
            raise ProXError(
                f"{self.fold}/family.json: orientations are axis codes such as RAS with numbers, got {found!r:.120}"
            )
        return found

    @cached_property
    def _postprocessing(self) -> tuple[tuple[int, ...], ...]:
        return postprocessing_of(self.path, self.used)

    def check_all_trained(self) -> None:
        opened = self.model.opened(self.checkpoint, self.supernet.family)
        if opened.space != opened.final:
            raise ProXError(
                f"{self.model.file} of {self.fold} is of {opened.stage}, in which {opened.space.size():,} of "
                f"{opened.final.size():,} members were trained; a search is for trainings that have come to all of them"
            )

    def held_out(self) -> SegmentedCases:
        names, dataset = self.model.held_out(self.fold), self.dataset
        if dataset is None:
            root = os.environ.get("nnUNet_raw")
            if not root:
                raise ProXError("nnUNet_raw is not set; set it, or give the folder with imagesTr and labelsTr as --dataset")
            dataset = Path(root, self.model.plans["dataset_name"])
        listed = listed_files(dataset)
        cases = None
        if listed is not None:
            cases = {name: Labelled(Case(name, images, listed=True), label) for name, (images, label) in listed.items()}
        description = self.describe(self.supernet.family.space.largest())
        measure = None if self.measure == "dice" else surface_measure(self._surface_tolerance)
        return SegmentedCases(find_labelled(dataset, description, names, cases), measure=measure)

    @property
    def _surface_tolerance(self) -> float:
        """mm: the training's, which those of earlier versions do not tell."""
        validated = self.family().surface_tolerance_mm
        return validated or surface_tolerance_of(self.model.plans, self.model.configuration_name, None)

    def scored_by(self, metric: str) -> TrainedNNUNet:
        if check_metric(metric, "dice", SURFACE) != SURFACE:
            return self
        note = f"Surface Dice within {self._surface_tolerance:g} mm, without mirroring, as monai-prox predict computes labels"
        return replace(self, measure="surface Dice", note=note)


def describe(
    plans: Mapping[str, Any],
    configuration_name: str,
    dataset: Mapping[str, Any],
    *,
    member: str,
    subnet: Mapping[str, Any],
    source: str,
    mirroring: tuple[int, ...] | None = None,
    postprocessing: tuple[tuple[int, ...], ...] = (),
    orientations: Mapping[str, int] | None = None,
    license: str = "",
) -> Description:
    """What prediction needs of nnU-Net's plans and dataset.json. Raises ProXError for what the runtime cannot repeat.

    orientations: number of the training's images by their axis codes as stored, if they are known.
    """
    configuration = plans["configurations"][configuration_name]
    for key, allowed in REPEATED.items():
        value = configuration.get(key, plans.get(key))
        if value not in allowed:
            raise ProXError(f"the plan's {key} is {value}; the runtime repeats {', '.join(allowed)}")
    labels = PlansManager(dict(plans)).get_label_manager(dict(dataset))
    alike = next(iter(orientations)) if orientations is not None and len(orientations) == 1 else None
    return Description(
        member=member,
        subnet=subnet,
        task=plans["dataset_name"],
        source=source,
        channels=channels_of(dataset),
        labels=dataset["labels"],
        regions=tuple(dataset["regions_class_order"]) if labels.has_regions else None,
        outputs=labels.num_segmentation_heads,
        patch=tuple(configuration["patch_size"]),
        spacing=tuple(configuration["spacing"]),
        transpose=tuple(plans["transpose_forward"]),
        normalisation=_normalisation(plans, configuration),
        images=_resampling(configuration, "data", range(6)),
        logits=_resampling(configuration, "probabilities", range(2)),
        reader=plans["image_reader_writer"],
        file_ending=dataset["file_ending"],
        stored_orientation=alike if plans["image_reader_writer"] in AS_STORED else None,
        mirroring=mirroring,
        postprocessing=postprocessing,
        license=license,
    )


def _normalisation(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> tuple[Normalisation, ...]:
    rules, own = [], SCHEMES[:-1]
    kinds = zip(configuration["normalization_schemes"], configuration["use_mask_for_norm"], strict=True)
    for index, (scheme, masked) in enumerate(kinds):
        if scheme not in own:
            raise ProXError(f"the plan's normalisation {scheme!r} is not nnU-Net's own; known: {', '.join(own)}")
        ct = {}
        if scheme == "CTNormalization":
            found = intensities_of(plans).get(str(index), {})
            if lacking := [name for name in INTENSITIES.values() if not _is_number(found.get(name))]:
                raise ProXError(f"the plan's intensities of channel {index} lack {', '.join(lacking)}, which {scheme} needs")
            ct = {key: found[name] for key, name in INTENSITIES.items()}
        rules.append(Normalisation(scheme=scheme, masked=bool(masked), **ct))
    return tuple(rules)


def _is_number(value: float | None) -> bool:
    return value is not None and isfinite(value)


def _resampling(configuration: Mapping[str, Any], of: str, orders: Sequence[int]) -> Resampling:
    given = configuration[f"resampling_fn_{of}_kwargs"]
    if set(given) != set(RESAMPLING) or given["is_seg"] or given["order"] not in orders:
        allowed = f"{', '.join(RESAMPLING)}, is_seg being false and order {orders[0]} to {orders[-1]}"
        raise ProXError(f"the plan's resampling_fn_{of}_kwargs are {given}; the runtime repeats {allowed}")
    return Resampling(order=given["order"], order_z=given["order_z"], separate_z=given["force_separate_z"])
