"""MONAI bundles: what their configuration files name beside MONAI's own components, imported at first use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
