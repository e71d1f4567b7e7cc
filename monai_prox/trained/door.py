"""The one door to what a training has left, whoever ran its loop."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from monai_prox.errors import ProXError
from monai_prox.trained.family_file import FAMILY
from monai_prox.trained.source import Trained


def host_of(path: Path) -> Literal["nnunet", "monai"]:
    """Whose training left ``path``: nnU-Net's model folders have plans, bundles a family.json of their own.

    What is neither is taken for a model folder, whose reader says what it lacks.
    """
    has_family = any((path / place / FAMILY).is_file() for place in ("models", ".", "configs"))
    return "monai" if has_family and not (path / "plans.json").is_file() else "nnunet"


def open_trained(path: Path, *, fold: str | None = None, dataset: Path | None = None, checkpoint: str | None = None) -> Trained:
    """The family that ProXTrainer left in a model folder, or that a bundle's training left in the bundle.

    fold: of an nnU-Net model, such as "fold_0", the first finished one if None. dataset: images and labels, in nnUNet_raw where
    it is None, for bundles a Decathlon task, for classifiers the scans. checkpoint: of an nnU-Net model, "best" or "latest";
    the final one if None. Raises ProXError where there is no trained family.
    """
    if not path.is_dir():
        raise ProXError(f"there is no folder {path}")
    if (path / "plans.json").is_file():
        from monai_prox.trained.nnunet_source import TrainedNNUNet

        return TrainedNNUNet.open(path, fold=fold, dataset=dataset, checkpoint=checkpoint or "final")
    if fold is not None or checkpoint is not None:
        raise ProXError(f"--{'fold' if checkpoint is None else 'checkpoint'} is for nnU-Net's model folders, {path} is none")
    from monai_prox.trained.bundle_folder import TrainedBundle
    from monai_prox.trained.bundle_source import SOURCES

    bundle = TrainedBundle.open(path)
    return SOURCES[bundle.kind.name](bundle, dataset)
