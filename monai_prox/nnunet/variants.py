"""ProXTrainer with other lengths and other recipes, in nnU-Net's manner: subclasses that set attributes."""

from monai_prox.families.unet import PAPER_CHOICES
from monai_prox.nnunet.trainer import ProXTrainer


class ProXTrainer_5epochs(ProXTrainer):
    epochs = 5


class ProXTrainer_20epochs(ProXTrainer):
    epochs = 20


class ProXTrainer_100epochs(ProXTrainer):
    epochs = 100


class ProXTrainer_250epochs(ProXTrainer):
    epochs = 250


class ProXTrainerPaper(ProXTrainer):
    """The choices and the recipe of the ProX paper."""

    recipe = "prox_paper"
    choices = PAPER_CHOICES
