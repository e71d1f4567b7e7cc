"""Distances between a student's and a teacher's logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the logits, as in ProX.

    Args:
        student: logits (B, C, *spatial).
        teacher: logits (B, C, *spatial).
    """
    return F.mse_loss(student, teacher)


def kl(student: Tensor, teacher: Tensor, *, exclusive: bool = True) -> Tensor:
    """Mean Kullback-Leibler divergence from the teacher's to the student's probabilities, per voxel, in nats.

    Args:
        student: logits (B, C, *spatial).
        teacher: logits (B, C, *spatial).
        exclusive: whether a voxel has one class (softmax). False for overlapping regions, with a sigmoid per channel. The
            divergences of the channels are summed.
    """
    if exclusive:
        log_p, log_q = F.log_softmax(teacher, 1), F.log_softmax(student, 1)
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()
    p = teacher.sigmoid()
    positive = p * (F.logsigmoid(teacher) - F.logsigmoid(student))
    negative = (1 - p) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (positive + negative).sum(1).mean()
