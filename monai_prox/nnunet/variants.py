"""ProXTrainer with other lengths and other recipes, in nnU-Net's manner: subclasses that set attributes."""

from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from monai_prox.errors import ProXError
from monai_prox.families.unet_choices import PAPER_CHOICES
from monai_prox.nnunet.adoption import read_start
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.tensor_file import check_weights

__all__ = [  # what nnU-Net finds
    "ProXTrainer",
    "ProXTrainerAdam",
    "ProXTrainerAdopt",
    "ProXTrainerDemo",
    "ProXTrainerDemoQuick",
    "ProXTrainerPaper",
    "ProXTrainer_5epochs",
    "ProXTrainer_20epochs",
    "ProXTrainer_100epochs",
    "ProXTrainer_250epochs",
    "ProXTrainer_2000epochs",
    "ProgressiveShrinkingTrainer",
]


class ProXTrainer_5epochs(ProXTrainer):
    epochs = 5


class ProXTrainer_20epochs(ProXTrainer):
    epochs = 20


class ProXTrainer_100epochs(ProXTrainer):
    epochs = 100


class ProXTrainer_250epochs(ProXTrainer):
    epochs = 250


class ProXTrainer_2000epochs(ProXTrainer):
    """Less than two thirds of the work of the largest network's 1000 epochs."""

    epochs = 2000


class ProXTrainerPaper(ProXTrainer):
    """The choices and the recipe of the ProX paper."""

    recipe = "prox_paper"
    choices = PAPER_CHOICES


class ProgressiveShrinkingTrainer(ProXTrainer):
    """Once-for-all's training, to compare with."""

    recipe = "progressive_shrinking"


class ProXTrainerAdopt(ProXTrainer):
    """Makes a family of a trained network, whose weights ``monai-prox adopt`` has written.

    It takes about a quarter of the work of the network's 1000 epochs, because half of its epochs train the smallest member.
    """

    recipe = "adopt"
    epochs = 520
    learning_rate = 1e-2  # nnU-Net's own: with a quarter of it small members learn next to nothing

    def configure_optimizers(self) -> tuple[Any, Any]:
        self.initial_lr = self.learning_rate
        return super().configure_optimizers()  # type: ignore[no-any-return]

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch == 0:
            self._load_start()  # before loader processes start, which an error would leave behind
        super().on_train_start()

    def _load_start(self) -> None:
        if self.engine.pretrained:
            raise ProXError(
                f"{type(self).__name__} begins with the weights that monai-prox adopt has written; -pretrained_weights would "
                "leave the output layers out, so leave it out"
            )
        folder, plans = Path(self.preprocessed_dataset_folder_base), self.plans_manager.plans
        start = read_start(folder, plans, self.configuration_name, self.fold, self.do_split()[1])
        check_weights(start, self.supernet.network, "the weights that monai-prox adopt has written")
        self.supernet.network.load_state_dict(start)


class ProXTrainerAdam(ProXTrainer):
    """AdamW for short trainings, a few hundred steps: nnU-Net's momentum of 0.99 needs thousands."""

    learning_rate = 4e-3

    def configure_optimizers(self) -> tuple[Any, Any]:
        self.initial_lr = self.learning_rate
        parameters = self.network.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)


class ProXTrainerDemo(ProXTrainerAdam):
    """Minutes on two CPU cores, for ``monai-prox demo``. It does not mirror in prediction, which takes eight times as long."""

    epochs = 12
    iterations_per_epoch = 80
    validation_iterations_per_epoch = 5
    validation_interval = 4
    monitored = False  # too short to judge by

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802
        configured = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return configured


class ProXTrainerDemoQuick(ProXTrainerDemo):
    """As short as there are stages: it learns nothing, and no member is validated."""

    epochs = 5
    iterations_per_epoch = 2
    validation_iterations_per_epoch = 1

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        self.print_to_log_file(f"{type(self).__name__} validates nothing: it has learnt nothing")
