"""Batch norms of several processes compute what one does with their batches in one."""

from copy import deepcopy

import pytest
import torch
from helpers.ranks import in_threads
from torch import Tensor, nn

from monai_prox.core.batch_norm import synchronise


def test_the_statistics_are_those_of_all_values_of_a_channel() -> None:
    """Of 1 and 3 here and 5 and 7 there: mean 4, sum of squares 20, unbiased variance 20 / 3."""
    norms = [synchronise(nn.BatchNorm1d(1, momentum=1.0, eps=0.0)) for _ in range(2)]
    parts = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]])
    outputs = torch.cat(in_threads(2, lambda rank: norms[rank](parts[rank])))
    torch.testing.assert_close(outputs.flatten(), torch.tensor([-3.0, -1.0, 1.0, 3.0]) / 5**0.5)
    for norm in norms:
        assert norm.running_mean.item() == 4 and norm.running_var.item() == pytest.approx(20 / 3)
        assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_parts_of_a_batch_are_normed_as_the_whole_is(momentum: float | None, settings: dict[str, bool]) -> None:
    """In two batches, one after another: outputs, gradients and running statistics."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, momentum=momentum, **settings)
    alone = nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Conv2d(3, 1, 3)).double()
    if norm.affine:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    ranks = [synchronise(deepcopy(alone)) for _ in range(2)]
    batches = torch.randn(2, 6, 2, 9, 8, dtype=torch.float64) * 3 + 1

    def train(network: nn.Module, part: slice) -> Tensor:
        outputs = [network(batch[part]) for batch in batches]
        torch.stack(outputs).square().mean().backward()
        return torch.cat(outputs)

    first, second = in_threads(2, lambda rank: train(ranks[rank], slice(3 * rank, 3 * rank + 3)))
    whole = train(alone, slice(6))
    torch.testing.assert_close(torch.cat([first[:3], second[:3], first[3:], second[3:]]), whole)
    for one, other, wanted in zip(*(network.parameters() for network in (*ranks, alone)), strict=True):
        torch.testing.assert_close((one.grad + other.grad) / 2, wanted.grad)
    for rank in ranks:
        torch.testing.assert_close(dict(rank.named_buffers()), dict(alone.named_buffers()))


def test_in_prediction_and_in_one_process_nothing_changes() -> None:
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(2) for _ in range(3)]
    batch = torch.randn(8, 2)
    for norm in norms:
        norm(batch)
    *ranks, alone = [norm.eval() for norm in norms]
    outputs = in_threads(2, lambda rank: synchronise(ranks[rank])(batch[rank::2]))
    for rank in range(2):
        assert torch.equal(outputs[rank], alone(batch[rank::2]))
    assert torch.equal(synchronise(ranks[0].train())(batch), alone.train()(batch))
