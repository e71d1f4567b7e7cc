"""The one door to what a training has left, whoever ran its loop."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from monai_prox.errors import ProXError
from monai_prox.trained.family_file import FAMILY
from monai_prox.trained.source import Trained


def host_of(path: Path) -> Literal["nnunet", "monai"]:
    """The host whose training wrote a folder. nnU-Net's model folders have plans, bundles have a family.json of their own.

    Args:
        path: the folder. A folder of neither kind counts as nnU-Net's, whose reader reports what is missing.
    """
    has_family = any((path / place / FAMILY).is_file() for place in ("models", ".", "configs"))
    return "monai" if has_family and not (path / "plans.json").is_file() else "nnunet"


def open_trained(path: Path, *, fold: str | None = None, dataset: Path | None = None, checkpoint: str | None = None) -> Trained:
    """The trained family in an nnU-Net model folder or in a bundle.

    Args:
        path: the folder.
        fold: fold of an nnU-Net model, such as "fold_0". None means the first finished one.
        dataset: images and labels. None means nnUNet_raw. For bundles a Decathlon task, for classifiers the scans.
        checkpoint: checkpoint of an nnU-Net model, "best" or "latest". None means the final one.

    Raises:
        ProXError: there is no trained family.

    >>> open_trained(Path("nowhere"))
    Traceback (most recent call last):
    monai_prox.errors.ProXError: there is no folder nowhere
    """
    if not path.is_dir():
        raise ProXError(f"there is no folder {path}")
    if (path / "plans.json").is_file():
        from monai_prox.trained.nnunet_source import TrainedNNUNet

        return TrainedNNUNet.open(path, fold=fold, dataset=dataset, checkpoint=checkpoint or "final")
    if fold is not None or checkpoint is not None:
        raise ProXError(f"--{'fold' if checkpoint is None else 'checkpoint'} is for nnU-Net's model folders, {path} is none")
    from monai_prox.trained.bundle_folder import TrainedBundle
    from monai_prox.trained.bundle_source import TrainedClassifier, TrainedSegmenter

    bundle = TrainedBundle.open(path)
    return (TrainedClassifier if bundle.classifies else TrainedSegmenter)(bundle, dataset)
