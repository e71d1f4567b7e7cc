"""How many updates a training by an nnU-Net plan makes with each batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from monai_prox.trained.nnunet_plans import members_per_batch_of
from monai_prox.training.updates_per_batch import FILL, UpdatesPerBatch


def updates_of(trainer: Any, configuration: Mapping[str, Any], stages: int) -> UpdatesPerBatch:
    """The updates with each batch that a plan's configuration asks for, or else the trainer's ``members_per_batch``.

    If that is "fill", and the trainer's device has no idle time to fill, a line in the log says why.

    Args:
        trainer: a ProXTrainer.
        configuration: the configuration with what it inherits.
        stages: number of stages of the schedule.

    Raises:
        ProXError: what is asked for is not a number of updates.
    """
    asked = members_per_batch_of(configuration, trainer.members_per_batch)
    reason = _nothing_to_fill(trainer.device) if asked == FILL else None
    if reason is not None:
        trainer.print_to_log_file(f"members_per_batch is {FILL!r}, but each batch trains one member: {reason}")
    return UpdatesPerBatch(asked, stages, measures=reason is None)


def _nothing_to_fill(device: torch.device) -> str | None:
    """Why updates do not fit into the time in which a batch is loaded, or None if they do."""
    if device.type == "cpu":
        return "on a CPU the updates take the cores that load the batches"
    if get_allowed_n_proc_DA() == 0:
        return "with nnUNet_n_proc_DA=0 the process that trains loads the batches, and does not do both at once"
    return None
