"""The files that a bundle's training writes: family.json, the weights, a plot of the progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from monai.utils.enums import CommonKeys

from monai_prox.bundle.handlers import MemberValidationHandler
from monai_prox.bundle.metadata import fit_metadata
from monai_prox.bundle.trainer import ProXEvents, SupernetTrainer
from monai_prox.core.distributed import rank
from monai_prox.core.network import predicting
from monai_prox.data.decathlon import Case
from monai_prox.data.image_files import image_names
from monai_prox.data.oct import Scan
from monai_prox.data.plans import TrainingPlan
from monai_prox.files import make_folder
from monai_prox.report import plot_progress
from monai_prox.tensor_file import write_tensors
from monai_prox.trained.bundle_folder import KERNEL_TRANSFORMS, STATISTICS, WEIGHTS
from monai_prox.trained.family_file import FamilyFile, NamedMember
from monai_prox.training.calibrated_members import CalibratedMembers, statistics_of
from monai_prox.training.monitor import verdicts_of

Cases = Sequence[Case | Scan | Mapping[str, Any] | str]


class FamilyWriter:
    """Handler that writes the family whenever its named members have been validated, in the first process.

    It writes to ``ckpt_dir``: model.pt, a state_dict of the part of the largest open member that predicts; family.json with the
    plan, the members' costs and scores and what was closed; kernel_transforms.pt if the recipe has them; and statistics.pt if
    norms keep statistics. It writes prox_progress.png to ``output_dir``.

    Args:
        plan: the plan of the training.
        recipe: name of the recipe.
        validation: the handler that validates members.
        cases: the validation cases, or items of MONAI's datasets, or names.
        training: those that are trained on, of which the validation cases have other names.
        ckpt_dir: folder of the models.
        output_dir: folder of the plot.
        measure: name of the validator's key metric.
        calibrated: extracts members if norms keep statistics. None means the supernet itself.
        metadata: the bundle's metadata.json. It is made to fit the task and the scores if ``ckpt_dir`` is a folder of the
            bundle: models that are written elsewhere leave the bundle as it is. None means that there is no such file.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        recipe: str,
        validation: MemberValidationHandler,
        *,
        cases: Cases,
        training: Cases = (),
        ckpt_dir: str,
        output_dir: str,
        measure: Literal["dice", "accuracy"] = "dice",
        calibrated: CalibratedMembers | None = None,
        metadata: str | None = None,
    ) -> None:
        self.plan, self.recipe, self.validation = plan, recipe, validation
        self.cases = _names(cases, training)
        self.metadata = None if metadata is None else Path(metadata)
        self.measure, self.calibrated = measure, calibrated
        self.ckpt_dir, self.output_dir = Path(ckpt_dir), Path(output_dir)

    def attach(self, trainer: SupernetTrainer) -> None:
        """Adds the handler to a trainer.

        Args:
            trainer: the trainer.
        """
        trainer.add_event_handler(ProXEvents.MEMBERS_VALIDATED, self.write)

    def write(self, trainer: SupernetTrainer) -> None:
        """Writes the files.

        Args:
            trainer: the trainer.
        """
        if rank() > 0:
            return
        engine, history = trainer.engine, self.validation.history
        space, comparisons = engine.final_space, engine.comparisons
        latest = history[-1]["scores"]
        family, size = engine.supernet.family, self.plan.patch_size
        progress = [
            {"epoch": entry["epoch"], self.measure: {name: of["mean"] for name, of in entry["scores"].items()}}
            for entry in history
        ]
        for folder in (self.ckpt_dir, self.output_dir):
            make_folder(folder)
        FamilyFile(
            members=tuple(
                NamedMember.of(name, subnet, family, size, latest.get(name)) for name, subnet in self.validation.members.items()
            ),
            plan=self.plan.to_json(),
            choices=asdict(family.choices),
            recipe=self.recipe,
            epochs=engine.schedule.epochs,
            validated_epoch=history[-1]["epoch"] + 1,
            validation_cases=self.cases,
            measure=self.measure,
            labels=self.plan.values,
            regions=self.validation.regions,
            patch_size=tuple(size),
            mirroring=None,
            space=space.to_json(),
            closed=engine.closed,
            stages=engine.schedule.to_json(),
            progress=tuple(progress),
            monitor=tuple(comparison.to_json() for comparison in comparisons),
        ).write(self.ckpt_dir)
        extract = engine.supernet.extract if self.calibrated is None else self.calibrated.extract
        tensors: dict[str, Any] = {WEIGHTS: predicting(extract(space.largest())).state_dict()}
        if (transforms := engine.supernet.kernel_transforms) is not None:
            tensors[KERNEL_TRANSFORMS] = transforms.state_dict()
        if self.calibrated is not None:
            named = self.validation.members.values()
            tensors[STATISTICS] = {str(subnet): statistics_of(extract(subnet)) for subnet in named}
        for name, state in tensors.items():
            write_tensors(state, self.ckpt_dir / name)
        if self.metadata is not None and self.ckpt_dir.resolve().is_relative_to(self.metadata.resolve().parents[1]):
            means = {f"{self.measure} {name}": scores["mean"] for name, scores in latest.items()}
            fit_metadata(self.metadata, self.plan, means)
        verdicts = verdicts_of(comparisons)
        path, measure = self.output_dir / "prox_progress.png", self.measure
        plot_progress(progress, engine.schedule, path, key=measure, measure=f"mean {measure.capitalize()}", verdicts=verdicts)


def _names(cases: Cases, training: Cases) -> tuple[str, ...]:
    """Names of cases: those of their files, or what they are called if they are none."""
    every = (*cases, *training)
    images = [case.get(CommonKeys.IMAGE) if isinstance(case, Mapping) else getattr(case, "image", case) for case in every]
    files = [Path(image) for image in images if isinstance(image, (str, Path))]
    if len(files) == len(images):
        return image_names(files)[: len(cases)]
    return tuple(case.name if isinstance(case, Scan) else Path(str(images[number])).name for number, case in enumerate(cases))
