"""Updates: clipped, scaled, and skipped where gradients are not finite."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from helpers.equality import equal
from helpers.ranks import in_threads
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW

from monai_prox.core.distributed import average
from monai_prox.errors import ProXError
from monai_prox.training.engine import Step
from monai_prox.training.update import Updates

NAN, INF = float("nan"), float("inf")
HUGE = 1e30  # its square is not finite in float32
CASES = ("case_a", "case_b")


class Training:
    """A linear network, whose loss is the mean of its squared outputs."""

    def __init__(self, *, scale: float | None = None, **settings: Any) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(3, 2)
        self.optimizer = AdamW(self.network.parameters(), 0.1)
        self.scaler = None if scale is None else GradScaler("cpu", init_scale=scale)
        self.log: list[str] = []
        self.updates = Updates(self.network.parameters(), log=self.log.append, **settings)

    def add(self, x: Tensor, cases: Sequence[str] = CASES) -> None:
        loss = self.network(x).square().mean()
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        self.updates.add(x, Step(loss.detach(), x, (torch.zeros(()), loss.detach())), cases)

    def step(self, *values: float, cases: Sequence[str] = CASES) -> bool:
        """On a batch with an image of each value; whether its update took place."""
        self.optimizer.zero_grad()
        self.add(torch.tensor(values)[:, None].expand(-1, 3), cases)
        return self.updates(self.optimizer, self.scaler)

    def state(self) -> dict[str, Any]:
        return deepcopy({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()["state"]})


@pytest.mark.parametrize("max_norm", [None, 0.01, 1000.0])
@pytest.mark.parametrize("scale", [None, 8.0])
def test_a_finite_update_is_the_optimizer_s_own(max_norm: float | None, scale: float | None) -> None:
    run, plain = Training(max_norm=max_norm, scale=scale), Training()
    for value in (1.0, 2.0):
        assert run.step(value, 3.0)
        plain.optimizer.zero_grad()
        plain.add(torch.tensor([[value] * 3, [3.0] * 3]))
        if max_norm is not None:
            nn.utils.clip_grad_norm_(plain.network.parameters(), max_norm)
        plain.optimizer.step()
    assert equal(run.state(), plain.state())
    assert run.updates.skipped == 0 and not run.log


@pytest.mark.parametrize("value", [NAN, INF, -INF, HUGE])
@pytest.mark.parametrize("scale", [None, 8.0])
def test_what_is_not_finite_changes_nothing_and_is_counted(value: float, scale: float | None) -> None:
    run = Training(scale=scale)
    run.step(1.0, 2.0)
    before = run.state()
    assert not run.step(1.0, value)
    assert equal(run.state(), before)
    assert run.updates.skipped == 1
    assert len(run.log) == 1 and "1 so far" in run.log[0]
    assert run.step(1.0, 2.0)
    assert not equal(run.state(), before)


def test_an_image_that_is_not_finite_is_to_blame_alone() -> None:
    run = Training()
    run.step(1.0, NAN)
    assert "the loss is nan with case_b" in run.log[0] and "case_a" not in run.log[0]


def test_where_all_images_are_finite_any_may_be_to_blame() -> None:
    run = Training()
    run.step(1.0, HUGE)
    assert "the loss is inf with case_a, case_b" in run.log[0]


def test_of_accumulated_batches_the_wrong_one_is_named() -> None:
    run = Training()
    run.add(torch.ones(1, 3), ["case_a"])
    run.add(torch.full((1, 3), NAN), ["case_b"])
    assert not run.updates(run.optimizer)
    assert "with case_b" in run.log[0] and "case_a" not in run.log[0]
    run.step(1.0, NAN, cases=("case_c", "case_d"))
    assert "case_b" not in run.log[1]


def test_a_case_that_is_wrong_again_and_again_ends_the_training() -> None:
    run = Training(limit=3)
    for other in ("case_c", "case_d"):
        run.step(HUGE, 1.0, cases=("case_b", other))
        assert run.step(1.0, 2.0)
    before = run.state()
    with pytest.raises(ProXError, match=re.escape("not finite in 3 updates with the case case_b; look in its images")):
        run.step(HUGE, 1.0, cases=("case_b", "case_e"))
    assert equal(run.state(), before)


def test_a_training_that_has_diverged_ends() -> None:
    run = Training(limit=3)
    for number in (1, 2, 4, 5):
        run.step(NAN, cases=[f"case_{number}"])
        if number == 2:
            assert run.step(1.0, 2.0)  # not in a row
    with pytest.raises(ProXError, match=r"3 updates in a row .* diverged"):
        run.step(NAN, cases=["case_6"])


def test_gradients_that_are_not_finite_under_a_finite_loss_count() -> None:
    run = Training()
    run.network.weight.register_hook(lambda gradient: gradient * INF)
    assert not run.step(1.0, 2.0)
    assert "gradients are not finite" in run.log[0] and run.updates.skipped == 1


def test_an_overflow_of_the_scale_is_the_scaler_s_affair() -> None:
    """However often it takes to find a scale."""
    run = Training(scale=2.0**126, limit=3)
    before = run.state()
    skipped = 0
    while not run.step(4.0, 8.0):
        skipped += 1
    assert skipped >= 3
    assert not equal(run.state(), before)
    assert run.updates.skipped == 0 and not run.log


def test_what_no_scale_can_explain_counts() -> None:
    run = Training(scale=1.0, limit=3)
    run.network.weight.register_hook(lambda gradient: gradient * INF)
    assert not run.step(1.0, 2.0) and run.updates.skipped == 0  # a scale of 1 could still be too large
    run.step(1.0, 2.0)
    run.step(1.0, 2.0)
    assert run.updates.skipped == 2
    with pytest.raises(ProXError, match="diverged"):
        run.step(1.0, 2.0)


def test_ranks_skip_and_end_alike() -> None:
    """The second rank's case is wrong, and the first one names it."""
    runs = [Training(limit=2) for _ in range(2)]

    def train(rank: int) -> dict[str, Any]:
        run, errors = runs[rank], []
        before = run.state()
        for step in range(2):
            run.optimizer.zero_grad()
            run.add(torch.full((1, 3), NAN if rank == 1 else 1.0), [f"case_{step if rank == 0 else 'b'}"])
            for parameter in run.network.parameters():
                average(parameter.grad)
            try:
                run.updates(run.optimizer)
            except ProXError as error:
                errors.append(str(error))
        return {"log": run.log, "errors": errors, "unchanged": equal(run.state(), before)}

    first, second = in_threads(2, train)
    assert first == second and first["unchanged"]
    assert len(first["log"]) == 2 and all("with case_b" in line for line in first["log"])
    assert len(first["errors"]) == 1 and "2 updates with the case case_b" in first["errors"][0]
