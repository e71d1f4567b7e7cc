"""A member of any trained family, ready to be written as a bundle."""

from __future__ import annotations

from pathlib import Path

from monai_prox.export.bundle import Exportable, write_bundle
from monai_prox.trained.source import Trained


def write_member(source: Trained, which: str, output: Path, *, overwrite: bool = False) -> Path:
    """Writes a member as a bundle: of a pipeline as that pipeline's own, of others as a new one.

    Args:
        source: the trained family.
        which: a member's name, or a JSON file with a subnet.
        output: folder of the bundle.
        overwrite: whether an existing folder is replaced.

    Returns:
        ``output``.

    Raises:
        ProXError: see ``write_bundle`` and ``write_pipeline``.
    """
    from monai_prox.trained.pipeline_source import TrainedPipeline

    if isinstance(source, TrainedPipeline):
        from monai_prox.export.pipeline_bundle import write_pipeline

        return write_pipeline(source, which, output, overwrite=overwrite)
    return write_bundle(exportable(source, which), output, overwrite=overwrite)


def exportable(source: Trained, which: str) -> Exportable:
    """The member ``which``, a name of family.json or a JSON file with a subnet.

    Raises ProXError for an unknown or illegal member, and for what MONAI's transforms cannot repeat.
    """
    if "nnunet" in source.formats:  # nnU-Net may be missing otherwise
        from monai_prox.export.from_nnunet import prediction_of
        from monai_prox.trained.nnunet_source import TrainedNNUNet

        assert isinstance(source, TrainedNNUNet)
        return prediction_of(source, which)
    from monai_prox.export.from_bundle import member_of

    return member_of(source, which)
