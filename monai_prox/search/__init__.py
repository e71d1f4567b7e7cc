"""Search for the members of a trained family that fit a device. Results are tables, plots and a page."""
