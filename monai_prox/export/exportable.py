"""A member of any trained family, ready to be written as a bundle."""

from __future__ import annotations

from monai_prox.export.bundle import Exportable
from monai_prox.trained.source import Trained


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
