"""The trainer's validation of a member, beside its exported weights, for nnU-Net's commands that compare models.

``nnUNetv2_find_best_configuration`` and the postprocessing read the segmentations, ensembles the probabilities (``.npz``), too,
and a pickle that says where an image lies. Pickles are not copied: they would execute what is in them.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.errors import ProXError, refusing
from monai_prox.files import check_inside
from monai_prox.runtime import itk_images, nifti_images
from monai_prox.trained.nnunet_folder import UNUSABLE, ModelFolder


def copy_validation(model: ModelFolder, summary: Path, target: Path) -> None:
    """The files beside ``summary``, nnU-Net's summary.json of a validation in ``model``, into the folder ``target``.

    Raises ProXError for a link out of the model folder and for a segmentation that cannot be read.
    """
    ending: str = model.dataset["file_ending"]
    shutil.copyfile(check_inside(summary, model.path), target / summary.name)
    for segmentation in sorted(path for path in summary.parent.glob(f"*{ending}") if path != summary):
        shutil.copyfile(check_inside(segmentation, model.path), target / segmentation.name)
        case = segmentation.name.removesuffix(ending)
        probabilities = summary.with_name(f"{case}.npz")
        if probabilities.is_file():
            shutil.copyfile(check_inside(probabilities, model.path), target / probabilities.name)
            (target / f"{case}.pkl").write_bytes(pickle.dumps(_place(model, segmentation)))


@refusing(UNUSABLE)
def _place(model: ModelFolder, segmentation: Path) -> dict[str, Any]:
    """What nnU-Net's reader needs of ``segmentation`` to write another one on the same grid."""
    if segmentation.name.endswith((".nii", ".nii.gz")):  # nnU-Net's readers take memory for whatever a header says
        nifti_images.opened(segmentation)
    else:
        itk_images.check_header(segmentation)
    reader = PlansManager(model.plans).image_reader_writer_class
    if not (isinstance(reader, type) and issubclass(reader, BaseReaderWriter)):
        raise ProXError(f"the plan's image_reader_writer is {model.plans['image_reader_writer']!r:.80}, which reads no images")
    _, properties = reader().read_seg(str(segmentation))
    return dict(properties)
