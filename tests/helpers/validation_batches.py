"""Validation batches of nnU-Net's, and what its loop does with them."""

from collections.abc import Sequence
from typing import Any

import torch

PATCH = (20, 24, 20)  # leaves room for kernels of 5 at the lowest of three levels


def images(cases: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """A validation batch of random images, with targets at the resolutions of both outputs."""
    generator = torch.Generator().manual_seed(seed)
    targets = [[len(cases), 1, *(side // stride for side in PATCH)] for stride in (1, 2)]
    return {
        "data": torch.randn(len(cases), 1, *PATCH, generator=generator),
        "target": [torch.randint(3, size, generator=generator).float() for size in targets],
        "keys": list(cases),
    }


SIX = [images([f"case_{number}" for number in range(6)])]


def validate(trainer: Any, batches: Sequence[dict[str, Any]] = SIX, *, epoch: int | None = None) -> Any:
    """What nnU-Net's loop does with validation batches, after the last epoch's training if not told otherwise."""
    trainer.current_epoch = trainer.num_epochs - 1 if epoch is None else epoch
    trainer.engine.begin_epoch(trainer.current_epoch)
    for passed in range(len(trainer.logger.get_value("mean_fg_dice", None)), trainer.current_epoch):
        trainer.logger.log("mean_fg_dice", 0.0, passed)  # of which nnU-Net keeps a running mean
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        outputs = [trainer.validation_step(batch) for batch in batches]
        trainer.on_validation_epoch_end(outputs)
    return outputs
