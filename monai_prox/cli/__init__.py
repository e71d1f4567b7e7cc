"""The command ``monai-prox``, a file for each group of commands."""
