"""The training of a family, in nnU-Net, MONAI or another loop: stages and recipes, the engine, the monitor."""
