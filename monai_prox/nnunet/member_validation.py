"""An epoch's validation batches, evaluated with several members."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from nnunetv2.utilities.collate_outputs import collate_outputs

from monai_prox.core.distributed import gather
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member, SuperNet
from monai_prox.nnunet import case_dice
from monai_prox.runtime.dice import mean_dice

COUNTED = ("tp_hard", "fp_hard", "fn_hard")  # in what nnU-Net's validation_step returns
Evaluated = dict[str, Any]  # what it returns


class MemberValidation:
    """The members that one validation of nnU-Net evaluates.

    largest: whose evaluation is nnU-Net's own. watched: by name, whose pseudo Dice is wanted. compared: whose Dice by case the
    monitor wants. All ranks have the same.
    """

    def __init__(
        self, supernet: SuperNet, largest: Subnet, watched: Mapping[str, Subnet], compared: Collection[Subnet] = ()
    ) -> None:
        self.largest, self.watched, self.compared = largest, watched, compared
        self._members = {
            subnet: supernet.member(subnet).eval() for subnet in dict.fromkeys([*watched.values(), largest, *compared])
        }
        self.outputs: dict[str, list[Evaluated]] = {name: [] for name in watched}
        self._counts: dict[Subnet, case_dice.Counts] = {subnet: {} for subnet in compared}

    def step(
        self,
        batch: dict[str, Any],
        evaluate: Callable[[Member, dict[str, Any]], Evaluated],
        evaluate_sample: Callable[[Member, dict[str, Any], int], Evaluated],
    ) -> Evaluated:
        """What ``evaluate`` finds of the largest member in ``batch``. evaluate_sample: the same of one sample, by its index."""
        subnets = dict.fromkeys([*self.watched.values(), self.largest])  # in one order on all ranks
        results = {subnet: evaluate(self._members[subnet], batch) for subnet in subnets}
        for name, subnet in self.watched.items():
            self.outputs[name].append(results[subnet])
        for subnet, counts in self._counts.items():
            for index, case in enumerate(batch.get("keys", ())):
                case_dice.add(counts, str(case), evaluate_sample(self._members[subnet], batch, index))
        return results[self.largest]

    def pseudo_dice(self) -> dict[str, float]:
        """Of the watched members, over the batches of all ranks."""
        return {name: pseudo_dice(outputs) for name, outputs in self.outputs.items()}

    def dice_by_case(self) -> dict[Subnet, dict[str, float]]:
        """Of the compared members, over the samples of all ranks, so that all decide alike."""
        if not self._counts:
            return {}
        parts = gather(self._counts)
        return {subnet: case_dice.dice_by_case(part[subnet] for part in parts) for subnet in self._counts}


def pseudo_dice(outputs: list[Evaluated]) -> float:
    """nnU-Net's mean over classes of all batches of all ranks; NaN where there is no class that occurs or is predicted."""
    collated = collate_outputs(outputs)
    return mean_dice(np.sum(gather(np.stack([np.sum(collated[key], 0) for key in COUNTED])), 0))
