"""Once-for-all supernets for nnU-Net and MONAI, trained by progressive expansion."""

from monai_prox.errors import ProXError
from monai_prox.schedule import Schedule, Stage, prox, prox_paper
from monai_prox.space import SearchSpace, Slot, Subnet
from monai_prox.supernet import SuperNet

__version__ = "0.1.0"
__all__ = ["ProXError", "Schedule", "SearchSpace", "Slot", "Stage", "Subnet", "SuperNet", "prox", "prox_paper"]
