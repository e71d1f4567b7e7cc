"""Methods of other trainings that recipes may use: channels in order of importance, and learned transforms of kernels."""
