"""Randomness that a seed repeats."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_generators(*parts: int | str) -> int:
    """Seeds Python's, NumPy's and torch's global generators by a function of ``parts``, e.g. seed, epoch and rank.

    Returns the seed, of 32 bits, for generators of other kinds.
    """
    seed = random.Random(" ".join(map(str, parts))).getrandbits(32)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
