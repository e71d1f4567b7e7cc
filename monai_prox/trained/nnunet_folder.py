"""A model folder of nnU-Net: ``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``.

If ProXTrainer wrote it, it has a family. If another trainer did, the network that it trained is a family of one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet, without_weights
from monai_prox.errors import ProXError, refusing
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import check_inside, read_json
from monai_prox.tensor_file import check_weights
from monai_prox.trained.family_file import FAMILY, FamilyFile, NamedMember, Scores
from monai_prox.trained.nnunet_checkpoint import load_any_checkpoint
from monai_prox.trained.nnunet_dataset import labels_of, named_scores
from monai_prox.trained.nnunet_files import check_configuration, read_dataset, read_plans
from monai_prox.trained.nnunet_members import Opened, dice_of, members_of, opened, with_names
from monai_prox.trained.nnunet_plans import family_of, validation_mirrors
from monai_prox.trained.open_part import ENTRY
from monai_prox.trained.source import EVERY
from monai_prox.typed import check_types

FINAL = "checkpoint_final.pth"
CHECKPOINTS = {"final": FINAL, "best": "checkpoint_best.pth", "latest": "checkpoint_latest.pth"}  # as nnU-Net names them
SUMMARY = {"mean": Mapping[str, Mapping[str, Any]], "foreground_mean": Mapping[str, Any]}
ORIENTATIONS = {"orientations": Mapping[str, int]}
FOLD = re.compile(r"fold_([0-9]|[1-9][0-9]+|all)")  # as nnU-Net names them
ALL = "fold_all"  # trains on all cases
UNUSABLE = "the model folder's files cannot be used"


def scored_in(fold: str, mirrors: bool | None = True, tolerance: float | None = None) -> str:
    """In words, what the Dice are of that nnU-Net's validation of ``fold`` leaves, in summary.json and family.json.

    mirrors: None where some folds were validated with mirroring and some without. tolerance: mm, of surface Dice where there is
    any.
    """
    cases = "cases that it was trained on, for fold_all holds none out" if fold == ALL else f"cases that {fold} held out"
    surface = "" if tolerance is None else f"; surface Dice: within {tolerance:g} mm"
    how = {True: "which mirrors", False: "without mirroring", None: "which mirrors in some folds only"}[mirrors]
    return f"whole {cases}, by nnU-Net's validation, {how}{surface}"


@dataclass(frozen=True)
class ModelFolder:
    """Read-only view of a trained family. ``ModelFolder.open`` checks that it is one."""

    path: Path
    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration_name: str
    folds: tuple[str, ...]  # names of folders with such a checkpoint, e.g. ("fold_0", "fold_1")
    file: str = FINAL  # of CHECKPOINTS

    @classmethod
    def open(cls, path: Path | str, checkpoint: str = "final") -> ModelFolder:
        """checkpoint: of CHECKPOINTS; trainings that have not finished have another than the final one.

        Raises ProXError where ``path`` is not the folder of a training that has such a checkpoint.
        """
        if checkpoint not in CHECKPOINTS:
            raise ProXError(f"the checkpoint {checkpoint!r:.80} is not known; allowed: {', '.join(CHECKPOINTS)}")
        path = Path(path).resolve()
        if not (path / "plans.json").is_file():
            raise ProXError(
                f"{path} is not a trained model folder: it has no plans.json; expected e.g. "
                "nnUNet_results/Dataset004_Hippocampus/ProXTrainer__nnUNetPlans__3d_fullres"
            )
        plans, dataset = read_plans(path / "plans.json"), read_dataset(path / "dataset.json")
        file, found = CHECKPOINTS[checkpoint], [fold for fold in path.glob("fold_*") if FOLD.fullmatch(fold.name)]
        having = [fold.name for fold in found if (fold / file).is_file()]
        folds = tuple(sorted(having, key=lambda fold: (len(fold), fold)))  # fold_10 comes after fold_2, fold_all last
        if not folds:
            there = [one for one, other in CHECKPOINTS.items() if any((fold / other).is_file() for fold in found)]
            finish = [] if "final" in there else ["finish the training first: nnUNetv2_train ... --c"]
            instead = [f"use what there is: --checkpoint {' or '.join(there)}"] if there else []
            raise ProXError(f"no fold of {path} has a {file}; {', or '.join(finish + instead)}")
        name = path.name.split("__")[-1]
        if name not in plans["configurations"]:  # nnU-Net itself goes by the checkpoint
            named = load_any_checkpoint(path / folds[0] / file)["init_args"].get("configuration")
            name = named if isinstance(named, str) else name
        if name not in plans["configurations"]:
            raise ProXError(
                f"{path}: the configuration {name!r:.80} is not one of its plans.json, {', '.join(plans['configurations'])}"
            )
        return cls(path, plans, dataset, name, folds, file)

    @cached_property
    def _manager(self) -> Any:
        return PlansManager(self.plans)

    @cached_property
    @refusing(UNUSABLE)
    def configuration(self) -> dict[str, Any]:
        """The plan's configuration with inheritance resolved. Raises ProXError for the second step of a cascade."""
        configuration = dict(self._manager.get_configuration(self.configuration_name).configuration)
        if (previous := configuration.get("previous_stage")) is not None:
            raise ProXError(
                f"{self.configuration_name} of {self.path} is the second step of a cascade, whose network also reads the "
                f"segmentation of {previous:.40}; allowed are networks that read images alone"
            )
        check_configuration(configuration, f"{self.path / 'plans.json'}, {self.configuration_name!r}")
        return configuration

    def checkpoint(self, fold: str) -> dict[str, Any]:
        """Raises ProXError where it is truncated or no checkpoint of nnU-Net."""
        return load_any_checkpoint(self.path / fold / self.file)

    def opened(self, checkpoint: dict[str, Any], family: Family) -> Opened:
        """What of ``family``, the one that remained open, the training had opened: in the end, all of it."""
        if self.file == FINAL:
            return Opened(family.space, family.space, "finished")
        return opened(checkpoint["prox"], family, self._name(checkpoint))

    def _name(self, checkpoint: dict[str, Any]) -> str:
        return f"{self.file} of fold_{checkpoint['init_args']['fold']}"

    @property
    def checkpoint_option(self) -> list[str]:
        """Of ``monai-prox`` commands, to take the same checkpoint."""
        return [] if self.file == FINAL else ["--checkpoint", next(n for n, file in CHECKPOINTS.items() if file == self.file)]

    def epochs(self, checkpoint: dict[str, Any]) -> str:
        """In words, after how many, and in which checkpoint if not in the final one."""
        return f"{checkpoint['current_epoch']} epochs" + ("" if self.file == FINAL else f", {self.file}")

    @refusing(UNUSABLE)
    def origin(self, checkpoint: dict[str, Any]) -> str:
        """In words, how far the training of a checkpoint that is not the final one had come."""
        family = self._open_family(checkpoint)
        stage = self.opened(checkpoint, family).stage
        return f"{self._name(checkpoint)}: after {checkpoint['current_epoch']} epochs, in {stage}; not the end of a training"

    @refusing(UNUSABLE)
    def supernet(self, checkpoint: dict[str, Any]) -> SuperNet:
        """The supernet with the weights of ``checkpoint``, without what its training has closed."""
        engine, fold, trainer = checkpoint["prox"]["engine"], checkpoint["init_args"]["fold"], checkpoint["trainer_name"]
        source = f"{self.path}, the checkpoint of fold {fold!s:.10} by {trainer:.80},"
        transforms, closed = engine.get("kernel_transforms"), engine.get("closed")
        family, weights = self._unet_family(checkpoint), dict(checkpoint["network_weights"])
        weights.pop(ENTRY, None)
        make_transforms = None if transforms is None else kernel_transforms_of
        shapes = without_weights(family, kernel_transforms=make_transforms)
        check_weights(weights, shapes.network, source)
        if shapes.kernel_transforms is not None:
            check_weights(transforms, shapes.kernel_transforms, source)
        network = family.build(family.space.largest(), initialise=False)
        supernet = SuperNet(family, network, kernel_transforms=make_transforms and make_transforms(family))
        supernet.network.load_state_dict(weights)
        if supernet.kernel_transforms is not None:
            supernet.kernel_transforms.load_state_dict(transforms)
        if closed:  # no recipe with transforms closes anything
            family = self._open_family(checkpoint)
            supernet = SuperNet(family, supernet.extract(family.space.largest()))
        return supernet.eval()

    @refusing(UNUSABLE)
    def family_with(self, choices: UNetChoices, open: dict[str, int] | None = None) -> UNetFamily:
        """The family of the plan's network with these elastic choices."""
        manager, configuration = self._manager, self._manager.get_configuration(self.configuration_name)
        return family_of(
            self.configuration,
            input_channels=determine_num_input_channels(manager, configuration, self.dataset),
            num_classes=manager.get_label_manager(self.dataset).num_segmentation_heads,
            choices=choices,
            open=open,
        )

    def _unet_family(self, checkpoint: dict[str, Any], closed: dict[str, int] | None = None) -> UNetFamily:
        return self.family_with(UNetChoices.from_json(checkpoint["prox"]["choices"]), closed)

    def _open_family(self, checkpoint: dict[str, Any]) -> UNetFamily:
        """Without what its training has closed."""
        return self._unet_family(checkpoint, checkpoint["prox"]["engine"].get("closed"))

    def supernet_with(self, subnet: Subnet, checkpoint: dict[str, Any]) -> tuple[SuperNet, Subnet]:
        """``supernet``, and its member ``subnet`` in normal form. Raises ProXError as ``check`` does."""
        supernet = self.supernet(checkpoint)
        return supernet, self.check(subnet, supernet, checkpoint)

    def check(self, subnet: Subnet, supernet: SuperNet, checkpoint: dict[str, Any]) -> Subnet:
        """``subnet`` in normal form.

        Raises ProXError, with the fold and the reason, if it is no member of the checkpoint's ``supernet``, or none that the
        training had opened.
        """
        try:
            member = supernet.family.space.check(subnet)
        except ProXError as error:
            closed = ", ".join(checkpoint["prox"]["engine"].get("closed", {}))
            why = f", whose training has closed choices of {closed}," if closed else ""
            raise ProXError(f"fold_{checkpoint['init_args']['fold']}{why} has no such member: {error}") from None
        trained = self.opened(checkpoint, supernet.family)
        if member not in trained.space:
            raise ProXError(f"{self._name(checkpoint)} is of {trained.stage}, in which this member was not trained yet")
        return member

    def family(self, folds: Sequence[str] = ()) -> FamilyFile:
        """family.json, each member's Dice being the mean over the folds that have validated it on what they held out.

        folds: those that Dice are of; all if there are none. Members and their names are the same for all folds.
        fold_all holds nothing out, so its Dice are those of the family only where there is no other fold. Where folds have
        closed different choices, it is that of the fold whose largest member costs least. Raises ProXError where one is none.
        """
        of_folds = {fold: self.family_of(fold) for fold in self.folds}
        of_all = min(of_folds.values(), key=lambda family: max((member.macs for member in family.members), default=0))
        counted = folds or self.folds
        scored = [of_folds[fold] for fold in counted if fold != ALL or len(counted) == 1]
        tolerances = {family.surface_tolerance_mm for family in scored} - {None}
        if len(tolerances) > 1:  # the mean would be of different things
            scored = [
                replace(family, members=tuple(replace(m, surface_dice=None) for m in family.members)) for family in scored
            ]
        tolerance = tolerances.pop() if len(tolerances) == 1 else None
        return replace(of_all, members=_with_scores(of_all.members, scored), surface_tolerance_mm=tolerance)

    def chosen(self, folds: Sequence[str]) -> tuple[str, ...]:
        """``folds``, those with a number in the place of EVERY. Raises ProXError unless their trainings have finished."""
        numbered = [fold for fold in self.folds if fold != ALL]
        chosen = [one for fold in folds for one in (numbered if fold == EVERY and numbered else [fold])]
        for fold in chosen:
            if fold not in self.folds:
                what = "fold with a number" if fold == EVERY else fold
                have = "has no finished {}; finished are" if self.file == FINAL else f"has no {self.file} of {{}}; there are"
                raise ProXError(f"{self.path} {have.format(what)} {', '.join(self.folds)}")
        return tuple(dict.fromkeys(chosen))

    def scored(self, folds: Sequence[str] = ()) -> str:
        """In words, what ``family`` has the Dice of."""
        counted = tuple(folds or self.folds)
        mirroring = {bool(self.family_of(fold).mirroring) for fold in counted}
        mirrors = mirroring.pop() if len(mirroring) == 1 else None
        one = len(counted) == 1 and (counted == (ALL,) or counted != self.folds)
        tolerance = self.family(counted).surface_tolerance_mm
        return scored_in(counted[0] if one else "the folds", mirrors, tolerance)

    @refusing(UNUSABLE)
    def family_of(self, fold: str) -> FamilyFile:
        """The family.json of one fold, its Dice by the labels' names; rebuilt from the checkpoint where the file does not tell.

        nnUNetv2_export_model_to_zip leaves the file out, and it says nothing of checkpoints but the final one. Raises ProXError
        where it is none.
        """
        path = self.path / fold / FAMILY
        written = FamilyFile.read(path) if path.is_file() else None
        if written is not None:
            written = with_names(written, self.dataset)
        return self._rebuilt(fold, written) if written is None or self.file != FINAL else written

    def _rebuilt(self, fold: str, written: FamilyFile | None) -> FamilyFile:
        """written: the fold's family.json, whose Dice are those of this checkpoint if they are of the same epoch."""
        checkpoint = self.checkpoint(fold)
        family, prox, epochs = self._open_family(checkpoint), checkpoint["prox"], checkpoint["current_epoch"]
        axes = checkpoint["inference_allowed_mirroring_axes"]
        mirroring = tuple(axes) if axes and validation_mirrors(self.configuration, True) else None
        source = f"{self.path}, {self._name(checkpoint)}"
        check_types(prox, ORIENTATIONS, source, missing=True)
        trained, patch = self.opened(checkpoint, family), self.configuration["patch_size"]
        members = members_of(family, trained, patch, source)
        scored: list[FamilyFile] = []
        if written is None and self.file == FINAL:
            summary = self.path / fold / "validation" / "summary.json"
            if summary.is_file():
                scores = read_json(check_inside(summary, self.path))
                check_types(scores, SUMMARY, summary)
                largest, dice = trained.space.largest(), named_scores(dice_of(scores), self.dataset["labels"])
                scored = [FamilyFile(members=tuple(replace(m, scores=dice) for m in members if m.is_of(largest)))]
        elif written is not None and written.validated_epoch == epochs:
            scored, mirroring = [written], written.mirroring
        return FamilyFile(
            members=_with_scores(members, scored),
            trainer=checkpoint["trainer_name"],
            epochs=epochs,
            validated_epoch=epochs if scored else None,
            surface_tolerance_mm=written.surface_tolerance_mm if written is not None and scored else None,
            labels=labels_of(self.dataset),
            patch_size=tuple(patch),
            mirroring=mirroring,
            orientations=dict(prox.get("orientations", {})),
            space=trained.space.to_json(),
            closed=prox["engine"].get("closed"),
            license=None if written is None else written.license,
        )

    def member(self, which: str) -> tuple[str, Subnet]:
        """Name and subnet of ``which``: a member's name in family.json, or a JSON file with a subnet.

        Raises ProXError for an unknown name, with the known ones, and for a file that holds no subnet.
        """
        return self.family().find(which)

    def validated(self, fold: str, subnet: Subnet, epoch: int) -> NamedMember | None:
        """The member of family.json that is ``subnet``, if the trainer validated it after ``epoch`` epochs."""
        family = self.family_of(fold)
        return family.named(subnet) if family.validated_epoch == epoch else None

    @refusing(UNUSABLE)
    def held_out(self, fold: str) -> list[str]:
        """Names of the cases that the fold's training validated on.

        Raises ProXError where it held none out, or was not validated.
        """
        summary = self.path / fold / "validation" / "summary.json"
        if fold == ALL or not summary.is_file():
            why = "trained on all cases" if fold == ALL else f"has no {summary.relative_to(self.path / fold)}"
            how = "" if fold == ALL else "; nnUNetv2_train ... --val writes it, of checkpoint_best with --val_best"
            raise ProXError(f"{self.path / fold} {why}, so no case is known that it was not trained on{how}")
        ending = self.dataset["file_ending"]
        files = [case["reference_file"] for case in read_json(summary)["metric_per_case"]]
        return [re.split(r"[/\\]", file)[-1].removesuffix(ending) for file in files]  # Windows has written some

    def validation_summary(self, fold: str, subnet: Subnet, epoch: int) -> Path | None:
        """nnU-Net's summary of the trainer's validation of ``subnet`` after ``epoch`` epochs, where there was one."""
        member = self.validated(fold, subnet, epoch)
        if member is None or member.scores is None:  # files beside may be of another validation
            return None
        name, folder = member.name, self.path / fold
        path = (folder if name == "largest" else folder / "members" / name) / "validation" / "summary.json"
        return path if path.is_file() else None


def _with_scores(members: Sequence[NamedMember], families: Sequence[FamilyFile]) -> tuple[NamedMember, ...]:
    """Each with the mean of what ``families`` have of it, whatever its name in them."""
    of_members = [[member for family in families for member in family.members if member.is_of(of.subnet)] for of in members]
    return tuple(
        replace(of, scores=_mean([one.scores for one in same]), surface_dice=_mean([one.surface_dice for one in same]))
        for of, same in zip(members, of_members, strict=True)
    )


def _mean(of_folds: Sequence[Scores | None]) -> Scores | None:
    scores = [score for score in of_folds if score]
    labels = list(dict.fromkeys(label for score in scores for label in score))
    known = {label: [value for score in scores if (value := score.get(label)) is not None] for label in labels}
    return {label: fmean(values) if values else None for label, values in known.items()} or None
