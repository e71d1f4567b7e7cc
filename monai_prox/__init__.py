"""Once-for-all supernets for nnU-Net and MONAI, trained by progressive expansion."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monai_prox.errors import ProXError
from monai_prox.requirements import warn_of_unsupported

if TYPE_CHECKING:
    from monai_prox.core.space import SearchSpace, Slot, Subnet
    from monai_prox.core.supernet import SuperNet
    from monai_prox.training.schedule import Schedule, Stage, prox, prox_paper

__version__ = "0.1.0"
__all__ = ["ProXError", "Schedule", "SearchSpace", "Slot", "Stage", "Subnet", "SuperNet", "prox", "prox_paper"]

warn_of_unsupported()


def __getattr__(name: str) -> Any:
    """Imported at first use: where ``monai_prox.runtime`` predicts there may be no torch."""
    places = {"SearchSpace": "space", "Slot": "space", "Subnet": "space", "SuperNet": "supernet"}
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{places.get(name, 'schedule')}"), name)
