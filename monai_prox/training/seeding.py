"""Seeds of random number generators."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_generators(*parts: int | str) -> int:
    """Seeds the global generators of Python, NumPy and torch.

    Args:
        parts: the numbers and names that the seed depends on, for example seed, epoch and rank.

    Returns:
        The seed, a number of 32 bits, for other generators.
    """
    seed = random.Random(" ".join(map(str, parts))).getrandbits(32)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
