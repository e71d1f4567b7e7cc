"""MONAI bundles: what their configuration files name beside MONAI's own components."""
