"""A family that nnU-Net trains shortly, for benchmarks of what comes after a training."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders import build
from monai_prox.nnunet.variants import ProXTrainerAdam
from monai_prox.trained.nnunet_folder import FINAL

EPOCHS = 20
LATEST = "checkpoint_latest.pth"


def trained(folder: Path, plan: str, *, steps: int, seed: int) -> Path:
    """The model folder of a family."""

    class ProXTrainerQuality(ProXTrainerAdam):
        epochs = EPOCHS
        iterations_per_epoch = max(1, steps // EPOCHS)
        validation_iterations_per_epoch = 1
        validation_interval = EPOCHS
        monitored = False

    ProXTrainerQuality.seed = seed
    trainer = build(ProXTrainerQuality, folder, plan)
    trainer.save_every = 2
    fold = Path(trainer.output_folder)
    if not (fold / FINAL).is_file():
        if (fold / LATEST).is_file():
            trainer.load_checkpoint(str(fold / LATEST))
        trainer.run_training()
    return fold.parent
