"""What bundles are trained on: Decathlon tasks, retinal scans, their plans, and phantoms of both."""
