"""Distances between logits: values by hand, and torch.distributions as the reference."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence

from monai_prox.training.distill import kl, mse

LOG3 = log(3)  # logits (0, log 3) are probabilities (1/4, 3/4)
logits = st.lists(st.floats(-8, 8), min_size=6, max_size=6)


def two_classes(*pairs: tuple[float, float]) -> torch.Tensor:
    """(B, 2, voxels) from one pair of logits per voxel."""
    return torch.tensor(pairs, dtype=torch.double).T[None]


def test_kl_by_hand() -> None:
    """From the teacher (1/4, 3/4) to the student (1/2, 1/2): log 2 - entropy; the mean counts a second, equal voxel."""
    student, teacher = two_classes((0, 0), (0, LOG3)), two_classes((0, LOG3), (0, LOG3))
    expected = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)
    torch.testing.assert_close(kl(student, teacher), torch.tensor(expected / 2, dtype=torch.double))
    backwards = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    torch.testing.assert_close(kl(teacher, student), torch.tensor(backwards / 2, dtype=torch.double))


def test_kl_of_regions_by_hand() -> None:
    """Two channels of their own: teacher 3/4 and 1/2, student 1/2 and 1/2. Their divergences are summed."""
    student, teacher = two_classes((0, 0)), two_classes((LOG3, 0))
    expected = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    torch.testing.assert_close(kl(student, teacher, exclusive=False), torch.tensor(expected, dtype=torch.double))


def test_mse_by_hand() -> None:
    assert mse(two_classes((1, 2)), two_classes((3, 2))).item() == 2.0


def test_kl_is_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (5 * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.double) for _ in range(2))
    last = (t.movedim(1, -1) for t in (teacher, student))
    torch.testing.assert_close(kl(student, teacher), kl_divergence(*(Categorical(logits=t) for t in last)).mean())
    channels = kl_divergence(Bernoulli(logits=teacher), Bernoulli(logits=student))
    torch.testing.assert_close(kl(student, teacher, exclusive=False), channels.sum(1).mean())


@pytest.mark.parametrize("exclusive", [True, False])
@given(logits, logits)
def test_kl_is_zero_where_both_agree_and_positive_elsewhere(exclusive: bool, one: list, other: list) -> None:
    a, b = (torch.tensor(values, dtype=torch.double).reshape(1, 3, 2) for values in (one, other))
    assert kl(a, a, exclusive=exclusive).item() == 0.0
    probabilities = [t.softmax(1) if exclusive else t.sigmoid() for t in (a, b)]
    distance = kl(a, b, exclusive=exclusive).item()
    if (probabilities[0] - probabilities[1]).abs().max() > 1e-4:
        assert distance > 0
    else:
        assert distance > -1e-12


def test_softmax_kl_does_not_see_a_common_shift_and_mse_does() -> None:
    a, b = two_classes((0, LOG3)), two_classes((2, LOG3 + 2))
    torch.testing.assert_close(kl(a, b), torch.tensor(0.0, dtype=torch.double))
    assert kl(a, b, exclusive=False) > 0.1
    assert mse(a, b).item() == pytest.approx(4.0)


@pytest.mark.parametrize("exclusive", [True, False])
def test_kl_stays_finite_for_certain_teachers_and_students(exclusive: bool) -> None:
    student = torch.tensor([[[1e4], [-1e4]]], requires_grad=True)
    distance = kl(student, torch.tensor([[[-1e4], [1e4]]]), exclusive=exclusive)
    distance.backward()
    assert torch.isfinite(distance) and torch.isfinite(student.grad).all()
