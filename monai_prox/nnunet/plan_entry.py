"""What a trainer would train by a plan's configuration and its ``prox`` entry, before any training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from monai_prox.core.named_members import named_members
from monai_prox.core.supernet import without_weights
from monai_prox.errors import ProXError, refusing
from monai_prox.files import read_json, replacing
from monai_prox.nnunet import variants
from monai_prox.nnunet.mix_ins import check_mixed_in
from monai_prox.nnunet.planned_engine import engine_of
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.trained.family_file import NamedMember
from monai_prox.trained.nnunet_files import check_configuration, check_trainable, read_dataset, read_plans
from monai_prox.trained.nnunet_plans import (
    PLAN_KEY,
    choices_of,
    members_per_batch_of,
    precision_of,
    recipe_of,
    validated_of,
    validation_mirrors,
)
from monai_prox.training.engine import Engine
from monai_prox.training.recipes import find_recipe
from monai_prox.training.updates_per_batch import Asked

EPOCHS = 1000  # nnU-Net's own number, which its trainer sets when it is made


@dataclass(frozen=True)
class PlannedTraining:
    """What a trainer would train.

    Args:
        plans_file: path of the plans.
        configuration_name: name of the configuration.
        configuration: the configuration with what it inherits, and with ``entry``.
        trainer: the trainer.
        former: the ``prox`` entry that the configuration has, or None.
        entry: the ``prox`` entry by which it would be trained. It is empty if the trainer's own settings count.
        engine: the engine of the training, whose supernet has no weights.
    """

    plans_file: Path
    configuration_name: str
    configuration: Mapping[str, Any]
    trainer: type[ProXTrainer]
    former: Any
    entry: Mapping[str, Any]
    engine: Engine

    @property
    def recipe(self) -> str:
        """The name of the recipe."""
        return recipe_of(self.configuration, self.trainer.recipe)

    @cached_property
    def members(self) -> tuple[NamedMember, ...]:
        """The named members with their costs."""
        family, patch = self.engine.supernet.family, self.configuration["patch_size"]
        named = named_members(family, patch, self.engine.final_space)
        return tuple(NamedMember.of(name, subnet, family, patch) for name, subnet in named.items())

    @property
    def validated(self) -> list[str]:
        """The named members that the final validation is of. It raises ProXError if the entry lists others."""
        return validated_of(self.configuration, [member.name for member in self.members], self.trainer.validate)

    @property
    def validation_mirrors(self) -> bool:
        """Whether the final validation mirrors. It raises ProXError if the entry says neither true nor false."""
        return validation_mirrors(self.configuration, self.trainer.validate_mirroring)

    @property
    def members_per_batch(self) -> Asked:
        """The number of updates with each batch, or "fill". It raises ProXError if the entry says something else."""
        return members_per_batch_of(self.configuration, self.trainer.members_per_batch)

    @property
    def precision(self) -> str:
        """The precision of the training. It raises ProXError if the entry says another than there are."""
        return precision_of(self.configuration, self.trainer.precision)

    @property
    def mixed_in(self) -> list[str]:
        """Names of nnU-Net's variants that are mixed into the trainer, and may set another number of epochs."""
        own = [cls for cls in self.trainer.__mro__ if not issubclass(cls, ProXTrainer)]
        return [] if self.trainer.epochs else [cls.__name__ for cls in own if cls not in (nnUNetTrainer, object)]

    def write(self) -> None:
        """Puts ``entry`` into the configuration in the plans file, which is written as nnU-Net writes it.

        Raises:
            OSError: the file cannot be written.
        """
        path = self.plans_file.resolve()  # if it is a link, the file that it leads to is changed
        plans = read_json(path)
        plans["configurations"][self.configuration_name][PLAN_KEY] = dict(self.entry)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(plans, indent=4), encoding="utf-8")
            shutil.copymode(path, temporary)


def plan_training(
    folder: Path, plans_name: str, configuration_name: str, trainer_name: str, asked: Mapping[str, Any]
) -> PlannedTraining:
    """What a trainer would train. It is read and built by the code that trains it.

    Args:
        folder: folder of the dataset in nnUNet_preprocessed.
        plans_name: name of the plans.
        configuration_name: name of the configuration.
        trainer_name: name of ProXTrainer, or of a trainer that is derived from it.
        asked: entries that take the place of those in the configuration's ``prox`` entry.

    Raises:
        ProXError: a file or the configuration is missing or cannot be used, the trainer is none of this package, the network
            cannot be made elastic, or an entry is wrong.
    """
    path = folder / f"{plans_name}.json"
    if not path.is_file():
        there = sorted(file.stem for file in folder.glob("*Plans*.json"))
        hint = (
            f"; there are {', '.join(there)}" if there else "; plan the dataset first: nnUNetv2_plan_and_preprocess -d DATASET"
        )
        raise ProXError(f"there are no plans {path}{hint}")
    plans, dataset = read_plans(path), read_dataset(folder / "dataset.json")
    if configuration_name not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise ProXError(f"{path} has no configuration {configuration_name!r:.80}; it has {known}")
    trainer = find_trainer(trainer_name)
    check_mixed_in(trainer, ProXTrainer, nnUNetTrainer)
    check_trainable(plans, configuration_name, trainer_name)
    with refusing(f"{path}, {configuration_name!r}, cannot be used"):
        manager = PlansManager(plans)
        resolved = manager.get_configuration(configuration_name)
        check_configuration(resolved.configuration, f"{path}, {configuration_name!r}")
        channels = determine_num_input_channels(manager, resolved, dataset)
        labels = manager.get_label_manager(dataset)
        configuration = dict(resolved.configuration)
        choices_of(configuration, trainer.choices)  # refuses an entry that has other fields, before some are replaced
        former = configuration.get(PLAN_KEY)
        entry = {**(former or {}), **asked}
        if asked:
            configuration[PLAN_KEY] = entry
        family = trainer.family(configuration, channels, labels.num_segmentation_heads)
        recipe = find_recipe(recipe_of(configuration, trainer.recipe))
        supernet = without_weights(family, kernel_transforms=recipe.kernel_transforms)
        largest: Any = supernet.network
        largest.decoder.deep_supervision = True  # as in training
        if any(stage.reorder is not None for stage in recipe.stages(family.space)):
            supernet.to_empty(device="cpu")  # the engine tries to reorder channels, whatever their weights
        epochs, exclusive = trainer.epochs or EPOCHS, not labels.has_regions
        engine = engine_of(trainer, supernet, configuration, epochs, nn.Identity(), exclusive=exclusive)
    return PlannedTraining(path, configuration_name, configuration, trainer, former, entry, engine)


def find_trainer(name: str) -> type[ProXTrainer]:
    """The trainer of a name: one of this package, or one that nnU-Net finds.

    Args:
        name: name of the class.

    Raises:
        ProXError: there is none, or it does not train families.
    """
    found: Any = getattr(variants, name) if name in variants.__all__ else None
    if found is None:
        with refusing(f"the trainer is {name!r:.80}"), redirect_stdout(StringIO()):  # nnU-Net prints where it searches
            found = recursive_find_trainer_class_by_name(name)
    if not issubclass(found, ProXTrainer):
        raise ProXError(f"the trainer is {name}, which trains no family; take ProXTrainer or a class derived from it")
    return found  # type: ignore[no-any-return]
