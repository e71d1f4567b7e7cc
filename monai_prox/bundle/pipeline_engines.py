"""The trainer and the evaluator of somebody's own pipeline, once it trains a family."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from monai.engines import SupervisedEvaluator
from torch.optim import Optimizer

from monai_prox.bundle.pipeline import ProXPipeline, members_handlers
from monai_prox.bundle.trainer import SupernetTrainer


class PipelineTrainer(SupernetTrainer):
    """A SupernetTrainer with the arguments of the pipeline's SupervisedTrainer.

    Args:
        prox: what trains the family.
        optimizer: the pipeline's optimizer.
        train_handlers: the pipeline's handlers, see ``ProXPipeline.handlers``.
        supervised: further arguments of SupernetTrainer.

    Raises:
        ProXError: see ``SupernetTrainer`` and ``ProXPipeline.handlers``.
    """

    def __init__(
        self, prox: ProXPipeline, *, optimizer: Optimizer, train_handlers: Iterable[Any] | None = None, **supervised: Any
    ) -> None:
        handlers = prox.handlers(train_handlers, optimizer)
        super().__init__(prox.engine, optimizer=optimizer, train_handlers=handlers, **supervised)


class PipelineEvaluator(SupervisedEvaluator):  # type: ignore[misc]
    """MONAI's SupervisedEvaluator, which runs once for every named member.

    Args:
        val_handlers: the pipeline's handlers. Those that log are left out, because the trainer's log the metrics of all
            members, and those that save or stop by the score of one network.
        supervised: further arguments of SupervisedEvaluator.
    """

    def __init__(self, *, val_handlers: Iterable[Any] | None = None, **supervised: Any) -> None:
        super().__init__(val_handlers=members_handlers(val_handlers), **supervised)
