"""nnU-Net's validations, of several members: within an epoch on batches, and at the end on whole cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.collate_outputs import collate_outputs
from torch import nn

from monai_prox.core.distributed import gather
from monai_prox.core.space import Subnet
from monai_prox.nnunet import case_dice
from monai_prox.runtime.dice import mean_dice

COUNTED = ("tp_hard", "fp_hard", "fn_hard")  # in what nnU-Net's validation_step returns
Evaluated = dict[str, Any]  # what it returns


@contextmanager
def evaluating(trainer: Any, **attributes: Any) -> Iterator[None]:
    """Gives ``trainer`` other attributes for a while, for nnU-Net's evaluation takes its network and folder from there."""
    own = {name: getattr(trainer, name) for name in attributes}
    vars(trainer).update(attributes)
    try:
        yield
    finally:
        vars(trainer).update(own)


class MemberValidation:
    """The members that one validation of an epoch evaluates.

    trainer: a ProXTrainer. named: by name, the members whose pseudo Dice is wanted. compared: those whose Dice by case the
    monitor wants. All ranks have the same. The largest open member is evaluated anyway, as nnU-Net's own network.
    """

    def __init__(self, trainer: Any, named: Mapping[str, Subnet], compared: Collection[Subnet] = ()) -> None:
        self.trainer, self.named, self.compared = trainer, named, compared
        self.largest = trainer.engine.space.largest()
        subnets = dict.fromkeys([*named.values(), self.largest, *compared])
        self._networks = {subnet: trainer.supernet.member(subnet).eval() for subnet in subnets}
        self.outputs: dict[str, list[Evaluated]] = {name: [] for name in named}
        self._counts: dict[Subnet, case_dice.Counts] = {subnet: {} for subnet in compared}

    def step(self, batch: dict[str, Any], validation_step: Callable[[dict[str, Any]], Evaluated]) -> Evaluated:
        """What nnU-Net's ``validation_step`` finds of the largest member in ``batch``."""
        subnets = dict.fromkeys([*self.named.values(), self.largest])  # in one order on all ranks
        results = {subnet: self._evaluate(validation_step, self._networks[subnet], batch) for subnet in subnets}
        for name, subnet in self.named.items():
            self.outputs[name].append(results[subnet])
        for subnet, counts in self._counts.items():
            for index, case in enumerate(batch.get("keys", ())):
                evaluated = self._evaluate_sample(validation_step, self._networks[subnet], batch, index)
                case_dice.add(counts, str(case), evaluated)
        return results[self.largest]

    def _evaluate(
        self, validation_step: Callable[[dict[str, Any]], Evaluated], network: nn.Module, batch: dict[str, Any]
    ) -> Evaluated:
        target = batch["target"]  # nnU-Net's step overwrites ignored voxels in place
        target = [t.clone() for t in target] if isinstance(target, list) else target.clone()
        with evaluating(self.trainer, network=network):
            return validation_step({**batch, "target": target})

    def _evaluate_sample(
        self, validation_step: Callable[[dict[str, Any]], Evaluated], network: nn.Module, batch: dict[str, Any], index: int
    ) -> Evaluated:
        """Of one sample of a batch, without a loss, which under DDP would wait for as many samples from the other ranks."""
        sample, target = slice(index, index + 1), batch["target"]
        targets = [t[sample] for t in target] if isinstance(target, list) else target[sample]
        with evaluating(self.trainer, loss=lambda *_: torch.zeros(())):
            return self._evaluate(validation_step, network, {"data": batch["data"][sample], "target": targets})

    def pseudo_dice(self) -> dict[str, float]:
        """Of the named members, over the batches of all ranks."""
        return {name: pseudo_dice(outputs) for name, outputs in self.outputs.items()}

    def dice_by_case(self) -> dict[Subnet, dict[str, float]]:
        """Of the compared members, over the samples of all ranks, so that all decide alike."""
        if not self._counts:
            return {}
        parts = gather(self._counts)
        return {subnet: case_dice.dice_by_case(part[subnet] for part in parts) for subnet in self._counts}


def pseudo_dice(outputs: list[Evaluated]) -> float:
    """nnU-Net's mean over classes of all batches of all ranks; NaN if there is no class that occurs or is predicted."""
    collated = collate_outputs(outputs)
    return mean_dice(np.sum(gather(np.stack([np.sum(collated[key], 0) for key in COUNTED])), 0))


def validate_members(trainer: Any, validate: Callable[[], None]) -> None:
    """Runs nnU-Net's final validation, ``validate``, of every named member but the largest, in ``members/NAME``."""
    configuration = trainer.configuration_manager.configuration
    next_stage = configuration.pop("next_stage", None)  # a cascade goes on from the largest alone
    for name, subnet in trainer.named_members.items():
        if name != "largest":
            trainer.print_to_log_file(f"Validation of the member {name}")
            folder = os.path.join(trainer.output_folder, "members", name)
            with evaluating(trainer, network=trainer.supernet.member(subnet), output_folder=folder):
                validate()
    if next_stage is not None:
        configuration["next_stage"] = next_stage
