"""Once-for-all supernets for nnU-Net and MONAI, trained by progressive expansion.

Every name that users and bundles' configurations need is here or in ``monai_prox.bundle``; ``__init__.pyi`` lists them. They
are imported at first use: where ``monai_prox.runtime`` predicts there may be no torch. Deeper modules are private by
convention.
"""

import lazy_loader

from monai_prox.requirements import warn_of_unsupported

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

warn_of_unsupported()
