"""The one door to what a training has left, whoever ran its loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.trained.family_file import FAMILY
from monai_prox.trained.source import Trained


def open_trained(
    path: Path, *, fold: str | Sequence[str] | None = None, dataset: Path | None = None, checkpoint: str | None = None
) -> Trained:
    """The trained family in an nnU-Net model folder or in a bundle.

    A model folder of stock nnU-Net is a family of one.

    Args:
        path: the folder.
        fold: fold of an nnU-Net model, such as "fold_0", or several, whose logits are averaged, or "fold_every" for all that
            have a number. None means all finished ones, of which the first is used for networks.
        dataset: images and labels. None means nnUNet_raw. For bundles a Decathlon task, for classifiers the scans.
        checkpoint: checkpoint of an nnU-Net model, "best" or "latest". None means the final one.

    Raises:
        ProXError: there is no trained family, or the fold or the checkpoint is missing.

    >>> open_trained(Path("nowhere"))
    Traceback (most recent call last):
    monai_prox.errors.ProXError: there is no folder nowhere
    """
    if not path.is_dir():
        raise ProXError(f"there is no folder {path}")
    if (path / "plans.json").is_file():
        from monai_prox.trained.nnunet_source import TrainedNNUNet

        return TrainedNNUNet.open(path, fold=fold, dataset=dataset, checkpoint=checkpoint or "final")
    if not any((path / place / FAMILY).is_file() for place in ("models", ".", "configs")):
        raise ProXError(
            f"{path} is no bundle of a supernet, nor its models: there is no {FAMILY}, which training writes; and it is not a "
            "trained model folder: it has no plans.json, expected e.g. "
            "nnUNet_results/Dataset004_Hippocampus/ProXTrainer__nnUNetPlans__3d_fullres"
        )
    if fold:
        raise ProXError(f"--fold is for nnU-Net's model folders; {path} is a bundle, which has one training")
    if checkpoint is not None:
        raise ProXError(f"--checkpoint is for nnU-Net's model folders; {path} is a bundle, which has one model")
    from monai_prox.trained.bundle_folder import TrainedBundle
    from monai_prox.trained.bundles import SOURCES

    bundle = TrainedBundle.open(path)
    return SOURCES[bundle.plan.kind](bundle, dataset)
