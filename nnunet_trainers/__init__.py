"""Trainers for nnU-Net to find: a package inside nnU-Net's own after installation, else a folder for nnUNet_extTrainer."""
