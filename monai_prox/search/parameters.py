"""Members as parameters of Optuna: one for each slot with several choices, the rank of the choice."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, IntDistribution

from monai_prox.core.space import SearchSpace, Subnet


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The parameters that a member has.

    Args:
        space: the search space.
    """
    return {
        f"{dimension} {index}": IntDistribution(0, len(slot.choices) - 1)
        for dimension, slots in space.dimensions.items()
        for index, slot in enumerate(slots)
        if len(slot.choices) > 1
    }


def ranks_of(parameters: Mapping[str, int], space: SearchSpace) -> dict[str, list[int]]:
    """The ranks of a member's choices by dimension.

    Args:
        parameters: the member's parameters.
        space: the search space.
    """
    return {
        dimension: [parameters.get(f"{dimension} {index}", 0) for index in range(len(slots))]
        for dimension, slots in space.dimensions.items()
    }


def parameters_of(subnet: Subnet, space: SearchSpace) -> dict[str, int]:
    """The parameters of a member.

    Args:
        subnet: the member.
        space: the search space.
    """
    ranks, known = space.ranks(subnet), distributions(space)
    named = {f"{dimension} {index}": rank for dimension, indices in ranks.items() for index, rank in enumerate(indices)}
    return {name: rank for name, rank in named.items() if name in known}
