"""``python -m monai_prox``."""

from monai_prox.cli.app import main

if __name__ == "__main__":
    main()
