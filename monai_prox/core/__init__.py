"""The supernet: a stock network at its largest size, and members that are slices of it. Torch only, no host."""
