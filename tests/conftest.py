"""One thread and repeatable examples: the same suite gives the same result, and tiny networks run fastest so."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repeatable")
