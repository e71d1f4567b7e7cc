"""nnU-Net finds trainers by the names in this file. Kept thin: nnU-Net imports it whenever it looks for any trainer."""

from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.nnunet.variants import (
    ProXTrainer_5epochs,
    ProXTrainer_20epochs,
    ProXTrainer_100epochs,
    ProXTrainer_250epochs,
    ProXTrainerAdam,
    ProXTrainerDemo,
    ProXTrainerPaper,
)

__all__ = [
    "ProXTrainer",
    "ProXTrainerAdam",
    "ProXTrainerDemo",
    "ProXTrainerPaper",
    "ProXTrainer_5epochs",
    "ProXTrainer_20epochs",
    "ProXTrainer_100epochs",
    "ProXTrainer_250epochs",
]
