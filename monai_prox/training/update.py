"""From gradients to an update of the weights: unscaled, clipped, and skipped if they are not finite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from monai_prox.core.distributed import gather
from monai_prox.errors import ProXError
from monai_prox.training.engine import Step

LIMIT = 10  # skipped updates


class _Batch(NamedTuple):
    x: Tensor
    losses: tuple[Tensor, ...]  # of its members
    cases: Sequence[str]


class _Fault(NamedTuple):
    """A batch with a loss that is not finite."""

    loss: float
    cases: list[str]


class Updates:
    """The updates of one training, each from one batch or, if gradients are accumulated, from several.

    An update with gradients that are not finite is skipped: weights and the optimizer's state do not change, and ``log`` gets a
    line with the cases of the batches whose loss was not finite. The training ends with a ProXError after ``limit`` such
    updates with one case, or ``limit`` skipped updates in a row. An overflow of scaled gradients is not counted, because the
    scaler lowers its scale then. All ranks of a distributed training skip and end at the same updates.

    Args:
        parameters: the weights in the optimizer.
        max_norm: norm that gradients are clipped to. None means no clipping.
        limit: number of updates, see above.
        log: called with a line of text.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        max_norm: float | None = None,
        limit: int = LIMIT,
        log: Callable[[str], object],
    ) -> None:
        self.parameters, self.max_norm, self.limit, self.log = list(parameters), max_norm, limit, log
        self.skipped = 0
        self._in_a_row = 0
        self._by_case: Counter[str] = Counter()
        self._batches: list[_Batch] = []

    def add(self, x: Tensor, step: Step, cases: Sequence[str]) -> None:
        """Notes a batch whose gradients are part of the next update.

        Args:
            x: (B, C, *spatial).
            step: what the engine returned for the batch.
            cases: B names.
        """
        self._batches.append(_Batch(x, step.losses, cases))

    def __call__(self, optimizer: Optimizer, scaler: GradScaler | None = None) -> bool:
        """Updates the weights.

        Args:
            optimizer: the optimizer.
            scaler: the scaler of the gradients, or None.

        Returns:
            Whether the update took place.

        Raises:
            ProXError: too many updates did not take place.
        """
        batches, self._batches = self._batches, []
        if scaler is not None:
            scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, inf if self.max_norm is None else self.max_norm)
        if finite := bool(norm.isfinite()):
            self._in_a_row = 0
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
        else:
            self._skip(batches, overflow_expected=scaler is not None and scaler.get_scale() >= 1)
        if scaler is not None:
            scaler.update()
        return finite

    def _skip(self, batches: list[_Batch], *, overflow_expected: bool) -> None:
        # Gradients are averaged over the ranks, so they are finite in all ranks or in none
        own_faults = [fault for batch in batches if (fault := _fault(batch))]
        faults = [fault for rank_faults in gather(own_faults) for fault in rank_faults]
        if overflow_expected and not faults:
            return
        self.skipped += 1
        self._in_a_row += 1
        for fault in faults:
            self._by_case.update(fault.cases)
        description = "; ".join(f"the loss is {fault.loss} with {', '.join(fault.cases)}" for fault in faults)
        self.log(f"ProX skips an update, {self.skipped} so far: {description or 'gradients are not finite'}")
        for case, count in self._by_case.most_common(1):
            if count >= self.limit:
                raise ProXError(
                    f"the loss was not finite in {count} updates with the case {case}; look in its images for values that are "
                    "not finite or far off, mend the case or leave it out, and continue"
                )
        if self._in_a_row >= self.limit:
            raise ProXError(
                f"{self._in_a_row} updates in a row had gradients that are not finite: the training has diverged; continue "
                "from an earlier checkpoint or start anew, with a lower learning rate"
            )


def _fault(batch: _Batch) -> _Fault | None:
    losses: list[float] = torch.stack(batch.losses).tolist()
    not_finite = [loss for loss in losses if not isfinite(loss)]
    if not not_finite:
        return None
    finite_images = batch.x.flatten(1).isfinite().all(1).tolist()
    faulty = [case for case, finite in zip(batch.cases, finite_images, strict=True) if not finite]
    return _Fault(not_finite[0], sorted(set(faulty or batch.cases)))  # faulty images are the cause, if there are any
