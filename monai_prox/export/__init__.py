"""Members as models that run without this package: nnU-Net model folders and MONAI bundles."""
