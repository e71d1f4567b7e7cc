"""What nnU-Net sees of us. Nothing in the core imports this package."""
