"""nnU-Net trainers that train a supernet: ``nnUNetv2_train DATASET CONFIGURATION FOLD -tr ProXTrainer``.

nnU-Net's ``self.network`` is the family's largest stock network, so checkpoints, prediction and pretrained weights work as
with nnU-Net's own trainer. Members share its weights. After choices were closed, it computes the output of the largest open
member, see ``monai_prox.trained.open_part``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import remove_unfinished
from monai_prox.log_lines import closing_line, processes_line, schedule_lines, stage_line
from monai_prox.nnunet.checkpoint import read_resumed, write_checkpoint
from monai_prox.nnunet.compiled_members import CompiledMembers
from monai_prox.nnunet.family_report import plot_training, report_validated, write_family
from monai_prox.nnunet.final_validation import FinalValidation
from monai_prox.nnunet.loader_process import prepare_transforms
from monai_prox.nnunet.loggers import log_scalars
from monai_prox.nnunet.loss import AnyLevelsLoss
from monai_prox.nnunet.member_validation import MemberValidation
from monai_prox.nnunet.mix_ins import check_mixed_in
from monai_prox.nnunet.planned_engine import engine_of
from monai_prox.nnunet.planned_updates import updates_of
from monai_prox.nnunet.precision import autocast, check_precision
from monai_prox.trained.nnunet_dataset import normalised
from monai_prox.trained.nnunet_files import check_trainable
from monai_prox.trained.nnunet_orientation import stored_orientations
from monai_prox.trained.nnunet_plans import (
    choices_of,
    family_of,
    precision_of,
    recipe_of,
    surface_tolerance_of,
)
from monai_prox.trained.open_part import OpenPart
from monai_prox.training.drawing import fixed_members
from monai_prox.training.recipes import find_recipe
from monai_prox.training.scalars import comparison_scalars, stage_scalars
from monai_prox.training.seeding import seed_generators
from monai_prox.training.update import Updates
from monai_prox.training.updates_per_batch import Asked

GRADIENT_NORM = 12  # nnU-Net's own limit


class ProXTrainer(nnUNetTrainer):  # type: ignore[misc]
    """Trains the default family by the recipe ``prox``.

    The entry ``"prox": {"space": {...}, "recipe": "prox_paper", "monitor": false, "surface_tolerance_mm": 2,
    "members_per_batch": 2, "validate": ["smallest", "largest"], "validate_mirroring": false, "precision": "bf16"}`` of a plan's
    configuration overrides the class attributes, see ``monai_prox.trained.nnunet_plans``.

    Where nnU-Net compiles its network, which is on CUDA unless ``nnUNet_compile=f``, the largest and the smallest member are
    compiled, see ``monai_prox.nnunet.compiled_members``.

    Variants of nnU-Net are mixed in after it: ``class Mine(ProXTrainer, nnUNetTrainerNoDA): pass``.

    In monitored stages, choices that are not worth their cost are closed, see ``monai_prox.training.monitor``. Members are
    compared by their Dice in nnU-Net's validation batches, which are random patches of the cases.

    With ``nnUNet_n_proc_DA=0`` on the CPU, a continued training equals an uninterrupted one bit for bit. Loader processes
    prefetch batches, which an interruption loses.
    """

    network: Any  # attributes of nnU-Net that this class uses or sets
    output_folder: Any
    inference_allowed_mirroring_axes: Any
    loss: Any
    num_epochs: Any
    num_iterations_per_epoch: Any
    num_val_iterations_per_epoch: Any

    recipe = "prox"
    choices = UNetChoices()
    # None means nnU-Net's numbers, 1000, 250 and 50, or those of a variant that is mixed in
    epochs: int | None = None
    iterations_per_epoch: int | None = None
    validation_iterations_per_epoch: int | None = None
    seed = 12345
    validation_interval = 25  # epochs between validations of the named members, and at the end of every stage
    monitored = True
    monitor_threshold = 0.005  # Dice
    monitor_patience = 3  # validations
    # Of the final validation's surface Dice; None means the longest edge of a voxel of the plan's full resolution
    surface_tolerance_mm: float | None = None
    validate: Sequence[str] | None = None  # names of the members that the final validation is of; None means all
    validate_mirroring = True
    members_per_batch: Asked = 1  # updates with each batch, up to 8, or "fill", see monai_prox.training.updates_per_batch
    precision = "fp16"  # nnU-Net's own, or "bf16"

    def __init__(
        self,
        plans: dict,  # type: ignore[type-arg]
        configuration: str,
        fold: int,
        dataset_json: dict,  # type: ignore[type-arg]
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        check_mixed_in(type(self), ProXTrainer, nnUNetTrainer)
        check_trainable(plans, configuration, type(self).__name__)
        super().__init__(plans, configuration, fold, normalised(dataset_json, "dataset.json"), device)
        self.num_epochs = self.epochs or self.num_epochs
        self.num_iterations_per_epoch = self.iterations_per_epoch or self.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = self.validation_iterations_per_epoch or self.num_val_iterations_per_epoch
        self.surface_tolerance = surface_tolerance_of(plans, configuration, self.surface_tolerance_mm)
        self.precision = precision_of(self.configuration_manager.configuration, self.precision)
        if self.precision == "bf16":
            self.grad_scaler = None  # bfloat16 has the range of float32
        self.progress: list[dict[str, Any]] = []  # the named members' pseudo Dice

    # ------------------------------------------------------------------ building
    @classmethod
    def family(cls, configuration: dict[str, Any], input_channels: int, num_classes: int) -> UNetFamily:
        """The family of a plan's configuration."""
        choices = choices_of(configuration, cls.choices)
        return family_of(configuration, input_channels=input_channels, num_classes=num_classes, choices=choices)

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The largest member, in training and in prediction. Its ``open_part`` has the supernet."""
        configuration = configuration_manager.configuration
        family = cls.family(configuration, num_input_channels, num_output_channels)
        network: Any = family.build(family.space.largest())
        network.decoder.deep_supervision = enable_deep_supervision
        network.open_part = OpenPart(find_recipe(recipe_of(configuration, cls.recipe)).supernet(family, network))
        return network  # type: ignore[no-any-return]

    def _build_loss(self) -> Any:
        loss = super()._build_loss()
        return AnyLevelsLoss(loss) if isinstance(loss, DeepSupervisionWrapper) else loss

    def initialize(self) -> None:
        self._seed(0)
        compiles = self._do_i_compile()  # nnU-Net's answer, a variant's, or that of the user's own class
        self.__dict__["_do_i_compile"] = lambda: False  # neither the network nor the loss, because members differ in shape
        super().initialize()
        self.supernet = (self.network.module if self.is_ddp else self.network).open_part.supernet
        if (transforms := self.supernet.kernel_transforms) is not None:
            transforms.to(self.device)
            self.optimizer.add_param_group({"params": list(transforms.parameters()), "weight_decay": 0})
            self.lr_scheduler.base_lrs.append(self.optimizer.param_groups[-1]["lr"])  # torch's own needs one per group
        configuration = self.configuration_manager.configuration
        self.recipe_name = recipe_of(configuration, self.recipe)
        exclusive = not self.label_manager.has_regions
        self.engine = engine_of(self, self.supernet, configuration, self.num_epochs, self.loss, exclusive=exclusive)
        self.engine.guard(self.optimizer)
        self.updates_per_batch = updates_of(self, configuration, len(self.engine.schedule.stages))
        self.updates = Updates(self.supernet.parameters(), max_norm=GRADIENT_NORM, log=self.print_to_log_file)
        self.compiled_members = CompiledMembers(self.supernet, log=self.print_to_log_file) if compiles else None
        self._apply_closed()
        self.final_validation = FinalValidation(self)
        for line in schedule_lines(self.engine, self.recipe_name):
            self.print_to_log_file(line)

    def _seed(self, epoch: int) -> None:
        """Makes the randomness of an epoch in this process depend on (seed, fold, epoch, rank) only."""
        seed_generators(self.seed, self.fold, epoch, self.local_rank)

    @classmethod
    def get_training_transforms(cls, *args: Any, **kwargs: Any) -> Any:
        return prepare_transforms(super().get_training_transforms(*args, **kwargs))

    @classmethod
    def get_validation_transforms(cls, *args: Any, **kwargs: Any) -> Any:
        return prepare_transforms(super().get_validation_transforms(*args, **kwargs))

    # ------------------------------------------------------------------ training
    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        check_precision(self.precision, self.device)
        if self.current_epoch == 0:  # a run that is continued has it, and Weights & Biases refuses to change it
            self.logger.update_config({"prox": {"recipe": self.recipe_name, **self.engine.origin}})
        self.print_to_log_file(f"Final validation: {self.final_validation}")  # or the plan's entry is refused
        self._seed(self.current_epoch)  # loader processes inherit this state
        super().on_train_start()
        if self.is_ddp:
            again = f"--c, also with another -num_gpus, continues; a checkpoint is written every {self.save_every} epochs"
            self.print_to_log_file(processes_line(again))
            sys.stdout.flush()  # this process is ended with one that is killed, and what it has buffered is lost
        if self.local_rank == 0:
            remove_unfinished(Path(self.output_folder))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._seed(self.current_epoch)
        self.updates_per_batch.begin_epoch(self.engine.schedule.index(self.current_epoch), self.num_iterations_per_epoch)
        if self.engine.begin_epoch(self.current_epoch):
            self._best_ema = None  # checkpoint_best is the best of the current stage, which has larger members than before
            self.print_to_log_file(stage_line(self.engine))
        if self.compiled_members is not None:
            self.compiled_members.select(fixed_members(self.engine.stage, self.engine.space, trial=self.engine.trial))
        log_scalars(self, stage_scalars(self.engine, self.current_epoch))

    def train_step(self, batch: dict) -> dict:  # type: ignore[type-arg]
        data, target = (self._on_device(batch[key]) for key in ("data", "target"))
        cases = [str(case) for case in batch.get("keys", ())]
        loss, updated = self.updates_per_batch.run(lambda step: self._update(data, target, cases, step))
        return {"loss": loss.numpy(), "updated": updated}

    def _update(self, data: Tensor, target: Any, cases: Sequence[str], step: int) -> tuple[Tensor, bool]:
        """The loss, and whether the update took place."""
        scaler, optimizer = self.grad_scaler, self.optimizer
        optimizer.zero_grad(set_to_none=True)
        result = self.engine.step(
            data,
            target,
            epoch=self.current_epoch,
            step=step,
            backward=(lambda l: scaler.scale(l).backward()) if scaler is not None else Tensor.backward,  # noqa: E741
            precision=partial(autocast, self.precision, self.device),
            forward=self.compiled_members,
        )
        self.updates.add(data, result, cases)
        return result.loss, self.updates(optimizer, scaler)

    def _on_device(self, data: Any) -> Any:
        return [*map(self._on_device, data)] if isinstance(data, list) else data.to(self.device, non_blocking=True)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's mean loss without skipped updates. They are the same in all processes, as nnU-Net needs."""
        super().on_train_epoch_end([output for output in train_outputs if output["updated"]] or train_outputs)
        if (measured := self.updates_per_batch.end_epoch()) is not None:
            self.print_to_log_file(f"ProX stage {self.engine.stage.name!r} {measured}")

    # ------------------------------------------------------------------ validation
    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        engine, epoch = self.engine, self.current_epoch
        validates = engine.schedule.is_due(epoch, self.validation_interval)
        named = {name: subnet for name, subnet in self.named_members.items() if validates and subnet in engine.space}
        self.member_validation = MemberValidation(self, named, engine.compared(epoch, self.validation_interval))

    def validation_step(self, batch: dict) -> dict:  # type: ignore[type-arg]
        """nnU-Net's pseudo Dice of the largest open member. Larger members are not trained yet."""
        return self.member_validation.step(batch, super().validation_step)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        self.member_validation.end()
        if dice := self.member_validation.pseudo_dice():
            self.progress.append({"epoch": self.current_epoch, "dice": dice})
            self.print_to_log_file("Members, pseudo Dice: " + ", ".join(f"{k} {v:.4f}" for k, v in dice.items()))
            log_scalars(self, {f"prox/pseudo_dice/{name}": value for name, value in dice.items()})
        if by_case := self.member_validation.dice_by_case():
            self._observe(by_case)

    def _observe(self, by_case: dict[Subnet, dict[str, float]]) -> None:
        largest = self.engine.space.largest()
        comparison = self.engine.observe(self.current_epoch, by_case)
        if comparison is None:
            return
        self.print_to_log_file(f"ProX monitor: {comparison}")
        log_scalars(self, comparison_scalars(comparison))
        if comparison.verdict == "closed":
            self._apply_closed()
            self._best_ema = None  # as when a stage opens
            self.print_to_log_file(closing_line(self.engine, comparison.dimension, largest))

    def _apply_closed(self) -> None:
        """Updates the network's open part and the named members to the choices that the engine has closed."""
        network: Any = self.supernet.network
        network.open_part.close(self.engine.closed)
        patch = self.configuration_manager.patch_size
        self.named_members = named_members(self.supernet.family, patch, self.engine.final_space)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0:
            plot_training(self)

    # ------------------------------------------------------------------ after training
    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        network = self.network.network if isinstance(self.network, Member) else self.supernet.network
        network.decoder.deep_supervision = enabled  # type: ignore[union-attr]

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.compiled_members is not None:
            self.compiled_members.select(())
        if self.local_rank == 0:
            write_family(self, {})

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation of the largest member in ``validation``, and of other named ones in ``members/NAME``."""
        if not self.was_initialized:
            self.initialize()
        self.final_validation(partial(super().perform_actual_validation, save_probabilities))
        if self.local_rank == 0:
            report_validated(self)

    @cached_property
    def orientations(self) -> dict[str, int]:
        return stored_orientations(self.plans_manager.dataset_name)

    # ------------------------------------------------------------------ checkpoints
    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with the engine's state, without NumPy's types, so that it loads with ``weights_only=True``."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
        else:
            write_checkpoint(self, super().save_checkpoint, filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Restores a training. A checkpoint of another trainer, search space or recipe raises ProXError and changes nothing."""
        if not self.was_initialized:
            self.initialize()
        resumed = read_resumed(self, filename_or_checkpoint)
        self.updates_per_batch.load_state_dict(resumed.updates_per_batch)
        self.engine.load_state_dict(resumed.engine)
        # nnU-Net loads files without weights_only; read_resumed has loaded this one with it, so it executes nothing
        super().load_checkpoint(filename_or_checkpoint)
        self.progress = resumed.progress
        self._apply_closed()
