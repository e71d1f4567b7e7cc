"""Data for bundles: Decathlon tasks, retinal scans, plans for both, and synthetic images of both."""
