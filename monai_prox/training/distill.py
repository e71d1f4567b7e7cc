"""Distances between a student's and a teacher's logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the logits, as in ProX. Both (B, C, *spatial) -> scalar."""
    return F.mse_loss(student, teacher)


def kl(student: Tensor, teacher: Tensor, *, exclusive: bool = True) -> Tensor:
    """Mean Kullback-Leibler divergence from the teacher's to the student's probabilities, per voxel, in nats.

    student, teacher: logits (B, C, *spatial). exclusive: classes exclude each other (softmax); False for overlapping regions
    (a sigmoid per channel, whose divergences are summed). Zero exactly where both agree.
    """
    if exclusive:
        log_p, log_q = F.log_softmax(teacher, 1), F.log_softmax(student, 1)
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()
    p = teacher.sigmoid()
    positive = p * (F.logsigmoid(teacher) - F.logsigmoid(student))
    negative = (1 - p) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (positive + negative).sum(1).mean()
