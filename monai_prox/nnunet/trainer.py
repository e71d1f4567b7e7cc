"""nnU-Net trainers that train a supernet: ``nnUNetv2_train DATASET CONFIGURATION FOLD -tr ProXTrainer``.

nnU-Net's ``self.network`` is the family's largest stock network, so checkpoints, prediction and pretrained weights work as
they do for nnU-Net's own trainer. Members share its weights. Once choices have been closed, it computes what the largest open
member does, see ``monai_prox.trained.open_part``.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from monai_prox.core import cost
from monai_prox.core.distributed import world_size
from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member, SuperNet
from monai_prox.errors import ProXError, refusing
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import remove_unfinished
from monai_prox.nnunet.family_report import print_family, write_family
from monai_prox.nnunet.loader_process import EndWithTraining
from monai_prox.nnunet.loss import AnyLevelsLoss
from monai_prox.nnunet.member_validation import MemberValidation
from monai_prox.nnunet.mix_ins import check_mixed_in
from monai_prox.report import count, plot_progress
from monai_prox.tensor_file import write_tensors
from monai_prox.trained.nnunet_checkpoint import load_checkpoint, plain
from monai_prox.trained.nnunet_dataset import normalised
from monai_prox.trained.nnunet_files import check_plans
from monai_prox.trained.nnunet_orientation import stored_orientations
from monai_prox.trained.nnunet_plans import choices_of, family_of, monitor_of, recipe_of
from monai_prox.trained.open_part import OpenPart
from monai_prox.training.engine import Engine, check_format
from monai_prox.training.monitor import Monitor, comparing_interval
from monai_prox.training.schedule import find_recipe, make_schedule
from monai_prox.training.update import Updates

GRADIENT_NORM = 12  # nnU-Net's own limit


def _within(transform: Any) -> Iterator[Any]:
    """A transform and all those that it is made of."""
    yield transform
    several = (*getattr(transform, "transforms", ()), *getattr(transform, "list_of_transforms", ()))
    for inner in (*several, getattr(transform, "transform", None)):
        if inner is not None:
            yield from _within(inner)


class ProXTrainer(nnUNetTrainer):  # type: ignore[misc]
    """Trains the default family by the recipe ``prox``.

    A plan may say otherwise: a configuration's entry ``"prox": {"space": {...}, "recipe": "prox_paper", "monitor": false}``,
    see ``monai_prox.trained.nnunet_plans``, overrides the class attributes.

    nnU-Net's own variants are mixed in behind it: ``class Mine(ProXTrainer, nnUNetTrainerNoDA): pass``.

    In stages that are monitored, choices that turn out not to be worth their cost are closed, see
    ``monai_prox.training.monitor``. The Dice by case that this rests on is that of nnU-Net's validation batches, which are
    random patches, so a case is what was drawn of it.

    With ``nnUNet_n_proc_DA=0`` on the CPU, an interrupted and continued training equals an uninterrupted one bit for bit;
    nnU-Net's loader processes run ahead of the training and cannot be wound back.
    """

    network: Any  # of nnU-Net's attributes, those that are set here too
    output_folder: Any
    loss: Any
    num_epochs: Any
    num_iterations_per_epoch: Any
    num_val_iterations_per_epoch: Any

    recipe = "prox"
    choices = UNetChoices()
    # None: as nnU-Net has it, 1000, 250 and 50, or as a variant of nnU-Net's says that is mixed in
    epochs: int | None = None
    iterations_per_epoch: int | None = None
    validation_iterations_per_epoch: int | None = None
    seed = 12345
    probe_every = 25  # epochs; and at the end of every stage. The monitor compares about three times as often
    monitored = True
    monitor_threshold = 0.005  # Dice
    monitor_patience = 3  # validations

    def __init__(
        self,
        plans: dict,  # type: ignore[type-arg]
        configuration: str,
        fold: int,
        dataset_json: dict,  # type: ignore[type-arg]
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        check_mixed_in(type(self), ProXTrainer, nnUNetTrainer)
        with refusing("the plans cannot be used"):
            check_plans(plans, "the plans")
            previous = PlansManager(plans).get_configuration(configuration).previous_stage_name
        if previous is not None:
            raise ProXError(
                f"{configuration} is the second step of a cascade, which {type(self).__name__} does not train; "
                f"train 3d_fullres, or 3d_lowres by itself"
            )
        super().__init__(plans, configuration, fold, normalised(dataset_json, "dataset.json"), device)
        self.num_epochs = self.epochs or self.num_epochs
        self.num_iterations_per_epoch = self.iterations_per_epoch or self.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = self.validation_iterations_per_epoch or self.num_val_iterations_per_epoch
        self.probe_history: list[dict[str, Any]] = []
        self._step = 0

    # ------------------------------------------------------------------ building
    @classmethod
    def family(cls, configuration: dict[str, Any], input_channels: int, num_classes: int) -> UNetFamily:
        """The family that this trainer makes of a plan's configuration."""
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
        """The largest member, in training and in prediction."""
        family = cls.family(configuration_manager.configuration, num_input_channels, num_output_channels)
        network: Any = family.build(family.space.largest())
        network.decoder.deep_supervision = enable_deep_supervision
        network.open_part = OpenPart(family, network)
        return network  # type: ignore[no-any-return]

    def _do_i_compile(self) -> bool:
        return False  # every member has its own shapes, each of which would be compiled anew

    def _build_loss(self) -> Any:
        loss = super()._build_loss()
        return AnyLevelsLoss(loss) if isinstance(loss, DeepSupervisionWrapper) else loss

    def initialize(self) -> None:
        if os.environ.get("nnUNet_compile", "").lower() in ("true", "1", "t"):  # as nnU-Net reads it
            self.print_to_log_file("nnUNet_compile is ignored: members differ in shape, and each would be compiled anew")
        self._seed(0)
        super().initialize()
        configuration = self.configuration_manager.configuration
        outputs = self.label_manager.num_segmentation_heads
        network = self.network.module if self.is_ddp else self.network
        self._family = self.family(configuration, self.num_input_channels, outputs)
        self.recipe_name = recipe_of(configuration, self.recipe)
        self.supernet = SuperNet(self._family, network, kernel_transforms=find_recipe(self.recipe_name).kernel_transforms)
        if (transforms := self.supernet.kernel_transforms) is not None:
            self.optimizer.add_param_group({"params": list(transforms.parameters()), "weight_decay": 0})
            self.lr_scheduler.base_lrs.append(self.optimizer.param_groups[-1]["lr"])  # torch's own wants one a group
        space = self.supernet.family.space
        schedule = make_schedule(self.recipe_name, space, self.num_epochs)
        self.engine = Engine(
            self.supernet,
            schedule,
            self.loss,
            seed=self.seed,
            exclusive=not self.label_manager.has_regions,
        )
        self.engine.guard(self.optimizer)
        self.updates = Updates(self.supernet.parameters(), max_norm=GRADIENT_NORM, log=self.print_to_log_file)
        patch = self.configuration_manager.patch_size
        self.probes = named_members(self._family, patch)
        settings = monitor_of(
            configuration, monitored=self.monitored, threshold=self.monitor_threshold, patience=self.monitor_patience
        )
        self.monitored = settings is not None
        self.monitor = Monitor(self._family, patch, **(settings or {}))
        # -pretrained_weights are loaded after this; growing must then open weights and not make them anew
        network.register_load_state_dict_post_hook(lambda *_: setattr(self.engine, "keep_weights", True))
        self.print_to_log_file(f"Search space, {space.size():,} members: {space}")
        starts = zip(schedule.stages, schedule.starts, strict=True)
        self.print_to_log_file(
            f"Recipe {self.recipe_name}: " + ", ".join(f"{s.name} from epoch {start}" for s, start in starts)
        )
        self.print_to_log_file(f"ProX schedule: {self.num_epochs} epochs")

    def _seed(self, epoch: int) -> None:
        """Makes an epoch a pure function of (seed, fold, epoch, rank), as far as it runs in this process."""
        seed = random.Random(f"{self.seed} {self.fold} {epoch} {self.local_rank}").getrandbits(32)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    @classmethod
    def get_training_transforms(cls, *args: Any, **kwargs: Any) -> Any:
        composed = super().get_training_transforms(*args, **kwargs)
        for transform in _within(composed):
            if isinstance(transform, GaussianBlurTransform):
                transform.benchmark = False  # it picks an implementation by timing, which no seed repeats
        composed.transforms.insert(0, EndWithTraining())
        return composed

    @classmethod
    def get_validation_transforms(cls, *args: Any, **kwargs: Any) -> Any:
        composed = super().get_validation_transforms(*args, **kwargs)
        composed.transforms.insert(0, EndWithTraining())
        return composed

    # ------------------------------------------------------------------ training
    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        self._seed(self.current_epoch)  # loader processes inherit this state
        super().on_train_start()
        if self.is_ddp:
            self.print_to_log_file(
                f"{world_size()} processes train together: if one ends, all do. The same command with --c, also with "
                f"another -num_gpus, goes on from the last checkpoint; one is written every {self.save_every} epochs."
            )
        if self.local_rank == 0:
            remove_unfinished(Path(self.output_folder))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._seed(self.current_epoch)
        self._step = 0
        if self.engine.begin_epoch(self.current_epoch):
            stage, space = self.engine.stage, self.engine.space
            self.monitor.abandon()
            self._best_ema = None  # checkpoint_best is the best of the current stage: a smaller family is no candidate
            self.print_to_log_file(
                f"ProX stage {stage.name!r} opens: {space.size():,} of {self.supernet.family.space.size():,} members, "
                f"training {stage.trained}, teacher {stage.teacher}. Open: {space}"
            )

    def train_step(self, batch: dict) -> dict:  # type: ignore[type-arg]
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        if isinstance(target, list):
            target = [t.to(self.device, non_blocking=True) for t in target]
        else:
            target = target.to(self.device, non_blocking=True)
        scaler, optimizer = self.grad_scaler, self.optimizer
        optimizer.zero_grad(set_to_none=True)
        result = self.engine.step(
            data,
            target,
            epoch=self.current_epoch,
            step=self._step,
            backward=(lambda l: scaler.scale(l).backward()) if scaler is not None else Tensor.backward,  # noqa: E741
            precision=lambda: torch.autocast("cuda") if self.device.type == "cuda" else nullcontext(),
        )
        self._step += 1
        self.updates.add(data, result, [str(case) for case in batch.get("keys", ())])
        updated = self.updates(optimizer, scaler)
        return {"loss": result.loss.cpu().numpy(), "updated": updated}

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's mean loss, without skipped updates, which are the same in all processes: it wants equally many of each."""
        super().on_train_epoch_end([output for output in train_outputs if output["updated"]] or train_outputs)

    # ------------------------------------------------------------------ probes
    @contextmanager
    def _as_network(self, network: nn.Module) -> Iterator[None]:
        """Lets nnU-Net's own evaluation code run on ``network``."""
        whole, self.network = self.network, network
        try:
            yield
        finally:
            self.network = whole

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        space, epoch = self.engine.space, self.current_epoch
        last = self.engine.schedule.is_last_of_stage(epoch)
        due = last or epoch % self.probe_every == 0
        watched = {name: subnet for name, subnet in self.probes.items() if due and subnet in space}
        compares = last or epoch % comparing_interval(self.probe_every) == 0
        compared = self.monitor.members(space) if compares and self.monitored and self.engine.stage.monitored else ()
        self.member_validation = MemberValidation(self.supernet, space.largest(), watched, compared)

    def validation_step(self, batch: dict) -> dict:  # type: ignore[type-arg]
        """nnU-Net's pseudo Dice, of the largest member that is open: those beyond it are not trained yet."""
        return self.member_validation.step(batch, self._evaluate, self._evaluate_sample)

    def _evaluate(self, member: Member, batch: dict[str, Any]) -> dict[str, Any]:
        target = batch["target"]  # nnU-Net's step overwrites ignored voxels in place
        target = [t.clone() for t in target] if isinstance(target, list) else target.clone()
        with self._as_network(member):
            result: dict[str, Any] = super().validation_step({**batch, "target": target})
        return result

    def _evaluate_sample(self, member: Member, batch: dict[str, Any], index: int) -> dict[str, Any]:
        """Of one sample of a batch, without a loss, which under DDP would wait for as many samples from the other ranks."""
        only, target = slice(index, index + 1), batch["target"]
        targets = [t[only] for t in target] if isinstance(target, list) else target[only]
        loss, self.loss = self.loss, lambda *_: torch.zeros(())
        try:
            return self._evaluate(member, {"data": batch["data"][only], "target": targets})
        finally:
            self.loss = loss

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        if dice := self.member_validation.pseudo_dice():
            self.probe_history.append({"epoch": self.current_epoch, "dice": dice})
            self.print_to_log_file("Probes, pseudo Dice: " + ", ".join(f"{k} {v:.4f}" for k, v in dice.items()))
        if by_case := self.member_validation.dice_by_case():
            self._try_choices(by_case)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0 and self.probe_history:
            path = Path(self.output_folder, "prox_progress.png")
            schedule, verdicts = self.engine.schedule, self.monitor.verdicts
            plot_progress(self.probe_history, schedule, path, measure="pseudo Dice", verdicts=verdicts)

    # ------------------------------------------------------------------ monitor
    def _try_choices(self, dice: dict[Subnet, dict[str, float]]) -> None:
        known = len(self.monitor.history)
        dimension = self.monitor.observe(self.current_epoch, self.engine.space, dice)
        for comparison in self.monitor.history[known:]:
            self.print_to_log_file(f"ProX monitor: {comparison}")
        if dimension is not None:
            self._close(dimension)
        self.engine.trial = self.monitor.trial(self.engine.space)

    def _close(self, dimension: str) -> None:
        before = self.engine.space.largest()
        self.engine.close(dimension)
        self._follow_closed()
        self._best_ema = None  # as where a stage opens: a larger family is no candidate
        space = self.engine.space
        macs = [count(cost.macs(self.supernet.family, largest, self.monitor.size)) for largest in (before, space.largest())]
        self.print_to_log_file(
            f"ProX closes the last choice of {dimension}: {space.size():,} of {self.supernet.family.space.size():,} members "
            f"stay open, the largest has {macs[1]} MACs per patch, it had {macs[0]}. Open: {space}"
        )

    def _follow_closed(self) -> None:
        """Brings what is not the engine's own into accord with what it has closed."""
        network: Any = self.supernet.network
        network.open_part.close(self.engine.closed)
        self.probes = named_members(self._family, self.monitor.size, self.engine.final_space)

    # ------------------------------------------------------------------ after training
    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        network = self.network.network if isinstance(self.network, Member) else self.supernet.network
        network.decoder.deep_supervision = enabled  # type: ignore[union-attr]

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.local_rank == 0:
            write_family(self, {})

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation, of the largest member in ``validation``, of every other probe in ``members/NAME``."""
        if not self.was_initialized:
            self.initialize()
        super().perform_actual_validation(save_probabilities)
        folder = self.output_folder
        configuration = self.configuration_manager.configuration
        next_stage = configuration.pop("next_stage", None)  # a cascade goes on from the largest alone
        for name, subnet in self.probes.items():
            if name == "largest":
                continue
            self.print_to_log_file(f"Validation of the member {name}")
            self.output_folder = os.path.join(folder, "members", name)
            try:
                with self._as_network(self.supernet.member(subnet)):
                    super().perform_actual_validation(save_probabilities)
            finally:
                self.output_folder = folder
        if next_stage is not None:
            configuration["next_stage"] = next_stage
        if self.local_rank == 0:
            validated = {name: Path(folder, "members", name, "validation") for name in self.probes}
            validated["largest"] = Path(folder, "validation")
            summaries = {name: path / "summary.json" for name, path in validated.items()}
            if all(file.is_file() for file in summaries.values()):  # nnU-Net's benchmark variants validate nothing
                write_family(self, {name: load_json(str(file)) for name, file in summaries.items()})
                print_family(self)

    @cached_property
    def orientations(self) -> dict[str, int]:
        return stored_orientations(self.plans_manager.dataset_name)

    # ------------------------------------------------------------------ checkpoints
    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with ours inside, without NumPy's types, so that it loads with ``weights_only=True``."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        buffer = io.BytesIO()
        super().save_checkpoint(buffer)
        buffer.seek(0)
        checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)  # written a moment ago by ourselves
        checkpoint["prox"] = {
            "engine": self.engine.state_dict(),
            "choices": asdict(self._family.choices),
            "probes": self.probe_history,
            "monitor": self.monitor.state_dict(),
            "orientations": self.orientations,
            **self.engine.origin,
        }
        write_tensors(plain(checkpoint), filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Raises ProXError, and changes nothing, where the file is not of this trainer with the same space and recipe."""
        if not self.was_initialized:
            self.initialize()
        ours = load_checkpoint(filename_or_checkpoint, self.device)["prox"]
        check_format(ours["engine"])
        for key, what in (("space", "search space"), ("stages", "recipe")):
            if ours.get(key) != self.engine.origin[key]:
                raise ProXError(
                    f"the checkpoint was trained with another {what} than the plan asks for now; continue with the "
                    "plan of that training, or start anew in another results folder"
                )
        self.engine.load_state_dict(ours["engine"])
        # nnU-Net reads only files, and without weights_only; what has loaded with it a line before executes nothing
        super().load_checkpoint(filename_or_checkpoint)
        self.engine.keep_weights = ours["engine"]["keep_weights"]  # nnU-Net's loading looks like -pretrained_weights
        self.probe_history = list(ours["probes"])
        self.monitor.load_state_dict(ours["monitor"])
        if not self.monitored:
            self.monitor.abandon()
        self.engine.trial = self.monitor.trial(self.engine.space)
        if self.engine.closed:
            self._follow_closed()
