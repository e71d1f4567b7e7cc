"""nnU-Net's validation of several members after an epoch, on batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.collate_outputs import collate_outputs
from torch import nn

from monai_prox.core.distributed import gather
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member, SuperNet
from monai_prox.nnunet import case_dice
from monai_prox.runtime.dice import mean_dice

COUNTED = ("tp_hard", "fp_hard", "fn_hard")  # keys of Evaluated
Evaluated = dict[str, Any]  # a result of nnU-Net's validation_step


@contextmanager
def evaluating(trainer: Any, **attributes: Any) -> Iterator[None]:
    """Replaces attributes of a trainer within the context, because nnU-Net's evaluation uses the trainer's network and folder.

    Args:
        trainer: a ProXTrainer.
        attributes: values by name.
    """
    former = {name: getattr(trainer, name) for name in attributes}
    vars(trainer).update(attributes)
    try:
        yield
    finally:
        vars(trainer).update(former)


class MemberValidation:
    """The validation of members after an epoch. The largest open member is always evaluated, as nnU-Net's own network.

    Args:
        trainer: a ProXTrainer.
        named: named members whose pseudo Dice is computed, the same in all ranks.
        compared: members whose Dice by case is computed for the monitor, the same in all ranks.
    """

    def __init__(self, trainer: Any, named: Mapping[str, Subnet], compared: Collection[Subnet] = ()) -> None:
        self.trainer, self.named, self.compared = trainer, named, compared
        self.largest = trainer.engine.space.largest()
        subnets = dict.fromkeys([*named.values(), self.largest, *compared])
        self._networks = {subnet: member_of(trainer.supernet, subnet).eval() for subnet in subnets}
        self.outputs: dict[str, list[Evaluated]] = {name: [] for name in named}
        self._counts: dict[Subnet, case_dice.Counts] = {subnet: {} for subnet in compared}

    def step(self, batch: dict[str, Any], validation_step: Callable[[dict[str, Any]], Evaluated]) -> Evaluated:
        """Evaluates the members on a batch.

        Args:
            batch: nnU-Net's batch.
            validation_step: nnU-Net's step.

        Returns:
            The result of the largest member.
        """
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
        """Evaluates one sample without a loss, which under DDP would wait for as many samples in the other ranks."""
        sample, target = slice(index, index + 1), batch["target"]
        targets = [t[sample] for t in target] if isinstance(target, list) else target[sample]
        with evaluating(self.trainer, loss=lambda *_: torch.zeros(())):
            return self._evaluate(validation_step, network, {"data": batch["data"][sample], "target": targets})

    def end(self) -> None:
        """Frees the memory of the members' copies. What was counted stays."""
        self._networks.clear()

    def pseudo_dice(self) -> dict[str, float]:
        """The pseudo Dice of the named members, over the batches of all ranks."""
        return {name: pseudo_dice(outputs) for name, outputs in self.outputs.items()}

    def dice_by_case(self) -> dict[Subnet, dict[str, float]]:
        """The Dice by case of the compared members, over the samples of all ranks, so that all ranks decide alike."""
        if not self._counts:
            return {}
        parts = gather(self._counts)
        return {subnet: case_dice.dice_by_case(part[subnet] for part in parts) for subnet in self._counts}


def member_of(supernet: SuperNet, subnet: Subnet) -> Member:
    """A member for evaluation: a copy, or if it is the family's largest, the supernet's own network.

    Args:
        supernet: the supernet.
        subnet: the member, which is open.
    """
    family = supernet.family
    return Member(family, subnet, supernet.network) if subnet == family.space.largest() else supernet.member(subnet)


def pseudo_dice(outputs: list[Evaluated]) -> float:
    """nnU-Net's mean Dice over classes, for all batches of all ranks. NaN if no class occurs or is predicted.

    Args:
        outputs: results of nnU-Net's step for the batches of this rank.
    """
    collated = collate_outputs(outputs)
    return mean_dice(np.sum(gather(np.stack([np.sum(collated[key], 0) for key in COUNTED])), 0))
