"""What a training has left, whoever ran its loop: one door to it, and the files that it consists of."""
