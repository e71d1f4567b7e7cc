"""nnU-Net finds our trainers by their names in this file. Kept thin: it is imported in every search for a trainer."""

from monai_prox.nnunet.variants import *  # noqa: F403
