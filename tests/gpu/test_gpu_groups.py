"""Processes that train together, with NCCL on GPUs: two of them if there are two GPUs, else one."""

from typing import Any

import pytest
import torch
from helpers.architectures import batch
from helpers.devices import SLOW_ON_CPU
from helpers.engines import engine_of
from helpers.equality import assert_equal
from helpers.ranks import together
from torch.optim import SGD

from monai_prox.core.distributed import average, broadcast, gather, rank, world_size
from monai_prox.training.recipes import RECIPES

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

CLOSE = {"rtol": 1e-6, "atol": 1e-8}  # in double precision: sums of another order


def train(number: int, of: int, kind: str) -> dict[str, Any]:
    """An epoch of two steps in each stage, on the process's part of every batch."""
    torch.set_default_dtype(torch.float64)
    device = torch.device(kind, number) if kind == "cuda" else torch.device(kind)
    engine = engine_of(RECIPES["prox"].stages, weights=number)
    supernet = engine.supernet.to(device)
    broadcast(supernet)
    optimizer = SGD(supernet.parameters(), 0.01, momentum=0.9)
    engine.guard(optimizer)
    losses = []
    for epoch in range(engine.schedule.epochs):
        engine.begin_epoch(epoch)
        for step in range(2):
            optimizer.zero_grad(set_to_none=True)
            part = slice(number * 4 // of, (number + 1) * 4 // of)
            x, target = (tensor[part].to(device) for tensor in batch(100 * epoch + step, size=4))
            losses.append(engine.step(x, target, epoch=epoch, step=step).loss)
            optimizer.step()
    mean = average(torch.full((), float(number), device=device)).item() if torch.distributed.is_initialized() else None
    return {
        "ranks": gather((rank(), world_size())),
        "mean": mean,
        "losses": torch.stack(losses).cpu(),
        "weights": {name: weight.cpu() for name, weight in supernet.state_dict().items()},
    }


@SLOW_ON_CPU
def test_a_group_trains_as_one_process_does(device: torch.device) -> None:
    count, backend = (min(2, torch.cuda.device_count()), "nccl") if device.type == "cuda" else (2, "gloo")
    (alone,) = together(1, train, 1, device.type)
    group = together(count, train, count, device.type, backend=backend)
    for process in group:
        assert process["ranks"] == [(number, count) for number in range(count)]
        assert process["mean"] == (count - 1) / 2
        assert_equal(process["weights"], group[0]["weights"])
    torch.testing.assert_close(group[0]["weights"], alone["weights"], **CLOSE)
    torch.testing.assert_close(sum(process["losses"] for process in group) / count, alone["losses"], **CLOSE)
